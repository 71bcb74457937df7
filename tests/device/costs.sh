#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the disk is asked for, counted: a flush after one allocating write, a
# look-up whose part of the mapping is not in memory, and what needs neither.
#
# requires: qemu-img dd blkdiscard
# timeout: 120
. "$(dirname "$0")/../lib.sh"

disk=$(echo "$VM_DISKS" | cut -d' ' -f1)
counts=/sys/class/block/$(basename "$disk")/stat

# count COMMAND...: sets what it has asked the disk for: $reads, $flushes, and
# the sectors read and written (a flush counts as a write there, too)
count() {
	local a b
	read -r -a a <"$counts"
	"$@" || bail "$*"
	read -r -a b <"$counts"
	reads=$((b[0] - a[0])) read_sectors=$((b[2] - a[2]))
	written=$((b[6] - a[6]))
	flushes=$((b[15] - a[15]))
}

put() { # OFFSET [OPTION]...: 4K
	dd if=/dev/urandom of=/dev/mapper/disk bs=4k count=1 iflag=fullblock \
		oflag=direct,seek_bytes seek="$1" conv=notrunc status=none "${@:2}"
}
get() { # OFFSET: 4K
	dd if=/dev/mapper/disk of=/dev/null bs=4k count=1 \
		iflag=direct,skip_bytes skip="$1" status=none
}
put_and_sync() { put "$1" && sync /dev/mapper/disk; }

# Nothing else is done to the disk: no grants are given, no commits are due.
is_quiet() {
	local a b
	a=$(cat "$counts")
	sleep 2
	b=$(cat "$counts")
	[ "$a" = "$b" ]
}

up() {
	t "create" attach disk "$disk"
	udevadm settle
	wait_for 60 is_quiet || bail "the disk comes to rest"
}

G=$((1 << 30)) K=1024
blkdiscard -f "$disk"
qemu-img create -q -f qcow2 "$disk" 3G
start_daemon
up

count put_and_sync $((1 * G))
at_most "first write to an L2 table, flush: flushes" "$flushes" 3
count put_and_sync $((1 * G + 64 * K))
at_most "write to a new cluster, flush: flushes" "$flushes" 2
at_most "  4K written" $((written / 8)) 3
is "$reads" 0 "  reads"
count put_and_sync $((1 * G + 64 * K))
at_most "write in place, flush: flushes" "$flushes" 1
is "$written" 8 "  sectors written: the data alone"
# what is written with dsync is flushed once more by the page cache
count put $((1 * G + 64 * K)) oflag=dsync
at_most "FUA write in place: flushes" "$flushes" 2
is "$written" 8 "  sectors written: the data alone"
count put $((1 * G + 128 * K)) oflag=dsync
at_most "FUA write to a new cluster: flushes" "$flushes" 3
at_most "  4K written" $((written / 8)) 3
t "remove" detach disk

up
count get $((1 * G))
is "$reads/$read_sectors" 2/16 "reads, sectors: 4K of the mapping, and the data"
count get $((1 * G + 64 * K))
is "$reads/$read_sectors" 1/8 "a cluster beside it: the data alone"
count get $((1 * G + 32 * K * K + 64 * K))
is "$reads/$read_sectors" 1/8 "where nothing is mapped: 4K of the mapping"
count get $((2 * G))
is "$reads" 0 "where there is no L2 table"
count put $((1 * G + 4 * K))
is "$reads/$written" 0/8 "a write in place, warm"
t "remove" detach disk
t "no errors, no leaks" check_image "$disk"
done_testing
