#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The host runs full: writes that need space wait, reads go on; space comes
# back and they end well. Without it they fail after the timeout.
#
# requires: qemu-img gcc mkfs.ext4
# timeout: 300
# once: 6.1
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

disk=${VM_DISKS%% *}
write="dd if=/dev/zero bs=1M oflag=direct"

build_tool
mkfs.ext4 -q -F "$disk" 200M
mount_at "$disk" "$dir/small"
image=$dir/small/disk.qcow2
qemu-img create -q -f qcow2 "$image" 1G
dd if=/dev/zero of=small/ballast bs=1M count=80 status=none
t "writes wait for space, and end well when it is back" steps \
	"attach disk $image" \
	"sh { $write of=/dev/mapper/disk count=130; echo \$? >rc; } 2>dd.log & :" \
	"wait nospace" get \
	"sh dd if=/dev/mapper/disk of=/dev/null bs=1M count=10 iflag=direct status=none" \
	"sh test ! -e rc; rm small/ballast; while ! test -e rc; do sleep 0.1; done" \
	get detach
like "$output" "granted=0 .*parked=[1-9]" "they were parked"
is "$(cat rc)" 0 "the write ended well" || note <dd.log
t "the image is clean" clean "$image"

dd if=/dev/zero of=small/ballast bs=64k status=none 2>/dev/null
t "attaching on a full host" steps "attach disk $image rw 2" \
	"sh $write of=/dev/mapper/disk count=50 conv=notrunc,fsync" \
	"sh ! $write of=/dev/mapper/disk seek=900 count=1" \
	get "sh rm small/ballast" "sleep 2500" \
	"sh $write of=/dev/mapper/disk seek=900 count=1" get detach
like "$output" "mode=1 .*error=28" "new space fails after the timeout"
like "$output" "mode=0 .*error=0 [^"$'\n'"]*"$'\n'"*$" "and is revived"
t "the image is clean then" clean "$image"
umount small

dmsetup create small --table "0 $((100 * 2048)) linear $disk 0"
defer dmsetup remove --retry small
qemu-img create -q -f qcow2 /dev/mapper/small 1G
t "a block device runs full" steps "attach disk /dev/mapper/small rw 1" \
	"sh ! $write of=/dev/mapper/disk" "wait nospace" \
	"sh $write of=/dev/mapper/disk count=50" get detach
t "the image on it is clean" clean /dev/mapper/small
done_testing
