#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Detaching a device in use changes nothing and names who uses it.
#
# requires: qemu-img gcc mkfs.ext4 unshare
# once: 6.1
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

dev=/dev/mapper/disk

# held NAME REGEX COMMAND UNDO: while COMMAND's effect lasts
held() {
	t "$1" steps "adopt disk" "sh $3" "fails detach" \
		"sh dd if=$dev of=/dev/null bs=4k count=1 iflag=direct status=none" \
		"sh $4" abandon
	like "$output" "busy: device \"disk\" is in use: $2" "it is named"
}

build_tool
image=$(mkimg disk 64M)
mkdir -p "mount point" other
orphan "attach disk $image"
mkfs.ext4 -q $dev
held "a mount" "mounted on .*/mount point" "mount $dev 'mount point'" \
	"umount 'mount point'"
held "an open file" "opened by sleep \(pid" \
	"exec sleep 1000 <$dev >/dev/null 2>&1 & echo \$! >pid; sleep 0.3" \
	"kill \$(cat pid)"
held "device-mapper" "used by device top" \
	"dmsetup create top --table '0 1000 linear $dev 0'" \
	"dmsetup remove --retry top"
held "a loop device" "used by /dev/loop" "losetup /dev/loop99 $dev" \
	"losetup -d /dev/loop99"
held "a mount elsewhere" "mounted on .* mount namespace of" \
	"unshare -m sh -c 'mount $dev other && echo \$\$ >pid && exec sleep 1000' >/dev/null 2>&1 &
	while ! test -s pid || ! grep -q $dev /proc/\$(cat pid)/mounts; do sleep 0.1; done" \
	"kill \$(cat pid); while test -e /proc/\$(cat pid); do sleep 0.1; done"
mkswap -q $dev 2>/dev/null
held "swap" "swap space" "swapon $dev" "swapoff $dev"
t "then it goes" steps "adopt disk" "wait scanned" detach
t "the image is clean" clean "$image"
t "nothing is left" nothing_left

t "an image on a mounted device" bash -c "mkfs.ext4 -q -F ${VM_DISKS%% *} 64M &&
	mount ${VM_DISKS%% *} other &&
	qemu-img create -q -f qcow2 $dir/head 64M &&
	dd if=$dir/head of=${VM_DISKS%% *} conv=notrunc oflag=direct bs=64k count=4 status=none"
t "is refused" steps "fails attach disk ${VM_DISKS%% *}"
like "$output" "busy: .* is in use: mounted on $dir/other" "the mount is named"
umount other
done_testing
