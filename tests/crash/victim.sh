#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Runs in the guest that tests/crash/kill kills: attaches the image on the
# second disk, waits for the look for leaks, and writes until the end; or, the
# last time, detaches it. Steps that have been taken are lines of $VM_SHARE/steps.
#
# usage: victim.sh SEED CLUSTER FILE LAST    FILE: of an ext4 on the disk, or ""

set -u
seed=$1 cluster=$2 file=$3 last=$4
writer=/usr/lib/dm-qcow/writer
read -r image _ <<<"$VM_DISKS"
key=()
[ ! -e "$VM_SHARE/key" ] || key=(--key-file "$VM_SHARE/key")
journal=(--journal "$VM_SHARE/journal" --acks "$VM_SHARE/acks")

step() { echo "$1" >>"$VM_SHARE/steps"; }

fail() {
	echo "victim: $*"
	[ ! -e /run/blkctld.log ] || cat /run/blkctld.log
	exit 1
}

# Another program may be about to start it.
daemon() {
	blkctld --foreground --socket /run/blkctld.sock >>/run/blkctld.log 2>&1 &
	for _ in $(seq 300); do
		blkctl list >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "no daemon"
}

modprobe dm-qcow || fail "no module"
if [ -n "$file" ]; then
	mkdir /run/host && mount "$image" /run/host || fail "mount"
	image=/run/host/$file
fi
daemon
if [ -n "$last" ]; then
	# The look for leaks runs in the background.
	for i in 1 2 3; do
		blkctl create disk "$image" "${key[@]}" || fail "attach"
		sleep "$i"
		blkctl remove disk || fail "detach"
	done
	[ -z "$file" ] || umount /run/host
	step clean
	exit
fi
$writer --note 4:0:0 "${journal[@]}" || fail "note"
blkctl create disk "$image" "${key[@]}" || fail "attach"
step attached
while :; do
	$writer --seed "$seed" --ops 200 --cluster "$cluster" "${journal[@]}" \
		/dev/mapper/disk || fail "writer"
	seed=$((seed + 1))
done
