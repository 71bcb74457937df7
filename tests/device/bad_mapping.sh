#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Bad entries in L1 and L2 tables are never followed: what needs them fails,
# the rest of the image stays as it was.
#
# once: 6.1
# requires: qemu-img qemu-io python3 dd
# timeout: 300
. "$(dirname "$0")/../lib.sh"

set_field() { python3 "$TESTS/lib/qcow2-set.py" "$@"; }
sum_of() { sha256sum <"$1"; }

# read_at CLUSTER: one cluster of the device
read_at() {
	dd if=/dev/mapper/bad of="$dir/read" bs=64K skip="$1" count=1 \
		iflag=direct status=none
}

write_at() {
	dd if=/dev/zero of=/dev/mapper/bad bs=64K seek="$1" count=1 \
		oflag=direct status=none
}

fails() { ! "$@"; }

# Three clusters of data at 0, 64K and 128K.
make_good() {
	good=$(mkimg good 1G) &&
		qemu-io -f qcow2 -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' \
			-c 'write -P 3 128k 64k' "$good"
}

damaged() {
	image=$dir/bad.qcow2
	cp "$good" "$image"
	set_field "$image" "$@"
}

# l1 VALUE: refused for writing, whole
l1() {
	local before
	damaged 'l1[0]' "$1"
	before=$(sum_of "$image")
	t_rc 1 "L1 entry $1: refused" blkctl create bad "$image" ||
		detach_quietly bad
	is "$(sum_of "$image")" "$before" "L1 entry $1: the image is as it was"
}

# l2_read VALUE: with entry 1 damaged, read-only
l2_read() {
	local before
	damaged 'l2[1]' "$1"
	before=$(sum_of "$image")
	t "L2 entry $1: attach to read" attach bad "$image" -r || return
	t "L2 entry $1: reading it fails" fails read_at 1
	t "L2 entry $1: the kernel says why" klog_has "bad|corrupt|entry"
	t "L2 entry $1: remove" detach bad
	is "$(sum_of "$image")" "$before" "L2 entry $1: the image is as it was"
}

# metadata IMAGE: the clusters that a stray write would hit
metadata_sum() {
	local at
	for at in l1_table_offset refcount_table_offset; do
		dd if="$1" bs=64K count=1 status=none \
			skip=$(($(set_field "$1" --get $at) / 65536))
	done | sha256sum
}

# l2_write VALUE: with entry 1 damaged, read-write
l2_write() {
	local before
	damaged 'l2[1]' "$1"
	before=$(metadata_sum "$image")
	t "L2 entry $1: attach to write" attach bad "$image" || return
	t "L2 entry $1: writing it fails" fails write_at 1
	t "L2 entry $1: blkctl warns" warned
	t "L2 entry $1: remove" detach bad
	is "$(metadata_sum "$image")" "$before" "L2 entry $1: metadata is as it was"
}

warned() { blkctl list --json | jq -e '.warnings | length > 0'; }

# A bad entry beside good ones, in the same slice
good_ones_beside() {
	damaged 'l2[600]' eof+cluster
	t "bad entry elsewhere: attach" attach bad "$image" -r || return
	t "bad entry elsewhere: other slices are read" read_at 0
	is "$(od -An -tx1 -N1 "$dir/read" | tr -d ' ')" 01 "with their data"
	t "bad entry elsewhere: remove" detach bad
}

t "an image to damage" make_good
start_daemon
copied='(1 << 63)'
l1 "old + 512"
l1 "old | (1 << 60)"
l1 "(eof + 16 * cluster) | $copied"
l1 "l1_table_offset | $copied"
l1 "refcount_table_offset | $copied"
for bad in "old + 512" "old | (1 << 58)" "(eof + 16 * cluster) | $copied" \
	"(1 << 55) | $copied"; do
	l2_read "$bad"
	l2_write "$bad"
done
l2_write "l1_table_offset | $copied"
l2_write "refcount_table_offset | $copied"
l2_write "cluster * 0 | $copied | 1 << 9"
good_ones_beside
done_testing
