#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Many writers at once to parts of one cluster that must be copied first, or
# filled with zeroes: nothing of it is lost, nor of what was there before.
#
# requires: qemu-img qemu-io
# timeout: 240
# vm: --smp 2
# once: 6.12
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/features.sh"

MIB=$((1 << 20))
seed=0

# base NAME BYTES [OPTION of qemu-img convert]...: data everywhere
base() {
	local name=$1 size=$2
	shift 2
	[ -e noise ] || head -c "$MIB" /dev/urandom >noise
	truncate -s 0 base.raw
	for ((i = 0; i * MIB < size; i++)); do cat noise; done |
		head -c "$size" >base.raw
	qemu-img convert -f raw -O qcow2 "$@" base.raw "$name"
}

# pile IMAGE CLUSTER [OPTION of prop]...: many writers, with model.raw
pile() {
	local image=$dir/$1 cluster=$2
	shift 2
	seed=$((seed + 1))
	attach pile "$image" &&
		"$PROP" --seed "$seed" --ops 400 --cluster "$cluster" --pile "$@" \
			/dev/mapper/pile model.raw &&
		detach pile && check_image "$image" &&
		qemu-img compare -f raw -F qcow2 model.raw "$image"
}

piles() { # NAME IMAGE CLUSTER
	qemu-img convert -O raw "$2" model.raw
	t "$1: many writers to one cluster" pile "$2" "$3"
	detach_quietly pile
}

new_image() {
	local n
	for n in 4096 65536 $((2 * MIB)); do
		qemu-img create -q -f qcow2 -o "cluster_size=$n" new.qcow2 8M
		piles "new image, $n" new.qcow2 "$n"
	done
}

old_version() {
	qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 8M
	piles "new image of version 2" old.qcow2 65536
}

# The base ends in the middle of a cluster of the overlay.
over_base() {
	local n
	for n in 512 4096 65536 $((2 * MIB)); do
		base base.qcow2 $((3 * MIB + 77 * 512)) -o cluster_size=32k
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 \
			-o "cluster_size=$n" top.qcow2 4M
		piles "over a base, $n" top.qcow2 "$n"
	done
}

over_raw() {
	base base.qcow2 $((4 * MIB))
	qemu-img create -q -f qcow2 -b base.raw -F raw raw.qcow2 4M
	piles "over a raw base" raw.qcow2 65536
}

# Under a cluster of the top: pieces of three layers, and zeroes.
over_pieces() {
	base base.qcow2 $((4 * MIB))
	qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 \
		-o cluster_size=4k middle.qcow2 4M
	for ((i = 0; i < 4 * MIB; i += 40960)); do
		echo "write -q -P 7 $i 4k"
		echo "write -q -z $((i + 8192)) 4k"
	done | qemu-io -f qcow2 middle.qcow2 >/dev/null
	qemu-img create -q -f qcow2 -b middle.qcow2 -F qcow2 pieces.qcow2 4M
	piles "over pieces" pieces.qcow2 65536
}

over_compressed() { # TYPE
	local n
	for n in 4096 65536 $((2 * MIB)); do
		base packed.qcow2 $((4 * MIB)) -c \
			-o "cluster_size=$n,compression_type=$1"
		piles "over compressed clusters, $1, $n" packed.qcow2 "$n"
	done
}

subclusters() {
	local n
	base base.qcow2 $((4 * MIB))
	for n in 16384 65536 $((2 * MIB)); do
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 \
			-o "extended_l2=on,cluster_size=$n" sub.qcow2 4M
		piles "subclusters over a base, $n" sub.qcow2 "$n"
	done
}

subclusters_alone() {
	qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k ext.qcow2 8M
	piles "subclusters" ext.qcow2 131072
}

start_daemon
feature plain new_image
feature plain old_version
feature backing over_base
feature backing over_raw
feature backing over_pieces
feature compressed over_compressed zlib
feature zstd over_compressed zstd
feature extl2 subclusters_alone
feature extl2+backing subclusters
done_testing
