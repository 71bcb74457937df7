#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What is not a qcow2 image that we can serve is refused: one clear sentence,
# exit code 1, no device left behind, and not a byte of the image changed.
#
# requires: qemu-img python3
# timeout: 300
# once: 6.12
. "$(dirname "$0")/../lib.sh"

set_field() { python3 "$TESTS/lib/qcow2-set.py" "$@"; }
sum_of() { sha256sum <"$1"; }

# refused NAME REGEX IMAGE: for writing and for reading
refused() {
	local name=$1 regex=$2 image=$3 before how
	before=$(sum_of "$image")
	for how in --read-only ""; do
		# shellcheck disable=SC2086
		t_rc 1 "$name: refused${how:+ ($how)}" \
			blkctl create bad "$image" $how || detach_quietly bad
		one_sentence "$name" "$regex"
	done
	is "$(sum_of "$image")" "$before" "$name: the image is as it was"
	[ ! -e /dev/mapper/bad ] || not_ok "$name: a device is left"
	[ -z "$(blkctl list)" ] || not_ok "$name: the daemon lists a device"
}

# The message is one line, a hint may follow; it says what is wrong.
one_sentence() {
	local lines
	lines=$(grep -vc '^hint: ' <<<"$output")
	if [ "$lines" = 1 ] && [[ $output =~ ^blkctl:\ create:\ .*($2) ]]; then
		ok "$1: the message says so"
	else
		not_ok "$1: the message says so"
		note "$output"
	fi
}

# field REGEX FIELD VALUE [FIELD VALUE]...: one damaged field
field() {
	local regex=$1 image=$dir/field.qcow2
	shift
	cp --reflink=never "$good" "$image"
	set_field "$image" "$@"
	refused "$*" "$regex" "$image"
}

# cut BYTES: a truncated image
cut() {
	cp "$good" "$dir/cut.qcow2"
	truncate -s "$1" "$dir/cut.qcow2"
	refused "cut to $1 bytes" "$2" "$dir/cut.qcow2"
}

not_an_image() {
	head -c 1M /dev/urandom >"$dir/noise"
	refused "noise" "not a qcow2 image" "$dir/noise"
	truncate -s 1M "$dir/zeroes"
	refused "zeroes" "not a qcow2 image" "$dir/zeroes"
	qemu-img create -q -f vmdk "$dir/other.vmdk" 1M
	refused "vmdk" "not a qcow2 image" "$dir/other.vmdk"
	: >"$dir/empty"
	refused "empty file" "" "$dir/empty"
	mkdir "$dir/folder"
	t_rc 1 "a directory is refused" blkctl create bad "$dir/folder"
	t_rc 1 "a character device is refused" blkctl create bad /dev/null
	t_rc 5 "a missing image is not found" blkctl create bad "$dir/nothing"
}

truncated() {
	local n
	for n in 3 4 71 72 103 511; do
		cut $n ""
	done
}

header_fields() {
	field "not a qcow2 image" magic 0x514649fa
	field "version" version 0
	field "version" version 1
	field "version" version 4
	field "version" version 0xffffffff
	field "" cluster_bits 8
	field "" cluster_bits 22
	field "" cluster_bits 0xffffffff
	field "" size 0xffffffffffffffff
	field "" size '1 << 62'
	field "crypt" crypt_method 1
	field "crypt" crypt_method 2
	field "crypt" crypt_method 3
	field "" l1_size 0
	field "" l1_size 0xffffffff
	field "" l1_table_offset old+1
	field "" l1_table_offset eof+cluster
	field "" l1_table_offset '1 << 63'
	field "" l1_table_offset 0
	field "" refcount_table_offset old+512
	field "" refcount_table_offset eof+cluster
	field "" refcount_table_offset 0
	field "" refcount_table_clusters 0
	field "" refcount_table_clusters 0xffffffff
	field "" nb_snapshots 0xffffffff
	field "" nb_snapshots 1 snapshots_offset 1
	field "" nb_snapshots 1 snapshots_offset eof+cluster
	field "" refcount_order 7
	field "" refcount_order 0xffffffff
	field "" header_length 0
	field "" header_length 103
	field "" header_length cluster+8
	field "" extension_type 0x12345678 extension_length 0xffffffff
	field "backing" backing_file_offset 0x400 backing_file_size 10
	field "" backing_file_offset cluster backing_file_size 10
	field "" backing_file_offset 0x400 backing_file_size 1024
}

features() {
	local image=$dir/feature.qcow2
	field "" incompatible_features '1 << 5'
	field "" incompatible_features '1 << 63'
	field "compression" incompatible_features '1 << 3'
	field "data-file" incompatible_features '1 << 2'
	qemu-img create -q -f qcow2 -o cluster_size=4K "$image" 64M
	set_field "$image" incompatible_features '1 << 4'
	refused "extended L2 entries of small clusters" "extended L2" "$image"
}

# A corrupt image may be read, and is refused for writing.
only_readable() {
	local image=$dir/flag.qcow2 before
	cp "$good" "$image"
	set_field "$image" incompatible_features "$2"
	before=$(sum_of "$image")
	t_rc 1 "$1: refused for writing" blkctl create bad "$image"
	one_sentence "$1" "$1"
	is "$(sum_of "$image")" "$before" "$1: the image is as it was"
}

start_daemon
good=$(mkimg good 64M)
not_an_image
truncated
header_fields
features
only_readable corrupt 2
cp "$good" "$dir/dirty.qcow2"
set_field "$dir/dirty.qcow2" incompatible_features 1
t "a dirty one is repaired" attach dirty "$dir/dirty.qcow2"
t "and detached" detach dirty
is "$(set_field "$dir/dirty.qcow2" --get incompatible_features)" 0 "and not dirty"
t "the image itself is fine" attach good "$good"
t "and is detached" detach good
done_testing
