#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The main job, with the image directly on a block device.
#
# once: 6.1
# requires: qemu-img fio mkfs.ext4 python3 dpkg-deb
# timeout: 600
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/main-job.sh"

# The device keeps what earlier tests wrote behind the new image's end.
on_device() {
	qemu-img create -q -f qcow2 "$1" "$2"
}

disk=${VM_DISKS%% *}
[ -b "$disk" ] || skip_all "no second disk"
start_daemon
t "qemu-img create on $disk" on_device "$disk" 2G
job_all "$disk"
t "qemu-img create on $disk" on_device "$disk" 512M
job_same "$disk"
done_testing
