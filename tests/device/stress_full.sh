#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The host's file system runs full under a file system on a device: writes wait,
# also while the daemon is killed and started again; space returns, and nothing
# is lost. When it does not return writes fail, and later work again.
#
# requires: qemu-img mkfs.ext4 jq
# timeout: 480
# once: 6.1
. "$(dirname "$0")/../lib.sh"

disk=${VM_DISKS%% *}
[ -n "$disk" ] || skip_all "no disk to spare"

fill_host() { ! dd if=/dev/zero of=small/ballast bs=64k status=none; }

mkfs.ext4 -q -F -m 0 "$disk" 300M
mount_at "$disk" "$dir/small"
image=$dir/small/disk.qcow2
qemu-img create -q -f qcow2 "$image" 1G
start_daemon
t "attach" attach disk "$image" --no-space-timeout 600
mkfs.ext4 -q -F /dev/mapper/disk
mount_at /dev/mapper/disk "$dir/mnt"
head -c 1M /dev/urandom >noise
t "the host's file system is full" fill_host
{ for _ in $(seq 120); do cat noise; done >mnt/file && sync mnt/file; } 2>write.log &
writer=$!
t "writes wait" wait_for 60 parked
is "$(blkctl list --noheadings -o NAME)" disk "the daemon answers"
kill_daemon
start_daemon
t "another daemon has it, and they wait still" parked
rm small/ballast
t "space is back: all is written" wait $writer
is "$(mode)" rw "the device writes"
umount mnt
mount_at /dev/mapper/disk "$dir/mnt"
is "$(sha256sum <mnt/file)" "$(for _ in $(seq 120); do cat noise; done | sha256sum)" "all of it is there"
umount mnt
t "remove" detach disk
t "no errors" leaks_only "$image"

t "attach with little patience" attach disk "$image" --no-space-timeout 1
fill_host
t_rc 1 "writes fail when no space returns" dd if=/dev/zero of=/dev/mapper/disk \
	bs=1M seek=200 count=400 oflag=direct status=none
is "$(mode)" out_of_space "the device says so"
t "reads go on" dd if=/dev/mapper/disk of=/dev/null bs=1M count=8 iflag=direct
rm small/ballast
t "when there is space the device writes again" wait_for 30 mode_is rw
t "and does" dd if=noise of=/dev/mapper/disk bs=1M seek=900 oflag=direct conv=fsync status=none
t "remove" detach disk
t "the image is clean" check_image "$image"
done_testing
