#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Every ioctl and every netlink message of attaching and detaching fails once:
# what fails leaves nothing behind, or leaves the device as it was.
#
# requires: qemu-img gcc strace
# timeout: 900
# once: 6.12
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

# The N-th CALL of the main thread fails. 1: there is no such call.
inject() {
	cp base.qcow2 disk.qcow2
	strace -f -qq -o trace -e signal=none -e "trace=$1" \
		-e "inject=$1:error=$2:when=$3" "$tool" \
		"attach disk $dir/disk.qcow2" detach >log 2>&1
	rc=$?
	grep -q INJECTED trace
}

# After a failed detachment the device is there, and another daemon can do it.
as_it_was() {
	dmsetup info disk >/dev/null 2>&1 || return 0
	"$tool" "adopt disk" detach
}

settled() {
	nothing_left && check_image disk.qcow2 || return
	! marked disk.qcow2 ||
		{ "$tool" "attach disk $dir/disk.qcow2" detach && clean disk.qcow2; }
}

each() {
	local n=0
	while n=$((n + 1)); inject "$1" "$2" $n; do
		t "$1 $n fails: the device is as it was" as_it_was || note <log
		t "$1 $n fails: all is well afterwards" settled || note <log
		[ $rc -lt 2 ] || { not_ok "exit code $rc"; note <log; }
	done
	note "$1: $((n - 1)) places"
}

build_tool
mkimg base 64M >/dev/null
each ioctl EIO
each sendto ENOMEM
done_testing
