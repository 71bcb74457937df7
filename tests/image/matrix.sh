#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images of many kinds, made by either tool, are the same to the other: info,
# check, map, compare, and the bytes that convert writes.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

SIZE=20M

kinds=(
	''
	'compat=0.10'
	'cluster_size=512'
	'cluster_size=4k,refcount_bits=1'
	'cluster_size=2M,refcount_bits=64'
	'lazy_refcounts=on,refcount_bits=8'
	'extended_l2=on,cluster_size=32k'
	'compression_type=zstd'
	'preallocation=metadata'
	'preallocation=falloc,cluster_size=16k'
	'data_file=KIND.raw,data_file_raw=on'
	'data_file=KIND.raw,cluster_size=128k'
	'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10'
)

# What differs between two runs or two programs, and means nothing.
plain_info() {
	jq -S 'del(."disk-size", ."actual-size", .children, .filename,
		."full-backing-filename", ."dirty-flag",
		."format-specific".data.encrypt) |
		if ."format-specific".data."data-file" then
			."format-specific".data."data-file" = "it" else . end'
}

# Runs of one kind are one, however they were cut; what is not there has no place.
joined_map() {
	jq -c 'map(if .present then . else .offset = null end) |
		reduce .[] as $x ([];
		if length > 0 and (.[-1] |
			.depth == $x.depth and .zero == $x.zero and
			.data == $x.data and .present == $x.present and
			(.start + .length) == $x.start and
			(.offset == null) == ($x.offset == null) and
			(.offset == null or .offset + .length == $x.offset))
		then .[-1].length += $x.length
		else . + [$x | {start, length, depth, present, zero, data,
			offset}] end)'
}

# name_opts KIND FILE: how qemu-img and qemu-io are told of it
name_opts() {
	case $1 in
	encrypt.*) echo "--image-opts driver=qcow2,encrypt.key-secret=s,file.filename=$2" ;;
	*) echo "-f qcow2 $2" ;;
	esac
}

object=(--object "secret,id=s,data=a-passphrase")

# io KIND FILE COMMAND...: by qemu-io
io() {
	local kind=$1 file=$2 args=()
	shift 2
	for c; do args+=(-c "$c"); done
	# shellcheck disable=SC2046
	qemu-io "${object[@]}" "${args[@]}" $(name_opts "$kind" "$file") >/dev/null
}

# with TOOL VERB KIND FILE [OPTION]...: by "ours" or "theirs"
with() {
	local tool=$1 verb=$2 kind=$3 file=$4 run=img
	shift 4
	[ "$tool" = ours ] || run=qemu-img
	# shellcheck disable=SC2046
	$run "$verb" "${object[@]}" "$@" $(name_opts "$kind" "$file")
}

fill() {
	io "$1" "$2" 'write -P 1 0 64k' 'write -P 2 100k 300k' \
		'write -P 3 5M 1M' 'write -z 5200k 128k' 'write -P 4 10000k 7k' \
		"write -P 5 19M 1M" 'write -z 12M 1M'
}

# make TOOL KIND FILE
make_image() {
	local opts=${2//KIND/$3}
	if [ "$1" = ours ]; then
		img create -q -f qcow2 "${object[@]}" ${opts:+-o "$opts"} "$3" $SIZE
	else
		patient qemu-img create -q -f qcow2 "${object[@]}" ${opts:+-o "$opts"} "$3" $SIZE
	fi
}

# examine KIND FILE: what both say of it is the same
examine() {
	local kind=$1 f=$2 name="${1:-no options}, by $3"

	if has_verb info; then
		is "$(with ours info "$kind" "$f" --json | jq .image | plain_info)" \
			"$(with theirs info "$kind" "$f" --output json | plain_info)" \
			"$name: info"
	fi
	if has_verb check; then
		t "$name: check finds nothing" with ours check "$kind" "$f"
	fi
	if has_verb map; then
		is "$(with ours map "$kind" "$f" --json | jq .map | joined_map)" \
			"$(with theirs map "$kind" "$f" --output json | joined_map)" \
			"$name: map"
	fi
	[[ $kind != encrypt.* ]] || return 0
	if has_verb compare; then
		t "$name: compare" img compare -f qcow2 -F raw "$f" content.raw
	fi
	if has_verb convert; then
		t "$name: convert to raw" img convert -f qcow2 -O raw "$f" back.raw
		t "$name: the same bytes" cmp back.raw content.raw
	fi
}

qemu-img create -q -f raw content.raw $SIZE
io_raw() { qemu-io -f raw "${@}" content.raw >/dev/null; }
io_raw -c 'write -P 1 0 64k' -c 'write -P 2 100k 300k' -c 'write -P 3 5M 1M' \
	-c 'write -z 5200k 128k' -c 'write -P 4 10000k 7k' -c 'write -P 5 19M 1M' \
	-c 'write -z 12M 1M'

n=0
for kind in "${kinds[@]}"; do
	n=$((n + 1))
	make_image theirs "$kind" theirs$n
	fill "$kind" theirs$n
	examine "$kind" theirs$n qemu-img
	has_verb create || continue
	t "${kind:-no options}: create" make_image ours "$kind" ours$n
	is "$(with theirs info "$kind" ours$n --output json | plain_info)" \
		"$(make_image theirs "$kind" fresh$n &&
			with theirs info "$kind" fresh$n --output json | plain_info)" \
		"${kind:-no options}: create makes what qemu-img makes"
	fill "$kind" ours$n
	# shellcheck disable=SC2046
	t "${kind:-no options}: clean" with theirs check "$kind" ours$n -q
	t "${kind:-no options}: the same disk" qemu-img compare -q "${object[@]}" \
		--image-opts "driver=qcow2,file.filename=theirs$n${kind:+$(
			[[ $kind != encrypt.* ]] || echo ,encrypt.key-secret=s)}" \
		"driver=qcow2,file.filename=ours$n${kind:+$(
			[[ $kind != encrypt.* ]] || echo ,encrypt.key-secret=s)}"
done

done_testing
