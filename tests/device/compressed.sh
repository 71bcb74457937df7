#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Compressed clusters read as what QEMU reads: whole, in pieces, many at once,
# with hardly a cache; damaged ones fail, and nothing else does.
#
# once: 6.12
# requires: qemu-img python3 dmsetup dd zstd
# timeout: 480
# vm: --smp 2
. "$(dirname "$0")/../lib.sh"

tool() { python3 "$TESTS/lib/compressed.py" "$@"; }
param=/sys/module/dm_qcow/parameters/decomp_cache_mb
dev=/dev/mapper/disk

# compress TYPE CLUSTER RAW
compress() {
	image=$dir/$1-$2.qcow2
	qemu-img convert -c -O qcow2 -o "cluster_size=$2,compression_type=$1" \
		"$3" "$image"
}

whole() { dd if=$dev bs=1M iflag=direct status=none | sha256sum; }
small() { dd if=$dev bs=4k count=256 skip="$1" iflag=direct status=none | sha256sum; }
counter() { blkctl show disk | awk -v n="$1" '$1 == n {print $2}'; }

# reads TYPE CLUSTER
reads() {
	local name="$1, $2"
	t "$name: compress" compress "$1" "$2" raw
	t "$name: create" attach disk "$image" -r || return
	is "$(whole)" "$sum" "$name: the data is right"
	is "$(small 256)" "$small" "$name: also in pieces of 4K"
	t "$name: pieces of all sizes, 8 at once" tool pieces $dev raw 1 8
	echo 1 >$param
	t "$name: with a small cache" tool pieces $dev raw 1 8
	is "$(whole)" "$sum" "$name: the same data"
	echo 0 >$param
	t "$name: remove" detach disk
	rm -f "$image"
}

as_qemu() {
	qemu-img convert --salvage -f qcow2 -O raw "$image" theirs
	cmp ours theirs
}

# damaged NAME FAILED: how many clusters fail
damaged() {
	local failed
	t "$1: create" attach disk "$image" -r || return
	failed=$(tool salvage $dev ours 65536)
	like "$failed" "^$2\$" "$1: $failed clusters fail"
	t "$1: the kernel says so" klog_has "compressed cluster .* is damaged"
	is "$(tool salvage $dev again 65536)" "$failed" "$1: again"
	t "$1: the same data" cmp ours again
	t "$1: remove" detach disk
}

tool data raw 4
sum=$(sha256sum <raw)
small=$(dd if=raw bs=4k count=256 skip=256 status=none | sha256sum)
dd if=raw of=text bs=64k count=26 status=none
start_daemon
modprobe dm-qcow
defer bash -c "echo 0 >$param"

reads zlib 512
reads zlib 64k
reads zlib 2M
reads zstd 4k
reads zstd 64k
reads zstd 2M

for type in zlib zstd; do
	compress $type 64k text
	failed=$(tool craft "$image" text)
	damaged "$type, rare and bad streams" "$failed"
	t "$type, rare and bad streams: as QEMU reads it" as_qemu
	compress $type 64k text
	tool flip "$image" 1
	damaged "$type, random damage" "[1-9][0-9]*"
	t "$type, random damage: the rest is whole" tool odd ours text 65536
done

t "compress" compress zstd 64k raw
t "create, to write" attach disk "$image"
tool pieces $dev raw 4 4 &
job=$!
for i in 50 54 58; do
	t "write beside them" dd if=/dev/zero of=$dev bs=64k count=1 seek=$i \
		oflag=direct conv=notrunc status=none
	for _ in 1 2 3; do echo 2 >/proc/sys/vm/drop_caches; done
done
t "reads meanwhile" wait $job
is "$(whole)" "$sum" "the data is as before"
t "remove" detach disk
t "no errors, no leaks" check_image "$image"
done_testing
