#!/bin/sh
# Installs what the demo and the tests need and this machine lacks, from the system's own packages.
set -eu

missing=

# want COMMAND PACKAGE
want() {
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

PATH=$PATH:/usr/sbin:/sbin
case $(uname -s) in
Linux)
	[ -e /etc/ssl/certs ] || missing="$missing ca-certificates" # Go downloads modules
	want nft nftables
	want zstd zstd
	want xz xz-utils
	# A dynamically linked busybox does not run in an image that holds nothing else.
	if ! busybox 2>/dev/null | grep -q 'BusyBox' || ldd "$(command -v busybox)" >/dev/null 2>&1; then
		missing="$missing busybox-static"
	fi
	# ZFS in the kernel is better; without it, ZFS in user space will do.
	if ! { [ -e /dev/zfs ] && command -v zfs >/dev/null 2>&1; }; then
		want zfs-fuse zfs-fuse
	fi
	[ -z "$missing" ] && exit
	if ! command -v apt-get >/dev/null 2>&1; then
		echo "please install, by the names Debian has for them:$missing" >&2
		exit 1
	fi
	echo "installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	# shellcheck disable=SC2086 # a list
	if ! { apt-get -q update && apt-get -q install -y --no-install-recommends $missing; } >"$log" 2>&1; then
		cat "$log" >&2
		exit 1
	fi
	# The package starts a daemon for the whole machine, which nobody asked for.
	case $missing in
	*zfs-fuse*) service zfs-fuse stop >/dev/null 2>&1 || true ;;
	esac
	;;
FreeBSD)
	want zstd zstd
	[ -z "$missing" ] && exit
	echo "installing$missing"
	# shellcheck disable=SC2086 # a list
	env ASSUME_ALWAYS_YES=yes pkg install -q $missing
	;;
*)
	echo "the driver runs on FreeBSD and Linux, not on $(uname -s)" >&2
	exit 1
	;;
esac
