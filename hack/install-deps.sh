#!/bin/bash
# Installs what the demo and the tests need and this host lacks. Silent when nothing is missing.
#
#   hack/install-deps.sh        what running containers needs: runc, iptables, CNI plugins, a static busybox
#   hack/install-deps.sh test   and Debian's containerd 1.6 for the second round of end-to-end tests
#
# containerd 1.6 is unpacked below bin/tools/1.6 and never installed: its package would start a service, and would
# push out a containerd.io or docker that the host lives on.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "install-deps: $*" >&2; }

# have COMMAND: looks where Debian puts daemons' commands too, since a plain user's PATH may lack them.
have() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null; }

packages=()
have runc || packages+=(runc)
have iptables || packages+=(iptables)
[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || packages+=(containernetworking-plugins)
{ [ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1; } || packages+=(busybox-static)

old=bin/tools/1.6
want_old=false
[ "${1:-}" = test ] && [ ! -x "$old/ctr" ] && want_old=true

if [ ${#packages[@]} -eq 0 ] && ! $want_old; then
	exit 0
fi

needs="runc, iptables, the CNI plugins and a static /bin/busybox"
if ! have apt-get || ! have dpkg; then
	say "this host is not a Debian. Please install: $needs"
	$want_old && say "and put containerd, containerd-shim-runc-v2 and ctr of containerd 1.6 into $old"
	exit 1
fi
if [ ${#packages[@]} -gt 0 ] && [ "$(id -u)" -ne 0 ]; then
	say "please run as root: apt-get install ${packages[*]}"
	exit 1
fi

export DEBIAN_FRONTEND=noninteractive
updated=false
update() {
	$updated || [ "$(id -u)" -ne 0 ] || { say "apt-get update"; apt-get update -qq </dev/null >&2; }
	updated=true
}

if [ ${#packages[@]} -gt 0 ]; then
	update
	say "apt-get install ${packages[*]}"
	apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2
fi

if $want_old; then
	temp=$(mktemp -d)
	trap 'rm -rf "$temp"' EXIT
	# apt drops to the user _apt, who has to be able to write here.
	chmod 777 "$temp"
	say "unpacking Debian's containerd into $old"
	download() { (cd "$temp" && apt-get download -qq containerd </dev/null >&2); }
	download || { update; download; }
	dpkg -x "$temp"/containerd_*.deb "$temp/root"
	version=$("$temp/root/usr/bin/containerd" --version | awk '{print $3}')
	case $version in
	1.6.*) ;;
	*)
		say "this Debian has containerd $version; the tests want 1.6 (Debian 12). Put its binaries into $old"
		exit 1
		;;
	esac
	mkdir -p "$old"
	# ctr goes last: its presence says that all are there.
	for binary in containerd containerd-shim-runc-v2 ctr; do
		install -m 0755 "$temp/root/usr/bin/$binary" "$old/"
	done
fi
