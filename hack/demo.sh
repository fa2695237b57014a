#!/bin/bash
# What `make demo` runs once everything is built. DEMO_SECONDS=20 ends it by itself; else Ctrl-C does.
set -euo pipefail
cd "$(dirname "$0")/.."
go build -o bin/demo ./hack/demo
exec bin/demo ${DEMO_SECONDS:+-seconds "$DEMO_SECONDS"}
