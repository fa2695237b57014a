# kukeon-reconciler: `make` lists what there is. Everything lands below bin/; nothing but hack/install-deps.sh and
# `make install` touches the host.

PREFIX       ?= /usr/local
UNITDIR      ?= /lib/systemd/system
DEMO_SECONDS ?=
# VERSION is what `kukeon-reconciler version` says.
VERSION      ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

BINARY    := bin/kukeon-reconciler
TOOLS     := bin/tools
GOLANGCI  := $(TOOLS)/golangci-lint
# What make test-race looks at: the packages that decide, and the ones with goroutines of their own.
RACE_PKGS := ./manifests/... ./internal/... ./controllers/...
# Without cgo the same source gives the same binary on every host, with or without a C compiler. The version comes
# from git describe, so go need not ask git itself (which refuses in a checkout of somebody else).
GO_STATIC := CGO_ENABLED=0 GOFLAGS=-buildvcs=false go

.DEFAULT_GOAL := help

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/kukeon-reconciler
	$(GO_STATIC) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BINARY) ./cmd/kukeon-reconciler

.PHONY: test
test: deps-test tools build ## everything: unit and integration tests, end-to-end on containerd 2.4 and on 1.6
	go test -p 2 -timeout 20m $$(go list ./... | grep -v /test/e2e)
	CONTAINERD_VERSION=2.4 go test ./test/e2e/... -count=1 -timeout 20m -ginkgo.label-filter='!crash && !chaos'
	CONTAINERD_VERSION=1.6 go test ./test/e2e/... -count=1 -timeout 20m -ginkgo.label-filter='!crash && !chaos'

.PHONY: test-unit
test-unit: ## the tests that need neither root nor a containerd
	go test -short $$(go list ./... | grep -v -e /test/ -e /internal/testenv)

.PHONY: test-race
test-race: deps-test tools ## the unit and integration tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -short -timeout 20m $(RACE_PKGS)

.PHONY: e2e
e2e: deps-test tools build ## the end-to-end tests; CONTAINERD_VERSION=2.4, 1.7 or 1.6
	$(if $(filter 1.7%,$(CONTAINERD_VERSION)),$(MAKE) tools-1.7)
	go test ./test/e2e/... -count=1 -timeout 20m -ginkgo.label-filter='!crash && !chaos'

.PHONY: crash
crash: deps-test tools ## break every write of every scenario once (CONTAINERD_VERSION, KINDS=reply-lost,kill-us-after,...)
	$(if $(filter 1.7%,$(CONTAINERD_VERSION)),$(MAKE) tools-1.7)
	rm -rf bin/crash-failures
	go test -c -o bin/crash.test ./test/e2e
	cd test/e2e && ../../bin/crash.test -test.timeout 60m -ginkgo.no-color -ginkgo.label-filter=crash \
		-crash.kinds "$(KINDS)" -crash.scenarios "$(SCENARIOS)" -crash.write $(or $(WRITE),0) -crash.keep ../../bin/crash-failures

.PHONY: simulate
simulate: ## play N=100000 random histories of faults on the whole controller, in fake time (RACE=1: 20000 with -race)
	CGO_ENABLED=$(if $(RACE),1,0) go test $(if $(RACE),-race) -count=1 -v -timeout 3h -run '^TestSimulate$$' ./test/simulate \
		-args -histories $(or $(N),$(if $(RACE),20000,100000)) -seed $(or $(SEED),1)

.PHONY: chaos soak
chaos: deps-test tools ## MINUTES=10 of random faults on five realms, then a look at everything (SEED, CONTAINERD_VERSION)
	$(if $(filter 1.7%,$(CONTAINERD_VERSION)),$(MAKE) tools-1.7)
	go test -c -o bin/chaos.test ./test/e2e
	cd test/e2e && ../../bin/chaos.test -test.timeout $$(( $(or $(MINUTES),10) + 30 ))m \
		-ginkgo.no-color -ginkgo.label-filter=chaos -chaos.minutes $(or $(MINUTES),10) -chaos.seed $(or $(SEED),0)
soak: ## the same for MINUTES=120
	$(MAKE) chaos MINUTES=$(or $(MINUTES),120)

.PHONY: seeded
seeded: deps-test tools ## put small bugs into a copy of the product, one by one, and name the test that catches each (RUN=lease: some)
	go run ./test/seeded -run '$(RUN)' -rungs '$(RUNGS)' -histories $(or $(HISTORIES),1500)

.PHONY: intake
intake: deps-test tools ## throw N=10000 bad manifests and as many path attacks at everything before containerd (SEED=1)
	go test -c -o bin/intake.test ./test/intake
	cd test/intake && ../../bin/intake.test -test.timeout 3h -manifests $(or $(N),10000) -seed $(or $(SEED),1)

.PHONY: fuzz
fuzz: ## fuzz each of the three native targets for FUZZTIME=60s
	go test -run '^$$' -fuzz '^FuzzDecode$$' -fuzztime $(or $(FUZZTIME),60s) -fuzzminimizetime 10x ./manifests
	go test -run '^$$' -fuzz '^FuzzDirectory$$' -fuzztime $(or $(FUZZTIME),60s) -fuzzminimizetime 10x ./internal/source
	go test -run '^$$' -fuzz '^FuzzStore$$' -fuzztime $(or $(FUZZTIME),60s) -fuzzminimizetime 10x ./internal/store

.PHONY: traces
traces: deps-test tools ## play N=500 random API traces on the fake and on a real daemon alike; CONTAINERD_VERSION=2.4, 1.7 or 1.6
	$(if $(filter 1.7%,$(CONTAINERD_VERSION)),$(MAKE) tools-1.7)
	CONTAINERD_VERSION=$(or $(CONTAINERD_VERSION),2.4) go test -count=1 -v -timeout 1h ./internal/tracetest \
		-args -traces $(or $(N),500) -seed $(or $(SEED),1)

.PHONY: prove
prove: ## the whole safety net at full size, on containerd 2.4, 1.7 and 1.6: some two hours on two cores (ONLY=crash: some)
	@hack/prove.sh $(ONLY)

.PHONY: bench
bench: deps tools build ## measure speed and size against the floor, as a table
	go run ./test/bench

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint on the whole tree
	$(GOLANGCI) run ./...

.PHONY: verify
verify: ## gofmt, go vet, go.mod, import rules, generated files: all as they should be
	@files=$$(git ls-files '*.go' | xargs gofmt -l); [ -z "$$files" ] || { echo "gofmt -w $$files" >&2; exit 1; }
	go vet ./...
	go mod tidy -diff
	go test -count=1 ./internal/archtest
	go run ./hack/gendocs -check

.PHONY: demo
demo: deps tools build ## two realms on a private containerd, live; Ctrl-C ends it (DEMO_SECONDS=20: by itself)
	@DEMO_SECONDS=$(DEMO_SECONDS) hack/demo.sh

.PHONY: install
install: build ## install the binary and both systemd units (DESTDIR, PREFIX, UNITDIR)
	hack/install.sh "$(DESTDIR)" "$(PREFIX)" "$(UNITDIR)"

.PHONY: clean
clean: ## remove bin/
	rm -rf bin

.PHONY: deps deps-test
deps:
	@hack/install-deps.sh
deps-test:
	@hack/install-deps.sh test

# Tools have modules of their own, so that the product's go.mod stays short, and one each, so that none of them
# shifts another one's dependencies: what is built here is what their makers release.
CONTAINERD := containerd containerd-shim-runc-v2 ctr

.PHONY: tools tools-1.7
tools: $(CONTAINERD:%=$(TOOLS)/%) ## build containerd 2.4 and ctr into bin/tools (once)
tools-1.7: $(CONTAINERD:%=$(TOOLS)/1.7/%)

$(TOOLS)/1.7/%: hack/tools/containerd17/go.mod
	@mkdir -p $(@D)
	$(GO_STATIC) build -C hack/tools/containerd17 -ldflags '-s -w' -o $(abspath $@) github.com/containerd/containerd/cmd/$*

$(GOLANGCI): hack/tools/golangci/go.mod
	@mkdir -p $(@D)
	$(GO_STATIC) build -C hack/tools/golangci -ldflags '-s -w' -o $(abspath $@) \
		github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(TOOLS)/%: hack/tools/go.mod
	@mkdir -p $(@D)
	$(GO_STATIC) build -C hack/tools -ldflags '-s -w' -o $(abspath $@) github.com/containerd/containerd/v2/cmd/$*
