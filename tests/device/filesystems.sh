#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# File systems on a device: filled, thinned out, trimmed, and found whole by
# their own checkers; the image's file gives back what they trim.
#
# once: 6.1
# requires: qemu-img python3 mkfs.ext4 mkfs.xfs mkfs.btrfs fstrim
# timeout: 400
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/features.sh"

disk=/dev/mapper/disk
mnt=$dir/mnt
MIB=64

make_fs() {
	case $1 in
	ext4) mkfs.ext4 -q -F -E nodiscard "$disk" ;;
	xfs) mkfs.xfs -q -f -K "$disk" ;;
	btrfs) mkfs.btrfs -q -f -K "$disk" ;;
	esac
}

check_fs() {
	case $1 in
	ext4) e2fsck -fn "$disk" ;;
	xfs) xfs_repair -n "$disk" ;;
	btrfs) btrfs check "$disk" ;;
	esac
}

files() { python3 "$TESTS/lib/fill-fs.py" "$1" "$mnt" "$MIB"; }
kib_of() { echo $(($(stat -c '%b * %B' "$1") / 1024)); }
at_most() { [ "$(kib_of "$image")" -le "$1" ]; }

# job FS IMAGE TRIM
job() {
	local fs=$1 trim=$3
	image=$2
	modprobe "$fs" || { skip "$fs" "the kernel has none"; return; }
	t "$fs: create" attach disk "$image" || return
	t "$fs: mkfs" make_fs "$fs"
	mkdir -p "$mnt"
	t "$fs: mount" mount -t "$fs" $disk "$mnt" ||
		{ detach_quietly disk; return; }
	defer umount "$mnt"
	t "$fs: fill" files fill
	t "$fs: delete half of it" files thin
	[ -z "$trim" ] || t "$fs: fstrim" fstrim "$mnt"
	t "$fs: umount" umount "$mnt"
	t "$fs: the file system is whole" check_fs "$fs"
	t "$fs: remove" detach disk
	t "$fs: no errors, no leaks" check_image "$image"
	# Only now: what was granted ahead is in the file while it is attached.
	[ -z "$trim" ] || t "$fs: what was deleted has left the file" \
		at_most $((MIB * 1024 * 3 / 4 + 24 * 1024))
	t "$fs: create again" attach disk "$image"
	t "$fs: mount again" mount -t "$fs" $disk "$mnt"
	t "$fs: what was not deleted is there" files verify
	t "$fs: umount" umount "$mnt"
	t "$fs: remove" detach disk
	rm -f "$image"
}

alone() {
	job "$1" "$(mkimg "$1" 512M)" ""
}

# Over a base that is full of something else.
over() {
	[ -e base.raw ] || head -c 512M /dev/zero | tr '\0' 'x' >base.raw
	job "$1" "$(mkimg "$1" 512M -b base.raw -F raw)" trim
}

start_daemon
for fs in ext4 xfs btrfs; do
	if has_feature backing && has_feature discard; then
		over $fs
	else
		alone $fs
	fi
done
done_testing
