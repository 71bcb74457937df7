#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What a flush or a FUA write has acknowledged is in the image file, mapping and
# all, for anybody who reads the disk at that moment.
#
# once: 6.12
# requires: qemu-img dd cmp
# timeout: 180
. "$(dirname "$0")/../lib.sh"

# The bytes of the image as a power cut would leave them.
cut_now() {
	dd if="$image" of=cut.qcow2 bs=1M iflag=direct conv=sparse status=none
}

is_there() { # OFFSET FILE, in the copy
	qemu-img convert -f qcow2 -O raw cut.qcow2 cut.raw &&
		cmp -n "$(stat -c %s "$2")" -i "$1:0" cut.raw "$2"
}

put() { # OFFSET FILE OPTION...
	local at=$1 file=$2
	shift 2
	dd if="$file" of=/dev/mapper/disk bs=4k seek=$((at / 4096)) \
		conv=notrunc status=none "$@"
}

head -c 300K /dev/urandom >some
head -c 4096 /dev/urandom >page
start_daemon
for size in 512 4k 64k 2M; do
	image=$(mkimg disk 1G -o cluster_size=$size)
	t "$size: create" attach disk "$image"
	put 0 some oflag=direct conv=notrunc,fsync
	cut_now
	t "$size: no errors after a flush" leaks_only cut.qcow2
	t "$size: the data is there" is_there 0 some
	put $((700 << 20)) page oflag=direct,dsync
	cut_now
	t "$size: no errors after a FUA write to a new L2 table" leaks_only cut.qcow2
	t "$size: the data is there" is_there $((700 << 20)) page
	put $(((700 << 20) + 4096)) page oflag=direct,dsync
	cut_now
	t "$size: a FUA write beside it" is_there $(((700 << 20) + 4096)) page
	put $((10 << 20)) page
	sync /dev/mapper/disk
	cut_now
	t "$size: a buffered write and sync" is_there $((10 << 20)) page
	t "$size: remove" detach disk
	t "$size: no errors, no leaks" check_image "$image"
done
done_testing
