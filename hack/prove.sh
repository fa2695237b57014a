#!/bin/bash
# The whole safety net at full size, as `make prove` runs it: some two hours on two cores. Each step's output is kept below
# bin/prove; what is printed is one line per step, with the step's own last line. It exits 1 when a step failed.
#
#   hack/prove.sh              everything
#   hack/prove.sh traces       the steps whose name contains that
#
# What has a limit of time of its own runs first and alone. Then two lanes run side by side: one computes, and one mostly waits
# for containerd.
set -uo pipefail
cd "$(dirname "$0")/.."
out=bin/prove
mkdir -p "$out"
only=${1:-}
versions=(2.4 1.7 1.6)

# step NAME ARGUMENT...: runs make with the arguments, and says how it ended.
step() {
	local name=$1 began=$SECONDS result=ok
	shift
	[[ $name == *"$only"* ]] || return 0
	make "$@" >"$out/$name.log" 2>&1 || result=FAILED
	printf '%-14s %-6s %5d s  %s\n' "$name" "$result" $((SECONDS - began)) "$(tail -n 1 "$out/$name.log")"
	[ "$result" = ok ]
}

timed() {
	local failed=0
	step simulate simulate N=100000 || failed=1
	step seeded seeded || failed=1
	step intake intake N=10000 || failed=1
	return $failed
}

computing() {
	local failed=0
	step simulate-race simulate RACE=1 N=20000 || failed=1
	step fuzz fuzz FUZZTIME=60s || failed=1
	step seeded-alone seeded RUNGS=simulation HISTORIES=20000 || failed=1
	return $failed
}

waiting() {
	local failed=0 v chaos=()
	for v in "${versions[@]}"; do
		step "traces-$v" traces N=500 CONTAINERD_VERSION="$v" || failed=1
		step "crash-$v" crash CONTAINERD_VERSION="$v" || failed=1
	done
	for v in "${versions[@]}"; do # side by side: what disturbs the others is welcome
		step "chaos-$v" chaos MINUTES=10 CONTAINERD_VERSION="$v" &
		chaos+=($!)
	done
	for v in "${chaos[@]}"; do
		wait "$v" || failed=1
	done
	return $failed
}

make deps-test tools tools-1.7 build >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
echo "$(date -u +%F) $(git describe --always --dirty) on $(nproc) cores, Linux $(uname -r)"
failed=0
timed || failed=1
computing &
lane=$!
waiting || failed=1
wait $lane || failed=1
exit $failed
