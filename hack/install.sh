#!/bin/bash
# hack/install.sh DESTDIR PREFIX UNITDIR: installs bin/kukeon-reconciler and the systemd units. Enables nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
destdir=$1 prefix=$2 unitdir=$3
units=(kukeon-reconciler.service kukeon-reconciler-logd.service)

install -D -m 0755 bin/kukeon-reconciler "$destdir$prefix/bin/kukeon-reconciler"
for unit in "${units[@]}"; do
	install -d "$destdir$unitdir"
	sed "s|^ExecStart=/usr/local/bin/|ExecStart=$prefix/bin/|" "packaging/systemd/$unit" >"$destdir$unitdir/$unit"
	chmod 0644 "$destdir$unitdir/$unit"
done

if ! command -v systemd-analyze >/dev/null; then
	echo "no systemd-analyze here: the units are installed unverified" >&2
	exit 0
fi
if [ -z "$destdir" ]; then
	systemd-analyze verify "${units[@]/#/$unitdir/}"
	exit 0
fi
# Below a DESTDIR the units name a binary that is not there yet: verify copies that name the one just installed.
temp=$(mktemp -d)
trap 'rm -rf "$temp"' EXIT
for unit in "${units[@]}"; do
	sed "s|^ExecStart=|ExecStart=$(realpath "$destdir")|" "$destdir$unitdir/$unit" >"$temp/$unit"
done
systemd-analyze verify "$temp"/*.service
