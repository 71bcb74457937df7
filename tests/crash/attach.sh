#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What power cuts have left is attached: for each disk in $VM_SHARE/crash/*/samples,
# the look for leaks finds all of them, and the guest finds the same as before.
# A file system in it recovers, is sound, and has all files that were synced.
#
# requires: qemu-img
# timeout: 9000
. "$(dirname "$0")/../lib.sh"

# named IMAGE: the words by which QEMU's programs open it
named() {
	words=(-f qcow2 "$1")
	[ -z "$key" ] || words=(--object "secret,id=s,file=$key" --image-opts
		"driver=qcow2,encrypt.key-secret=s,file.filename=$1")
}

checked() {
	named after
	qemu-img check "${words[@]}"
}

# content FILE: what a guest finds in the image "after"
content() {
	named after
	qemu-img convert -O raw "${words[@]}" "$1"
}

step_attach() {
	attach disk "$dir/after" --allow-external ${key:+--key-file "$key"}
}

has_files() { # LIST
	local name bytes
	while read -r name bytes; do
		# It ends early, and yes with it.
		yes "$name" 2>/dev/null | head -c "$bytes" | cmp - "fs$name" || return
	done <"$1"
}

# Its journal is replayed by the kernel.
file_system() { # LIST
	local rc=0 kind
	mkdir -p fs && mount /dev/mapper/disk fs || return
	has_files "$1" || rc=1
	kind=$(findmnt -n -o FSTYPE fs)
	umount fs && udevadm settle || return
	case $kind in
	xfs) xfs_repair -n /dev/mapper/disk ;;
	*) e2fsck -fn /dev/mapper/disk ;;
	esac || return
	return "$rc"
}

# Reading changes nothing, but a mounted file system does.
settles() { # FILE
	local i
	rm -rf after data.raw before.raw after.raw
	cp --sparse=always "$1" after || return
	[ ! -e "$1.data" ] || cp --sparse=always "$1.data" data.raw || return
	[ -e "$1.files" ] || content before.raw || return
	for i in 1 2 3 4 5; do
		step_attach || return
		[ ! -e "$1.files" ] || file_system "$1.files" || return
		sleep "$i"
		detach disk || return
		checked >check.log && break
	done
	cat check.log
	checked || return
	[ -e "$1.files" ] || { content after.raw && cmp before.raw after.raw; }
}

start_daemon
defer rm -f /scratch/base.raw
for work in "$VM_SHARE"/crash/*/; do
	[ ! -e "$work/base.raw" ] || cp --sparse=always "$work/base.raw" /scratch/
	key=
	[ ! -e "$work/key" ] || key=$work/key
	for sample in "$work"/samples/*; do
		case $sample in *.data | *.files) continue ;; esac
		[ ! -e "$sample" ] || t "$(basename "$work"): $(basename "$sample")" \
			settles "$sample"
		! mountpoint -q fs || umount fs
		detach_quietly disk
	done
done
done_testing
