#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# On a disk without a command for zeroes, new clusters are written once: only
# what is taken by writes of less than a cluster is zeroed before.
#
# once: 6.12
# requires: qemu-img fio dmsetup blockdev dd
# timeout: 480
. "$(dirname "$0")/../lib.sh"

under=$(echo "$VM_DISKS" | cut -d' ' -f1)
counts=/sys/class/block/$(basename "$under")/stat
disk=/dev/mapper/slow

mib_written() { awk '{ print int($7 / 2048) }' "$counts"; }
io() { # NAME OPTION...
	fio --name="$1" --filename=/dev/mapper/disk --direct=1 --ioengine=libaio \
		--iodepth=16 --verify=crc32c --do_verify=0 "${@:2}"
}
# fio's own pattern is in what it has written, the rest is zeroes
again() { io "$@" --verify_only=1 --do_verify=1; }
zeroes_between() {
	cmp <(dd if=/dev/mapper/disk bs=4k skip=$((300 * 256 + 1)) count=15 status=none) \
		<(head -c 60K /dev/zero)
}
large="large --rw=write --bs=1M --size=256M"
small="small --rw=write:60k --bs=4k --offset=300M --size=256M --io_size=16M"

blkdiscard -f "$under"
# dm-crypt has none; this cipher changes nothing
t "a disk without write zeroes" dmsetup create slow \
	--table "0 $((2 << 21)) crypt cipher_null-ecb - 0 $under 0"
defer dmsetup remove --retry slow
is "$(cat "/sys/class/block/$(basename "$(readlink -f $disk)")/queue/write_zeroes_max_bytes")" \
	0 "  it has none"
# what it reads is not zeroes
dd if=/dev/urandom of=$disk bs=1M count=64 seek=16 oflag=direct status=none
qemu-img create -q -f qcow2 $disk 1G
start_daemon
before=$(mib_written)
t "create" attach disk $disk
# shellcheck disable=SC2086
t "writes of whole clusters" io $large
sync /dev/mapper/disk
at_most "  written" $(($(mib_written) - before)) $((256 + 64)) MiB
# shellcheck disable=SC2086
t "writes of 4K to clusters of 64K" io $small
# shellcheck disable=SC2086
t "what large writes wrote" again $large
# shellcheck disable=SC2086
t "what small writes wrote" again $small
t "zeroes are beside it" zeroes_between
t "remove" detach disk
t "no errors, no leaks" check_image $disk
done_testing
