#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The daemon's part is killed between any two steps of attaching and
# detaching: the next one clears up, and the image ends clean.
#
# requires: qemu-img gcc strace
# timeout: 900
# once: 6.1
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

# Killed at the N-th CALL of the main thread. 1: it got through.
killed_at() {
	cp base.qcow2 disk.qcow2
	{
		strace -f -qq -o trace -e signal=none -e "trace=$1" \
			-e "inject=$1:signal=KILL:when=$2" "$tool" \
			"attach disk $dir/disk.qcow2" \
			"sh $write of=/dev/mapper/disk" detach
		[ $? = 137 ]
	} >log 2>&1
}

each() {
	local n=0
	while n=$((n + 1)); killed_at "$1" $n; do
		"$tool" adopt detach >log 2>&1
		t "killed at $1 $n: the next daemon attaches" \
			steps "attach disk $dir/disk.qcow2" detach ||
			{ note <log; note "$output"; }
		t "killed at $1 $n: nothing is left" nothing_left
		t "killed at $1 $n: the image is clean" clean disk.qcow2
	done
	note "$1: $((n - 1)) places"
}

write="dd if=/dev/urandom bs=1M count=4 oflag=direct status=none"
build_tool
mkimg base 64M >/dev/null
each sendto
each ioctl
done_testing
