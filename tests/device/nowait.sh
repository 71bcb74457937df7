#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Large requests by io_uring, which asks not to be made to wait, over a mapping
# in pieces and over no mapping: none fails with EAGAIN.
#
# once: 6.12
# requires: qemu-img qemu-io fio
# timeout: 120
. "$(dirname "$0")/../lib.sh"

job() { # RW
	fio --name=job --filename=/dev/mapper/disk --direct=1 --ioengine=io_uring \
		--iodepth=8 --rw="$1" --bs=1M --size=96M --verify=crc32c \
		--do_verify=1 --verify_fatal=1
}

# Every second cluster first, so that neighbours in the disk are none in the file.
pieces() {
	local i
	for ((i = 0; i < 96 * 16; i += 2)); do
		echo "write -q -P 1 $((i * 64))k 64k"
	done >commands
	qemu-io -f qcow2 "$image" <commands
}

start_daemon
image=$(mkimg disk 256M)
pieces >/dev/null
t "create" attach disk "$image"
t "writes in pieces, in place and to new clusters" job write
t "in place" job randwrite
t "reads" fio --name=read --filename=/dev/mapper/disk --direct=1 \
	--ioengine=io_uring --iodepth=8 --rw=randread --bs=1M --size=96M
t "remove" detach disk
t "no errors, no leaks" check_image "$image"
done_testing
