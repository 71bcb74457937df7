#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The main job, told in a few lines: a qcow2 image made by qemu-img becomes a
# block device, Debian lives on it, and in the end qemu-img finds exactly what
# was written. Starts a guest and runs in it; with --host it runs on this
# machine, where the module, the daemon and the command are installed.
#
# usage: tests/demo/demo.sh [--host]
set -uo pipefail

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tests/lib/main-job.sh
. "$here/../lib/main-job.sh"

name=dm-qcow-demo
dir=
step=

say() { printf '%s\n' "$@"; }

failed() {
	say "" "FAILED at: $step"
	sed 's/^/    /' "$dir/log" | tail -n 30
	exit 1
}

# do_step TEXT COMMAND...: says it, does it
do_step() {
	step=$1
	shift
	printf '  %-64s' "$step"
	SECONDS=0
	"$@" >"$dir/log" 2>&1 || failed
	printf '%3d s\n' "$SECONDS"
}

clean_up() {
	mountpoint -q "$dir/mnt" && umount "$dir/mnt"
	[ ! -e /dev/mapper/$name ] || blkctl remove $name
	[ -z "${daemon-}" ] || kill "$daemon" 2>/dev/null
	rm -rf "$dir"
}

start_daemon() {
	blkctl list >/dev/null 2>&1 && return
	if [ -d /run/systemd/system ]; then
		systemctl start blkctld
		return
	fi
	blkctld --foreground >"$dir/blkctld.log" 2>&1 &
	daemon=$!
	for _ in $(seq 100); do
		blkctl list >/dev/null 2>&1 && return
		sleep 0.1
	done
	cat "$dir/blkctld.log"
	return 1
}

attach() { [ "$(blkctl create $name "$1")" = /dev/mapper/$name ]; }

# A device's content is what its file system made of it: unmount first.
detach_copied() {
	umount "$dir/mnt" &&
		e2fsck -fn /dev/mapper/$name &&
		job_copy /dev/mapper/$name "$dir/copy.raw" &&
		blkctl remove $name
}

remount() {
	umount "$dir/mnt" && blkctl remove $name && attach "$dir/disk.qcow2" &&
		mount /dev/mapper/$name "$dir/mnt"
}

debian() {
	say "" "Debian in a qcow2 image, through /dev/mapper/$name"
	do_step "qemu-img create -f qcow2 disk.qcow2 2G" \
		qemu-img create -q -f qcow2 "$dir/disk.qcow2" 2G
	do_step "blkctl create $name disk.qcow2" attach "$dir/disk.qcow2"
	do_step "mkfs.ext4, mount, unpack a Debian root file system" \
		job_fill /dev/mapper/$name "$dir/mnt"
	do_step "chroot: run programs, install a .deb, write, delete, sync" \
		job_use "$dir/mnt"
	do_step "fio: libaio, io_uring and psync at once, everything verified" \
		job_fio "$dir/mnt"
	do_step "umount, blkctl remove, create and mount again" remount
	do_step "every file has the checksum it had" job_verify "$dir/mnt"
	do_step "umount, e2fsck, copy the device's content, blkctl remove" \
		detach_copied
	do_step "qemu-img check: no errors, no leaks" job_check "$dir/disk.qcow2"
	do_step "qemu-img compare: the image holds the device's content" \
		job_compare "$dir/copy.raw" "$dir/disk.qcow2"
}

same_operations() {
	say "" "The same 3000 operations on a raw file and on a qcow2 device"
	rm -f "$dir"/*.qcow2 "$dir"/*.raw
	truncate -s 1G "$dir/plain.raw"
	do_step "writes of 512 bytes to 1M, zeroing, flushes: raw file" \
		job_same_ops "$dir/plain.raw" 7 3000
	do_step "qemu-img create -f qcow2 disk.qcow2 1G" \
		qemu-img create -q -f qcow2 "$dir/disk.qcow2" 1G
	do_step "blkctl create $name disk.qcow2" attach "$dir/disk.qcow2"
	do_step "writes of 512 bytes to 1M, zeroing, flushes: device" \
		job_same_ops /dev/mapper/$name 7 3000
	do_step "blkctl remove $name" blkctl remove $name
	do_step "qemu-img check: no errors, no leaks" job_check "$dir/disk.qcow2"
	do_step "qemu-img compare: raw file and image are equal" \
		job_compare "$dir/plain.raw" "$dir/disk.qcow2"
}

if [ "${1-}" != --host ] && [ -z "${VM_GUEST-}" ]; then
	rootfs=$("$here/../lib/rootfs.sh") || exit 1
	echo "Starting a guest (software emulation: patience)"
	exec "$here/../vm/run" --timeout 3000 --env "JOB_ROOTFS=$rootfs" -- \
		"$here/demo.sh"
fi

if [ "$(id -u)" != 0 ]; then
	echo "demo: makes and mounts devices, so it needs root" >&2
	exit 1
fi
dir=$(mktemp -d "${VM_SCRATCH:-/var/tmp}/dm-qcow-demo.XXXXXX") || exit 1
trap clean_up EXIT
say "Kernel $(uname -r), $(blkctl --version)"
do_step "blkctld answers" start_daemon
debian
same_operations
say "" "RESULT: the image held exactly what was written. No errors, no leaks."
