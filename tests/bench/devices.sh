# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# The devices that tests/bench/guest measures: up_KIND SIZE makes $dev on an
# empty $DISK, down_KIND removes it. cold_KIND makes it anew from what is on the
# disk, so that nothing of it is in memory.

DISK=/dev/nullb0
MNT=/run/bench
SOCKET=/run/blkctld.sock
META=8M		# of dm-thin
BLOCK=128	# sectors, of dm-thin and dm-snapshot: as large as our clusters

size_sectors() { echo $(($(numfmt --from=iec "$1") / 512)); }

mount_disk() {
	mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0,nodiscard $DISK &&
		mkdir -p $MNT && mount $DISK $MNT
}

wait_for() {
	local _
	for _ in $(seq 300); do
		"$@" 2>/dev/null && return
		sleep 0.1
	done
	return 1
}

start_daemon() {
	modprobe dm-qcow || die "no module"
	blkctld --foreground --socket $SOCKET >/run/blkctld.log 2>&1 &
	wait_for blkctl list || die "blkctld does not answer"
}

# --- device-mapper's own, and the loop device -----------------------------------

dm() { # NAME TABLE
	dmsetup create "$1" --table "$2" && dev=/dev/mapper/$1
}

undm() { dmsetup remove --retry "$1"; }

up_linear() { dm linear "0 $(size_sectors "$1") linear $DISK 0"; }
down_linear() { undm linear; }
cold_linear() { :; }

# Metadata of zeroes is a new pool.
up_thin() {
	thin_size=$(size_sectors "$1")
	thin_pool && dmsetup message pool 0 "create_thin 0" && thin_volume
}
down_thin() { undm thin && undm pool && undm thin-data && undm thin-meta; }
cold_thin() { down_thin && thin_pool && thin_volume; }

thin_pool() {
	local meta all
	meta=$(size_sectors $META)
	all=$(blockdev --getsz $DISK)
	dm thin-meta "0 $meta linear $DISK 0" &&
		dm thin-data "0 $((all - meta)) linear $DISK $meta" &&
		dm pool "0 $(((all - meta) / BLOCK * BLOCK)) thin-pool /dev/mapper/thin-meta /dev/mapper/thin-data $BLOCK 0"
}
thin_volume() { dm thin "0 $thin_size thin /dev/mapper/pool 0"; }

# A snapshot of nothing but zeroes is a new disk.
up_snapshot() {
	local size
	size=$(size_sectors "$1")
	dm zero "0 $size zero" &&
		dm snapshot "0 $size snapshot /dev/mapper/zero $DISK P $BLOCK"
}
down_snapshot() { undm snapshot && undm zero; }

up_loop() {
	mount_disk && truncate -s "$1" $MNT/raw &&
		dev=$(losetup --find --show --direct-io=on $MNT/raw)
}
down_loop() { losetup -d "$dev" && umount $MNT; }

# As an image in a file stands: device-mapper over the loop device.
up_linear_file() {
	up_loop "$1" && loop=$dev &&
		dm linear "0 $(size_sectors "$1") linear $loop 0"
}
down_linear_file() { undm linear && losetup -d "$loop" && umount $MNT; }

# --- qcow2 images -------------------------------------------------------------------

make_image() {
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 ${image_options-} "$1" "$2"
}

create_qcow() { dev=$(blkctl create qcow "$1") && [ -b "$dev" ]; }

up_qcow_bdev() { make_image $DISK "$1" && create_qcow $DISK; }
down_qcow_bdev() { blkctl remove qcow; }
cold_qcow_bdev() { down_qcow_bdev && create_qcow $DISK; }

up_qcow_file() {
	mount_disk && make_image $MNT/image "$1" && create_qcow $MNT/image
}
down_qcow_file() { blkctl remove qcow && umount $MNT; }
cold_qcow_file() { blkctl remove qcow && create_qcow $MNT/image; }

# --- their rival ----------------------------------------------------------------------

connect_nbd() {
	dev=/dev/nbd0
	qemu-nbd --fork --connect=$dev --cache=none --aio=io_uring \
		--format=qcow2 "$1" && wait_for nbd_is_up
}

nbd_is_up() { [ "$(cat /sys/block/nbd0/size)" -gt 0 ]; }

disconnect_nbd() {
	qemu-nbd --disconnect "$dev" >/dev/null && wait_for nbd_is_gone
}

nbd_is_gone() { ! pidof -q qemu-nbd && ! [ -e /sys/block/nbd0/pid ]; }

up_nbd_bdev() { make_image $DISK "$1" && connect_nbd $DISK; }
down_nbd_bdev() { disconnect_nbd; }
cold_nbd_bdev() { disconnect_nbd && connect_nbd $DISK; }

up_nbd_file() {
	mount_disk && make_image $MNT/image "$1" && connect_nbd $MNT/image
}
down_nbd_file() { disconnect_nbd && umount $MNT; }
cold_nbd_file() { disconnect_nbd && connect_nbd $MNT/image; }
