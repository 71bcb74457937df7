#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The cache of mappings keeps to its limit, gives memory back when the kernel
# asks, and loses nothing by it.
#
# once: 6.12
# requires: qemu-img fio dmsetup dd
# timeout: 240
. "$(dirname "$0")/../lib.sh"

param=/sys/module/dm_qcow/parameters/cache_limit_mb
# one block of every slice
touch_all() {
	fio --name=touch --filename=/dev/mapper/disk --direct=1 --bs=4k \
		--rw=read:2044k --ioengine=psync --size=768M
}
content() {
	dd if=/dev/mapper/disk bs=1M count=96 skip=600 iflag=direct \
		status=none | sha256sum
}
cached() { dmsetup status disk | cut -d' ' -f10; }

start_daemon
image=$(mkimg disk 1G -o cluster_size=4k)
t "create" attach disk "$image"
old=$(cat $param)
defer bash -c "echo $old >$param"
echo 1 >$param
t "writes all over it, and back" fio --name=all --filename=/dev/mapper/disk \
	--direct=1 --rw=randwrite --ioengine=libaio --iodepth=16 --bs=4k \
	--size=768M --io_size=16M --verify=crc32c --do_verify=1 --verify_fatal=1
n=$(cached)
[ "$n" -le 320 ] && ok "$n slices are kept, of 256 allowed" ||
	not_ok "$n slices are kept, of 256 allowed"
reclaimed=$(blkctl show disk | awk '$1 == "slices-reclaimed" {print $2}')
[ "$reclaimed" -gt 256 ] && ok "$reclaimed were reclaimed" ||
	not_ok "$reclaimed were reclaimed"
echo 0 >$param
sum=$(content)
t "a look at all of it" touch_all
n=$(cached)
[ "$n" -ge 384 ] && ok "without the limit all $n are kept" ||
	not_ok "without the limit all are kept, not $n"
sync
for _ in 1 2 3 4 5 6; do echo 2 >/proc/sys/vm/drop_caches; done
[ "$(cached)" -lt "$n" ] && ok "the shrinker takes some: $(cached) left" ||
	not_ok "the shrinker takes some: $(cached) left"
is "$(content)" "$sum" "and the data is the same"
t "remove" detach disk
t "no errors, no leaks" check_image "$image"
is "$(qemu-img convert -f qcow2 -O raw "$image" raw &&
	dd if=raw bs=1M count=96 skip=600 status=none | sha256sum)" "$sum" \
	"the image holds what the device did"
done_testing
