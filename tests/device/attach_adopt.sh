#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The daemon's part is killed again and again under load: no I/O fails, data
# verifies, and the image ends without leaks.
#
# once: 6.12
# requires: qemu-img fio gcc
# timeout: 300
# vm: --smp 2
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

build_tool
image=$(mkimg disk 1G)
orphan "attach disk $image"
(
	fio --name=v --filename=/dev/mapper/disk --rw=randwrite --bsrange=4k-64k \
		--size=700m --io_size=200m --direct=1 --ioengine=libaio --iodepth=16 \
		--fsync=200 --verify=crc32c --verify_fatal=1 --do_verify=1 >fio.log 2>&1
	echo $? >rc
) &
adoptions=0
until [ -e rc ]; do
	{ "$tool" "adopt disk" "sleep $((RANDOM % 1200))" kill; } >tool.log 2>&1
	grep -q adopted tool.log || { not_ok "adopts"; note <tool.log; break; }
	adoptions=$((adoptions + 1))
done
wait
note "$adoptions adoptions"
is "$(cat rc)" 0 "fio wrote and verified" || note <fio.log
t "the last daemon detaches it" steps "adopt disk" "wait scanned" detach
t "the image is clean" clean "$image"
t "nothing is left" nothing_left

t "abandoned, adopted, and suspended in between" steps "attach disk $image" \
	"sh dd if=/dev/urandom of=$dir/data bs=1M count=20 status=none" \
	"sh dd if=$dir/data of=/dev/mapper/disk bs=1M oflag=direct status=none" \
	abandon "sh dmsetup suspend disk" "adopt disk" \
	"sh cmp -n 20971520 /dev/mapper/disk $dir/data" "wait scanned" detach
t "the image is clean again" clean "$image"

# With clusters of 512 bytes the refcount table soon has to move, and where it
# was its successor finds free clusters.
image=$(mkimg small 48M -o cluster_size=512)
head -c 40M /dev/urandom >data
write="dd if=$dir/data of=/dev/mapper/small bs=1M oflag=direct status=none"
t "a refcount table moved before its daemon died" steps "attach small $image" \
	"sh $write count=20" abandon adopt "sh $write skip=20 seek=20" \
	"sh cmp -n 41943040 /dev/mapper/small $dir/data" "wait scanned" detach
t "where it was is in use again" clean "$image"
done_testing
