#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Prints the path of a tar file with a minimal Debian root file system, which
# it makes once and then keeps. Guests have no network: call it before one
# is started.
#
# usage: tests/lib/rootfs.sh
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/dm-qcow
# shellcheck disable=SC1091
suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-stable}")
tar=$cache/rootfs-$suite-$(dpkg --print-architecture).tar

# The machine's own package sources: they are known to work here.
sources() {
	local f
	for f in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
		if [ -s "$f" ]; then
			printf '%s\n' "$f"
			return
		fi
	done
}

make_rootfs() {
	local log=$tar.log from
	echo "rootfs: making a minimal Debian root file system (once)" >&2
	mapfile -t from < <(sources)
	if ! mmdebstrap --format=tar --variant=minbase \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' \
		"$suite" "$tar.part" "${from[@]}" >"$log" 2>&1 </dev/null; then
		grep '^E: ' "$log" | sed -E 's#https?://[^ ]+#(mirror)#g' >&2
		echo "rootfs: mmdebstrap failed" >&2
		rm -f "$tar.part"
		return 1
	fi
	mv "$tar.part" "$tar"
	rm -f "$log"
}

mkdir -p "$cache"
exec 9>"$cache/.lock"
flock 9
[ -s "$tar" ] || make_rootfs
printf '%s\n' "$tar"
