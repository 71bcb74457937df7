#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Does what DKMS does when a kernel is installed: adds this tree, builds the
# module for a release, installs it below a folder of our own. Nothing of the
# machine's own DKMS is touched.
#
# usage: tests/dkms.sh KVER
set -euo pipefail

kver=$1
cd "$(dirname "$(readlink -f "$0")")/.."
if ! compgen -G 'kernel/dm-qcow/*.c' >/dev/null; then
	echo "no module"
	exit 4
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/tree" "$tmp/install"

value() { sed -n "s/^$1=\"\(.*\)\"/\1/p" dkms.conf; }
name=$(value PACKAGE_NAME)
version=$(value PACKAGE_VERSION)

make -s dkms-source DESTDIR="$tmp"

run_dkms() {
	dkms "$@" --dkmstree "$tmp/tree" --sourcetree "$tmp/usr/src" \
		--installtree "$tmp/install" -k "$kver" >"$tmp/log" 2>&1 || {
		cat "$tmp/log"
		cat "$tmp/tree/$name/$version/build/make.log" || :
		exit 1
	}
}

run_dkms add "$name/$version"
run_dkms build "$name/$version"
log=$tmp/tree/$name/$version/$kver/$(uname -m)/log/make.log
if grep -i 'warning:' "$log"; then
	exit 1
fi
ko=$(find "$tmp/tree/$name/$version/$kver" -name 'dm-qcow.ko*')
[ -n "$ko" ] || { echo "dkms built no module"; exit 1; }
built_for=$(modinfo -F vermagic "$ko")
[ "${built_for%% *}" = "$kver" ] || { echo "built for $built_for"; exit 1; }

# A kernel that the module may not build for is left alone.
sed -n 's/^BUILD_EXCLUSIVE_KERNEL="\(.*\)"/\1/p' dkms.conf >"$tmp/exclusive"
for other in 5.10.0-30-amd64 4.19.0-1-amd64 6.0.1 6.13.1 7.0.0; do
	if grep -q -E -f "$tmp/exclusive" <<<"$other"; then
		echo "BUILD_EXCLUSIVE_KERNEL lets $other in"
		exit 1
	fi
done
for ours in "$kver" 6.1.0-18-amd64 6.12.1+deb12-amd64 6.10.3; do
	if ! grep -q -E -f "$tmp/exclusive" <<<"$ours"; then
		echo "BUILD_EXCLUSIVE_KERNEL keeps $ours out"
		exit 1
	fi
done
