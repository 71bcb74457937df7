#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images of 1 TiB and 16 TiB, with I/O all over them: what the module and the
# daemon keep in memory stays within limits. STRESS (1): how many times as long;
# more than 1 tries all of them.
#
# requires: qemu-img fio dmsetup
# timeout: 480
# once: 6.12
. "$(dirname "$0")/../lib.sh"

seconds=$((4 * ${STRESS:-1}))
param=/sys/module/dm_qcow/parameters/cache_limit_mb

jobs() { fio --direct=1 --filename=/dev/mapper/disk --ioengine=libaio "$@"; }

large() { # SIZE OPTIONS MIB of the cache
	local image before n max
	image=$(mkimg large "$1" -o "$2")
	before=$(daemon_mib)
	t "$1, $2: attach" attach disk "$image"
	echo "$3" >$param
	t "$1: writes all over it" jobs --name=w --rw=randwrite --bs=4k \
		--iodepth=16 --norandommap --time_based --runtime=$seconds
	t "$1: reads all over it" jobs --name=r --rw=randread --bs=4k \
		--iodepth=16 --norandommap --time_based --runtime=$((seconds / 2))
	t "$1: flush" sync /dev/mapper/disk
	n=$(status 10) max=$(($3 * 256 + 64))
	[ "$n" -le $max ] && ok "$1: $n slices in memory, at most $max" ||
		not_ok "$1: $n slices in memory, at most $max"
	note "$1: blkctld has $before MiB, then $(daemon_mib); the image $(du -m "$image" | cut -f1) MiB"
	[ "$(daemon_mib)" -lt 128 ] && ok "$1: the daemon stays small" ||
		not_ok "$1: the daemon stays small, not $(daemon_mib) MiB"
	t "$1: remove" detach disk
	t "$1: no errors, no leaks" check_image "$image"
	rm -f "$image"
}

start_daemon
modprobe dm-qcow
old=$(cat $param)
defer bash -c "echo $old >$param"
large 16T cluster_size=65536 2
if [ "${STRESS:-1}" -gt 1 ]; then
	large 1T cluster_size=65536 2
	large 16T cluster_size=2M,extended_l2=on 2
fi
done_testing
