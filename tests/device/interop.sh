#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images of every kind that qemu-img makes, and chains of them: the device holds
# what qemu-img reads, also after writes, and qemu-img finds no errors in the
# image afterwards and reads the same.
#
# requires: qemu-img qemu-io python3
# timeout: 400
# once: 6.1
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/features.sh"

images=$("$TESTS/lib/make-images") || bail "cannot make images"
seed=0

# fetch FILE CONTENT: into the test's folder, as $image and $model
fetch() {
	local from=$images/$1
	case $1 in
	*/*) from=$(dirname "$from") ;;
	data-*) cp --sparse=always "${from%.qcow2}.data" . ;;
	esac
	cp -r --sparse=always "$from" . &&
		cp --sparse=always "$images/$2" "$dir/model.raw" || return
	image=$dir/$1
	model=$dir/model.raw
}

cluster() { # IMAGE: what its header says
	echo $((1 << 0x$(od -An -j 23 -N 1 -tx1 "$1" | tr -d ' ')))
}

# operations DEVICE MODEL IMAGE: compares all of it, before and after
operations() {
	seed=$((seed + 1))
	"$PROP" --seed "$seed" --ops 150 --cluster "$(cluster "$3")" "$1" "$2"
}

compare() { # MODEL IMAGE
	if [[ $2 == */luks.qcow2 ]]; then
		qemu-img compare --object secret,id=k,file="$images/key" \
			--image-opts driver=raw,file.filename="$1" \
			driver=qcow2,encrypt.key-secret=k,file.filename="$2"
	else
		qemu-img compare -f raw -F qcow2 "$1" "$2"
	fi
}

clean() { # IMAGE
	if [[ $1 == */luks.qcow2 ]]; then
		qemu-img check --object secret,id=k,file="$images/key" \
			--image-opts \
			driver=qcow2,encrypt.key-secret=k,file.filename="$1"
	else
		check_image "$1"
	fi
}

step() { echo "step: $1"; shift; "$@"; }

# whole FILE CONTENT: all that is tried with one
whole() {
	local options=()
	[ "$1" != luks.qcow2 ] || options=(--key-file "$images/key")
	step copy fetch "$@" &&
		step create attach image "$image" "${options[@]}" &&
		step "compare, write" operations /dev/mapper/image "$model" "$image" &&
		step remove detach image &&
		step check clean "$image" &&
		step compare compare "$model" "$image"
}

# one FILE CONTENT
one() {
	t "$1: holds what qemu-img reads, before and after writes" whole "$@"
	detach_quietly image
	rm -rf "${image:?}" "${dir:?}"/chain-* "$dir"/*.data "$model"
}

# Far apart in an image that is larger than any disk.
huge() {
	image=$(mkimg huge 60T)
	t "60T: create" attach huge "$image" || return
	is "$(blockdev --getsize64 /dev/mapper/huge)" $((60 << 40)) "60T: its size"
	t "60T: writes, far apart" qemu-io -f raw -t none -c 'write -P 1 0 64k' \
		-c 'write -P 2 30T 1M' -c 'write -P 3 61847529058304 4k' \
		-c 'read -P 2 30T 1M' -c 'read -P 0 31T 1M' /dev/mapper/huge
	t "60T: remove" detach huge
	t "60T: no errors, no leaks" check_image "$image"
	t "60T: qemu-img reads it" qemu-io -f qcow2 -c 'read -P 1 0 64k' \
		-c 'read -P 2 30T 1M' -c 'read -P 3 61847529058304 4k' "$image"
}

# Two devices on one base, written to at once.
two_on_one() {
	local i pids=()
	fetch chain-2/top.qcow2 chain-2/top.raw || return
	for i in 1 2; do
		qemu-img create -q -f qcow2 -b "$image" -F qcow2 \
			-o cluster_size=$((4 << (2 * i)))k "$i.qcow2"
		cp --sparse=always "$model" "$i.raw"
		t "two on one base: create $i" attach "image$i" "$dir/$i.qcow2" ||
			return
	done
	before=$(stat -c '%s %y' chain-2/*)
	for i in 1 2; do
		"$PROP" --seed "$i" --ops 300 "/dev/mapper/image$i" "$i.raw" >"$i.log" 2>&1 &
		pids+=($!)
	done
	for i in 1 2; do
		t "two on one base: operations on $i" wait "${pids[i - 1]}" || note <"$i.log"
		t "two on one base: remove $i" detach "image$i"
		t "two on one base: no errors, no leaks in $i" check_image "$i.qcow2"
		t "two on one base: qemu-img reads $i" compare "$i.raw" "$i.qcow2"
	done
	is "$(stat -c '%s %y' chain-2/*)" "$before" "two on one base: it is as it was"
}

start_daemon
while read -r file feature content; do
	feature "$feature" one "$file" "$content"
done <"$images/MANIFEST"
feature plain huge
feature backing two_on_one
done_testing
