# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The main job: what a person does with a device who wants to run a Debian
# system from it. Sourced by the demonstration and by the device tests.
#
# Functions return non-zero at the first thing that fails, and what they print
# is for a log.

JOB_LIB=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
JOB_DEB=dm-qcow-hello

# job_rootfs: the tar file with the root file system
job_rootfs() {
	if [ -n "${JOB_ROOTFS-}" ]; then
		printf '%s\n' "$JOB_ROOTFS"
	else
		"$JOB_LIB/rootfs.sh"
	fi
}

# job_build_deb DIR: a package that nobody has
job_build_deb() {
	local d=$1/$JOB_DEB
	mkdir -p "$d/DEBIAN" "$d/usr/bin" &&
		printf '%s\n' "Package: $JOB_DEB" 'Version: 1.0' \
			'Architecture: all' 'Maintainer: nobody <nobody@localhost>' \
			'Description: says hello' >"$d/DEBIAN/control" &&
		printf '#!/bin/sh\necho hello from %s\n' $JOB_DEB \
			>"$d/usr/bin/$JOB_DEB" &&
		chmod 755 "$d/usr/bin/$JOB_DEB" &&
		dpkg-deb --root-owner-group --build "$d" "$1/$JOB_DEB.deb"
}

# job_fill DEVICE MOUNTPOINT: a file system with Debian on it
job_fill() {
	local tar
	tar=$(job_rootfs) &&
		mkfs.ext4 -q -F "$1" &&
		mkdir -p "$2" &&
		mount "$1" "$2" &&
		tar -xf "$tar" -C "$2" &&
		sync -f "$2"
}

# Runs inside the root file system.
job_inside() {
	cat <<-'INSIDE'
		set -eu
		export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
		dpkg -i /tmp/hello.deb
		dm-qcow-hello | grep -x 'hello from dm-qcow-hello'
		dpkg -s dm-qcow-hello | grep -x 'Status: install ok installed'
		perl -e 'print "perl works\n"'
		useradd --create-home guest
		su guest -c 'echo "made by $(id -un)" >~/note'
		grep -x 'made by guest' /home/guest/note
		mkdir /srv/job
		for i in $(seq 300); do
			echo "$i" >/srv/job/small-$i
		done
		tar -cf /srv/job/usr.tar -C / usr/bin usr/lib
		head -c 20000000 /dev/urandom >/srv/job/random
		rm -rf /srv/job/small-1* /srv/job/usr.tar /usr/share/zoneinfo
		cp -a /usr/lib /srv/job/lib
		sync
		find /srv/job /home -type f -exec sha256sum {} + >/root/sums
		sync
	INSIDE
}

# job_use MOUNTPOINT: live in it for a while
job_use() {
	local dir rc
	dir=$(mktemp -d) || return 1
	job_build_deb "$dir" &&
		cp "$dir/$JOB_DEB.deb" "$1/tmp/hello.deb" &&
		mount -t proc proc "$1/proc" &&
		job_inside | chroot "$1" /bin/sh
	rc=$?
	umount "$1/proc"
	rm -rf "$dir"
	return $rc
}

# job_verify MOUNTPOINT: all is there, read from the device
job_verify() {
	sync -f "$1" && echo 3 >/proc/sys/vm/drop_caches || return 1
	chroot "$1" sha256sum --quiet --check /root/sums || return 1
	# Prints a line for each file of a package that differs; what the root
	# file system left out, and what was deleted above, is missing.
	! chroot "$1" dpkg --verify | grep -v '^missing '
}

# job_fio DIRECTORY [SIZE]: three engines at once, four jobs each, all verified
job_fio() {
	local engine args=()
	for engine in libaio io_uring psync; do
		args+=(--name="$engine" --ioengine="$engine")
	done
	fio --directory="$1" --size="${2:-8M}" --numjobs=4 --direct=1 \
		--rw=randwrite --iodepth=16 --randrepeat=1 \
		--bssplit=4k/50:16k/30:64k/15:256k/5 --fallocate=none \
		--verify=crc32c --do_verify=1 --verify_fatal=1 --end_fsync=1 \
		--group_reporting "${args[@]}"
}

# job_copy DEVICE FILE: everything that the device holds, as a raw file
job_copy() {
	dd if="$1" of="$2" bs=1M iflag=direct conv=sparse status=none &&
		truncate -s "$(blockdev --getsize64 "$1")" "$2"
}

# job_check IMAGE: no errors and no leaks
job_check() {
	qemu-img check -f qcow2 "$1"
}

# job_compare RAW IMAGE: byte by byte
job_compare() {
	qemu-img compare -f raw -F qcow2 "$1" "$2"
}

# job_same_ops TARGET SEED COUNT
job_same_ops() {
	python3 "$JOB_LIB/same-ops.py" "$@"
}

#
# As KTAP, for device tests: over tests/lib.sh, with a daemon that runs
#

# job_all IMAGE: the main job, once
job_all() {
	local image=$1 name=job mnt=$dir/mnt what=${1##*/}
	t "$what: create" attach $name "$image" || return
	t "$what: mkfs, mount, unpack Debian" job_fill /dev/mapper/$name "$mnt"
	t "$what: chroot and use it" job_use "$mnt"
	t "$what: fio verifies" job_fio "$mnt"
	t "$what: umount" umount "$mnt"
	t "$what: remove" detach $name
	t "$what: no errors, no leaks" job_check "$image"
	t "$what: create again" attach $name "$image" || return
	t "$what: mount" mount /dev/mapper/$name "$mnt"
	t "$what: all files are as they were" job_verify "$mnt"
	t "$what: umount" umount "$mnt"
	t "$what: e2fsck" e2fsck -fn /dev/mapper/$name
	t "$what: copy the device" job_copy /dev/mapper/$name "$dir/copy.raw"
	t "$what: remove" detach $name
	t "$what: no errors, no leaks" job_check "$image"
	t "$what: the image holds what the device held" \
		job_compare "$dir/copy.raw" "$image"
	rm -f "$dir/copy.raw"
}

# job_same IMAGE [COUNT]: equal to a raw file that got the same operations
job_same() {
	local image=$1 count=${2:-2000} name=same what=${1##*/}
	t "$what: create" attach $name "$image" || return
	truncate -s "$(blockdev --getsize64 /dev/mapper/$name)" "$dir/plain.raw"
	t "$what: operations on a raw file" \
		job_same_ops "$dir/plain.raw" 7 "$count"
	t "$what: operations on the device" \
		job_same_ops /dev/mapper/$name 7 "$count"
	t "$what: remove" detach $name
	t "$what: no errors, no leaks" job_check "$image"
	t "$what: equal" job_compare "$dir/plain.raw" "$image"
	rm -f "$dir/plain.raw"
}
