#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Chains as the control plane sees them: found by their headers, locked, shared,
# adopted by the next daemon, detached without a trace; internal snapshots;
# other sizes for devices that are in use.
#
# requires: qemu-img qemu-io jq mkfs.ext4 resize2fs e2fsck blockdev losetup
# timeout: 400
# once: 6.1
. "$(dirname "$0")/../lib.sh"

no_loops() { [ -z "$(losetup --list --noheadings)" ]; }
loops() { losetup --list --noheadings | wc -l; }
loops_of() { losetup --noheadings --list --associated "$1" | wc -l; }
# fill FILE OFFSET LENGTH PATTERN [FORMAT]: written by QEMU
fill() { qemu-io -f "${5-qcow2}" -c "write -P $4 $2 $3" "$1"; }
# has OFFSET LENGTH PATTERN [DEVICE]: read from the device by QEMU
has() {
	local out
	out=$(qemu-io -n -r -f raw -c "read -P $3 $1 $2" \
		"${4-/dev/mapper/disk}" 2>&1)
	echo "$out"
	[[ $out = *ops* && $out != *failed* ]]
}
overlay() { qemu-img create -q -f qcow2 -b "$2" -F "${3-qcow2}" "$1"; }
cannot_write() { ! fill "$1" 0 512 9 "${2-qcow2}" && qemu-img info "$1"; }
layers() { blkctl show --json disk | jq -c '[.device.layers[].filename]'; }
expect_size() { [ "$(blockdev --getsize64 "/dev/mapper/$1")" = "$2" ]; }

# Three images: 1 below everything, 2 in the middle, 3 at the top.
make_chain() {
	rm -f base mid top
	qemu-img create -q -f qcow2 base 64M
	fill base 0 4M 1 && overlay mid base && fill mid 1M 1M 2 &&
		overlay top mid && fill top 2M 64k 3
}

shows_chain() {
	has 0 1M 1 && has 1M 1M 2 && has 2M 64k 3 && has 3M 1M 1 &&
		has 8M 1M 0
}

adoption() {
	local table before
	t "a chain of three" make_chain
	t "attach" attach disk "$dir/top"
	is "$(layers)" "[\"$dir/top\",\"$dir/mid\",\"$dir/base\"]" \
		"show has the layers"
	t "each layer is seen" shows_chain
	is "$(loops)" 3 "three loop devices"
	t "a write" dd if=/dev/zero of=/dev/mapper/disk bs=64k seek=128 count=1 \
		oflag=direct conv=notrunc
	table=$(dmsetup table disk)
	before=$(blkctl list --json | jq -c '.devices[0] | [.name, .id, (.layers | map(del(."node-name")))]')
	kill_daemon
	t "it works without a daemon" shows_chain
	t "its base is locked without a daemon" cannot_write base
	t "so is the one in the middle" cannot_write mid
	start_daemon
	is "$(blkctl list --json | jq -c '.devices[0] | [.name, .id, (.layers | map(del(."node-name")))]')" \
		"$before" "the next daemon has the same device"
	is "$(dmsetup table disk)" "$table" "and its table is as it was"
	t "it is seen as before" shows_chain
	t "a write to a cluster of the base" dd if=/dev/urandom of=/dev/mapper/disk \
		bs=4k seek=768 count=1 oflag=direct conv=notrunc
	t_rc 0 "remove" blkctl remove disk
	t "no loop device is left" wait_for 5 no_loops
	is "$(blkctl qmp query-named-block-nodes | jq length)" 0 "no node is left"
	for image in base mid top; do
		t "$image is clean" check_image $image
		t "$image is free" fill $image 60M 64k 7
	done
	like "$(qemu-io -r -f qcow2 -c 'read -P 1 0 4M' base 2>&1)" "^read 4194304" \
		"nothing was written to the base"
}

locks() {
	t "a chain" make_chain
	t "attach" attach disk "$dir/top"
	t "QEMU cannot write to the base" cannot_write base
	t "nor to the middle" cannot_write mid
	t "nor open the top at all" fails qemu-img info top
	t_rc 4 "nor can we" blkctl create other "$dir/base"
	t_rc 0 "but show it" blkctl create -r other "$dir/mid"
	t "it is seen" has 1M 1M 2 /dev/mapper/other
	t_rc 0 "remove it" blkctl remove other
	t "the base is still locked" cannot_write base
	t_rc 0 "remove" blkctl remove disk
	t "QEMU may write to the base" fill base 0 512 1
	stdbuf -oL qemu-io -f qcow2 -c 'read 0 512' -c 'sleep 600000' base \
		>qemu.out 2>&1 &
	wait_for 30 grep -q ops qemu.out
	t_rc 4 "a base that QEMU writes to" blkctl create disk "$dir/top"
	like "$output" "base.*in use by .*qemu-io" "it is named"
	kill $!
	wait $! 2>/dev/null
	t "no loop device is left" wait_for 5 no_loops
}

fails() { ! "$@"; }

sharing() {
	t "a chain" make_chain
	overlay one base
	overlay two base
	t "one overlay" attach disk "$dir/one"
	t "another one" attach two "$dir/two"
	is "$(loops_of base)" 1 "they share the base's loop device"
	is "$(loops)" 3 "and have one each"
	t "both show the base" has 0 1M 1
	t "the other one too" has 0 1M 1 /dev/mapper/two
	t "a write to one" dd if=/dev/zero of=/dev/mapper/disk bs=1M count=1 \
		oflag=direct conv=notrunc
	t "is not seen in the other" has 0 1M 1 /dev/mapper/two
	t_rc 0 "remove the first" blkctl remove disk
	t "the second shows the base" has 1M 1M 1 /dev/mapper/two
	t "which is locked" cannot_write base
	kill_daemon
	start_daemon
	t "also for the next daemon" cannot_write base
	t_rc 0 "remove the second" blkctl remove two
	t "no loop device is left" wait_for 5 no_loops
	t "the base is free" fill base 0 1M 1
}

kinds() {
	truncate -s 8M raw
	fill raw 0 1M 5 raw
	overlay top raw raw
	t "a raw base" attach disk "$dir/top"
	t "it is seen" has 0 1M 5
	t_rc 0 "remove" blkctl remove disk
	truncate -s 8388609 raw
	t_rc 1 "a raw base of no whole sectors" blkctl create disk "$dir/top"
	like "$output" "truncate -s %512" "there is a hint"
	qemu-img create -q -f qcow2 -o data_file="$dir/data" ext 32M
	t "an external data file" attach disk "$dir/ext"
	t "a write" dd if=/dev/urandom of=/dev/mapper/disk bs=1M count=4 \
		oflag=direct conv=notrunc
	t "is there at once, at the same place" cmp -n 4194304 /dev/mapper/disk data
	t "it is locked" fails fill data 0 512 1 raw
	kill_daemon
	start_daemon
	t "the next daemon has it" cmp -n 4194304 /dev/mapper/disk data
	t "it is still locked" fails fill data 0 512 1 raw
	t_rc 0 "remove" blkctl remove disk
	t "it is free" fill data 31M 64k 1 raw
	t "the image is clean" check_image ext
	is "$(stat -c %s data)" 33554432 "the data file has its size again"
	t "no loop device is left" wait_for 5 no_loops
}

policy() {
	mkdir -p in out
	qemu-img create -q -f qcow2 out/base 16M
	overlay "$dir/in/top" "$dir/out/base"
	t_rc 1 "a header that names a file elsewhere" blkctl create disk \
		"$dir/in/top"
	like "$output" "hint: .*--allow-external" "there is a hint"
	t "unless it is trusted" attach disk "$dir/in/top" --allow-external
	kill_daemon
	start_daemon
	is "$(layers)" "[\"$dir/in/top\",\"$dir/out/base\"]" \
		"adoption does not ask again"
	t_rc 0 "remove" blkctl remove disk
	stop_daemon
	start_daemon --allow-external "$dir/out"
	t "or its directory is" attach disk "$dir/in/top"
	t_rc 0 "remove" blkctl remove disk
	t "no loop device is left" wait_for 5 no_loops
	stop_daemon
	start_daemon
}

snapshots() {
	rm -f base top
	qemu-img create -q -f qcow2 base 32M
	fill base 0 2M 1
	overlay top base
	fill top 1M 1M 2
	qemu-img snapshot -c before top
	fill top 0 4M 3
	qemu-img resize -q top 48M
	t "a snapshot" attach disk "$dir/top" --snapshot before
	t "has its own size" expect_size disk 33554432
	t "its own data" has 1M 1M 2
	t "and its base" has 0 1M 1
	t "and nothing that came later" has 2M 2M 0
	t "is read-only" fails dd if=/dev/zero of=/dev/mapper/disk bs=4k count=1 \
		oflag=direct
	is "$(blkctl list -n -o MODE,SNAPSHOT | tr -s ' ')" "ro before" \
		"list says so"
	t "beside the image as it is" attach now "$dir/top" -r
	t "which has its data" has 0 4M 3 /dev/mapper/now
	kill_daemon
	start_daemon
	is "$(blkctl list -n -b -o NAME,SIZE,SNAPSHOT | tr -s ' ' | sort | xargs)" \
		"disk 33554432 before now 50331648" "the next daemon has both"
	t_rc 0 "remove" blkctl remove disk
	t_rc 0 "remove the other" blkctl remove now
	t_rc 5 "a snapshot that is not there" blkctl create disk "$dir/top" \
		--snapshot never
	t "no loop device is left" wait_for 5 no_loops
}

resizes() {
	rm -f base top
	qemu-img create -q -f qcow2 base 128M
	fill base 100M 1M 1
	overlay top base
	t "attach" attach disk "$dir/top"
	t "a file system" mkfs.ext4 -q /dev/mapper/disk
	mount_at /dev/mapper/disk "$dir/mnt"
	t "a file" dd if=/dev/urandom of=mnt/file bs=1M count=20 conv=fsync
	cp mnt/file copy
	(while [ ! -e stop ]; do
		dd if=mnt/file of=/dev/null bs=64k iflag=direct || touch failed
		dd if=copy of=mnt/other bs=64k oflag=direct || touch failed
	done) >dd.log 2>&1 &
	t_rc 0 "resize" blkctl resize disk +64M
	is "$output" "" "is silent"
	is "$(blockdev --getsz /dev/mapper/disk)" $((192 * 2048)) \
		"the device is larger"
	is "$(blkctl list -n -b -o SIZE | xargs)" $((192 << 20)) "list says so"
	t "the file system grows" resize2fs /dev/mapper/disk
	t_rc 0 "another time" blkctl resize disk 256M
	touch stop
	wait $!
	t "no request has failed" test ! -e failed || note <dd.log
	t "the file is as it was" cmp copy mnt/file
	t_rc 2 "smaller" blkctl resize disk -64M
	like "$output" "hint: .*--shrink" "needs an option"
	is "$(blockdev --getsz /dev/mapper/disk)" $((256 * 2048)) \
		"nothing has changed"
	umount mnt
	kill_daemon
	start_daemon
	t "the file system is whole" e2fsck -fp /dev/mapper/disk
	t "it shrinks" resize2fs /dev/mapper/disk 96M
	t_rc 0 "so does the device, for the next daemon" \
		blkctl resize --shrink disk 96M
	t "the device is smaller" expect_size disk $((96 << 20))
	t "the file system is whole then" e2fsck -fn /dev/mapper/disk
	t_rc 0 "and grows again" blkctl resize disk 160M
	t "what is new reads as zeroes" has 96M 64M 0
	mount /dev/mapper/disk mnt
	t "the file is there" cmp copy mnt/file
	umount mnt
	t_rc 0 "remove" blkctl remove disk
	t "the image is clean" check_image top
	is "$(qemu-img info --output=json top | jq '."virtual-size"')" \
		$((160 << 20)) "and has the size"
	t "no loop device is left" wait_for 5 no_loops
}

start_daemon
adoption
locks
sharing
kinds
policy
snapshots
resizes
done_testing
