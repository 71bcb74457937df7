#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Write errors of the disk below: they reach the guest, a failed write changes no
# mapping, a commit that fails makes the device read-only for good and never
# turns into success, and the image stays whole.
#
# requires: qemu-img dmsetup
# timeout: 120
# once: 6.12
. "$(dirname "$0")/../lib.sh"

disk=${VM_DISKS%% *}
[ -n "$disk" ] || skip_all "no disk to spare"
sectors=$((512 * 2048))

below() { # linear, or flakey with failing writes
	case $1 in
	linear) echo "0 $sectors linear $disk 0" ;;
	flakey) echo "0 $sectors flakey $disk 0 0 60 1 error_writes" ;;
	esac
}

switch() {
	dmsetup suspend --nolockfs low && below "$1" | dmsetup load low &&
		dmsetup resume low
}

put() { # MIB OPTION...
	local at=$1
	shift
	dd if="$dir/data" of=/dev/mapper/disk bs=64k count=1 seek=$((at * 16)) \
		oflag=direct status=none "$@"
}
get() {
	dd if=/dev/mapper/disk bs=64k count=1 skip=$(($1 * 16)) iflag=direct \
		status=none | sha256sum
}

modprobe dm-flakey || skip_all "no dm-flakey"
head -c 65536 /dev/urandom >data
data=$(sha256sum <data)
zero=$(head -c 65536 /dev/zero | sha256sum)
dmsetup create low --table "$(below linear)" || bail "the disk below"
defer dmsetup remove low
qemu-img create -q -f qcow2 /dev/mapper/low 256M

start_daemon
t "create" attach disk /dev/mapper/low
# what is not flushed stays in memory, however slow the test is
t "no commits by time" no_timer
t "write" put 1 conv=fsync
t "more, not flushed" put 2
switch flakey
t_rc 1 "a write to a new cluster fails" put 10
is "$(get 10)" "$zero" "and nothing is mapped there"
is "$(get 2)" "$data" "reads go on"
switch linear
t "the same write, later" put 10
is "$(get 10)" "$data" "is there"
is "$(mode)" rw "the device writes"

put 20
switch flakey
t_rc 1 "a flush that cannot commit fails" put 1 conv=fsync
is "$(mode)" ro "and makes the device read-only"
switch linear
t_rc 1 "no flush is a success after that" put 1 conv=fsync
t_rc 1 "nor is a write" put 30
is "$(get 1)" "$data" "reads go on"
is "$(get 10)" "$data" "all of them"
blkctl remove disk >removed 2>&1
wait_for 10 test ! -e /dev/mapper/disk
t "it can be removed" test ! -e /dev/mapper/disk
t "no errors in the image" leaks_only /dev/mapper/low
t "create again" attach disk /dev/mapper/low
is "$(get 1)" "$data" "what was flushed is there"
t "and it writes" put 30 conv=fsync
is "$(get 30)" "$data" "what is read back"
t "remove" detach disk
t "no errors" leaks_only /dev/mapper/low
done_testing
