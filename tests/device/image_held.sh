#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# blkctl image and attached images: what can goes through the daemon, the rest
# names the device, also that of a block device, and without a daemon.
#
# requires: qemu-img jq
# timeout: 240
# once: 6.12
. "$(dirname "$0")/../lib.sh"

size() { blockdev --getsize64 "/dev/mapper/$1"; }

files() {
	local base image
	base=$(mkimg base 32M)
	image=$(mkimg disk 32M -b "$base" -F qcow2)
	ln -s "$image" link
	t "create" blkctl create disk "$image"
	dd if=/dev/urandom of=/dev/mapper/disk bs=1M count=2 oflag=direct 2>/dev/null
	t "resize of the image" blkctl image resize link 48M
	is "$(size disk)" $((48 << 20)) "is one of the device"
	is "$(blkctl image info --json "$image" | jq '.image."virtual-size"')" \
		$((48 << 20)) "info reads it"
	t_rc 1 "a snapshot is refused" blkctl image snapshot -c x link
	like "$output" "in use by device 'disk' \(node 'disk'\)" "by the device's name"
	like "$output" "hint: blkctl remove disk" "and a hint"
	t_rc 1 "so is a map" blkctl image map "$image"
	like "$output" "or -U to read it" "unless with -U"
	t "with -U" blkctl image map -U "$image"
	t_rc 1 "the base cannot be written" blkctl image resize "$base" 64M
	like "$output" "in use by device 'disk', whose node 'disk' has it below" \
		"by the device's name"
	t "remove" blkctl remove disk
	t "the image is clean" check_image "$image"
	t "and free" blkctl image resize -q "$image" 50M
}

no_daemon() {
	local image
	image=$(mkimg orphan 32M)
	t "create" blkctl create orphan "$image"
	kill_daemon
	t_rc 1 "without a daemon nothing is changed" \
		blkctl image resize "$image" 64M
	like "$output" "in use by the kernel's device 'orphan'" "the device is named"
	start_daemon
	t "the next daemon does it" blkctl image resize "$image" 64M
	is "$(size orphan)" $((64 << 20)) "the device is larger"
	t "remove" blkctl remove orphan
	t "the image is clean" check_image "$image"
}

block_device() {
	local disk=${VM_DISKS%% *} node=$dir/node
	[ -n "$disk" ] || { skip "block devices" "no disk"; return; }
	qemu-img create -q -f qcow2 "$disk" 32M
	# shellcheck disable=SC2046
	mknod "$node" b $(stat -c '0x%t 0x%T' "$disk")
	t "create on a block device" blkctl create bdev "$disk"
	t_rc 1 "it is held" blkctl image compact "$disk"
	like "$output" "in use by device 'bdev'" "by name"
	t_rc 1 "also by another node of it" blkctl image snapshot -c x "$node"
	like "$output" "in use by device 'bdev'" "by name"
	t "resize by that node" blkctl image resize "$node" 40M
	is "$(size bdev)" $((40 << 20)) "is one of the device"
	t "remove" blkctl remove bdev
	t "the image is clean" qemu-img check -q "$disk"
	t "and free" blkctl image snapshot -c x "$node"
	mkfs.ext4 -q "$disk" && mkdir m && mount "$disk" m
	t_rc 1 "a mounted device is not written" blkctl image create -f qcow2 "$disk" 1G
	like "$output" "mounted" "and why"
	umount m
}

start_daemon
files
no_daemon
block_device
done_testing
