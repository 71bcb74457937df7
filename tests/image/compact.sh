#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# compact makes files smaller, and changes nothing in disks, snapshots and
# bitmaps.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

size() { stat -c %s "$1"; }

# used IMAGE: bytes of clusters that are in use, by QEMU
used() {
	local cs
	cs=$(qemu-img info --output=json "$1" | jq '."cluster-size"')
	echo $(($(qemu-img check --output=json "$1" | jq '."image-end-offset"') / cs * cs))
}

# make OPTIONS [QEMU-IO COMMAND]...: holes where data was
make() {
	local opts=$1 i cmds=()
	shift
	rm -f a.qcow2
	for i in $(seq 0 3 60); do
		cmds+=(-c "discard $((i * 256))k 256k")
	done
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $opts a.qcow2 64M &&
		qemu-io -f qcow2 -c 'write -P 1 0 10M' "$@" \
			-c 'write -P 2 10M 7M' a.qcow2 >/dev/null &&
		qemu-io -f qcow2 -d unmap "${cmds[@]}" \
			-c 'discard 2M 3M' a.qcow2 >/dev/null
}

# compact: the same in it, clean, smaller by more than $1 KiB
compact() {
	local before after tag
	before=$(size a.qcow2)
	qemu-img convert -f qcow2 -O raw a.qcow2 want.raw
	for tag in $tags; do
		qemu-img convert -f qcow2 -l "$tag" -O raw a.qcow2 "$tag.raw"
	done
	img compact -q a.qcow2 || return
	after=$(size a.qcow2)
	echo "$before -> $after"
	clean a.qcow2 && same -f qcow2 -F raw a.qcow2 want.raw || return
	for tag in $tags; do
		qemu-img convert -f qcow2 -l "$tag" -O raw a.qcow2 now.raw &&
			cmp now.raw "$tag.raw" || return
	done
	[ $((before - after)) -ge $(($1 * 1024)) ] && [ "$(used a.qcow2)" = "$after" ]
}
tags=

for opts in "" "-o cluster_size=4k" "-o extended_l2=on" "-o compat=0.10" \
	"-o refcount_bits=64,cluster_size=512" "-o refcount_bits=1"; do
	make "$opts"
	t "holes: $opts" compact 4000
	t "again: $opts" compact 0
done

make "" -c 'write -c -P 5 20M 64k' -c 'write -c -P 6 21M 64k' -c 'write -c -P 7 22M 64k'
t "compressed clusters" compact 4000
rm -f a.qcow2 src.raw
dd if=/dev/urandom bs=48k count=100 status=none | sed 's/\(.\)/\1/g' >src.raw
truncate -s 16M src.raw
qemu-img convert -q -c -f raw -O qcow2 -o cluster_size=16k src.raw a.qcow2
qemu-io -f qcow2 -c 'discard 0 1M' a.qcow2 >/dev/null
qemu-io -f qcow2 -c 'write -P 9 8M 1M' -c 'discard 8M 1M' a.qcow2 >/dev/null
t "many compressed clusters" compact 900

# text compresses, and its clusters have all lengths
rm -f a.qcow2
seq 1000000 | head -c 8M >src.raw
for comp in zlib zstd; do
	for opts in "" ",refcount_bits=8" ",refcount_bits=2"; do
		qemu-img convert -q -c -f raw -O qcow2 \
			-o "cluster_size=4k,compression_type=$comp$opts" src.raw a.qcow2
		qemu-io -f qcow2 -c 'discard 1M 2M' -c "discard 5M 1M" a.qcow2 >/dev/null
		qemu-io -f qcow2 -c 'write -P 3 3M 64k' a.qcow2 >/dev/null
		t "packed text: $comp$opts" compact 100
	done
done

make ""
qemu-img snapshot -c one a.qcow2
qemu-io -f qcow2 -c 'write -P 3 5M 5M' -c 'write -c -P 6 30M 64k' a.qcow2 >/dev/null
qemu-img snapshot -c two a.qcow2
qemu-io -f qcow2 -c 'write -P 4 6M 5M' a.qcow2 >/dev/null
qemu-img snapshot -c gone a.qcow2
qemu-io -f qcow2 -c 'write -P 5 40M 5M' a.qcow2 >/dev/null
qemu-img snapshot -d gone a.qcow2
tags="one two"
t "snapshots" compact 0
qemu-img snapshot -d one a.qcow2
tags=two
t "one snapshot less" compact 3000
tags=

make ""
qemu-img bitmap --add a.qcow2 b0
qemu-img bitmap --add -g 512 a.qcow2 b1
qemu-io -f qcow2 -c 'write -P 8 3M 1M' a.qcow2 >/dev/null
bits() { qemu-img info --output=json "$1" | jq -cS '."format-specific".data.bitmaps'; }
want=$(bits a.qcow2)
t "bitmaps" compact 3000
is "$(bits a.qcow2)" "$want" "which stay"

qemu-img create -q -f qcow2 a.qcow2 8T
for i in 0 1 2 3 4 5 6 7; do
	qemu-io -f qcow2 -c "write -P $i ${i}T 1M" a.qcow2 >/dev/null
done
qemu-io -f qcow2 -d unmap -c 'discard 1T 1M' -c 'discard 4T 1M' -c 'discard 2T 1M' a.qcow2 >/dev/null
before=$(size a.qcow2)
t "a large disk" img compact -q a.qcow2
t "it is clean" clean a.qcow2
[ "$(size a.qcow2)" -lt "$before" ]
is $? 0 "and smaller"
for i in 0 3 5 6 7; do
	qemu-io -f qcow2 -r -c "read -P $i ${i}T 1M" a.qcow2 >out
	like "$(cat out)" "^read 1048576" "data at ${i}T"
done

rm -f d.raw
make "-o data_file=d.raw"
t "a data file" compact 0
make ""
is "$(json compact a.qcow2 | jq -c 'keys')" \
	'["filename","moved-clusters","size-after","size-before"]' "--json"
qemu-img create -q -f raw r.raw 1M
fails_with 1 "raw" img compact -f raw r.raw
done_testing
