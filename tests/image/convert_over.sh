#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# convert -n: copies into images that have something; whatever was there, the
# disk is the source's then.
#
# requires: qemu-img qemu-io qemu-nbd jq
. "$(dirname "$0")/lib.sh"

make_sources

# full SIZE OPTION...: an image that has something everywhere
full() {
	local size=$1
	shift
	rm -f there.qcow2 there.data
	qemu-img create -q -f qcow2 "$@" there.qcow2 "$size"
	qemu-io -f qcow2 -c "write -P 0x55 0 $size" -c 'write -c -P 6 2M 64k' \
		-c 'write -z 17M 1M' there.qcow2 >/dev/null
}
compressed() { qemu-img check --output=json "$1" | jq '."compressed-clusters"'; }

for o in cluster_size=64k cluster_size=4k compat=0.10 extended_l2=on \
	refcount_bits=1,compression_type=zstd \
	data_file=there.data,data_file_raw=on; do
	for c in '' -c; do
		[[ $o$c != data_file*-c ]] || continue
		full $SIZE -o $o
		t "over: $o $c" img convert -q -n $c -f raw -O qcow2 disk.raw there.qcow2
		t "the same disk" same -f raw -F qcow2 disk.raw there.qcow2
		t "clean" clean there.qcow2
		[ ! "$c" ] || t "compressed" [ "$(compressed there.qcow2)" -ge 1 ]
	done
done
full $SIZE
t "zeroes too" img convert -n -S 0 -W -m 3 -O qcow2 disk.raw there.qcow2
t "the same disk" same disk.raw there.qcow2
is "$(qemu-img check --output json there.qcow2 | jq '."allocated-clusters"')" 320 \
	"all is written"

# What snapshots have stays.
full $SIZE
qemu-img convert -f qcow2 -O raw there.qcow2 before.raw
qemu-img snapshot -c before there.qcow2
for c in '' -c; do
	t "under a snapshot $c" img convert -n $c -O qcow2 disk.raw there.qcow2
	t "the same disk" same disk.raw there.qcow2
	t "clean" clean there.qcow2
	qemu-img convert -l before -O raw there.qcow2 snap.raw
	is "$(sha snap.raw)" "$(sha before.raw)" "the snapshot has what it had"
done

# What is behind the end of the source stays.
for c in '' -c; do
	head -c 5000192 disk.raw >odd.raw
	full 24M
	qemu-img convert -f qcow2 -O raw there.qcow2 want.raw
	dd if=odd.raw of=want.raw bs=64k conv=notrunc status=none
	t "a larger target $c" img convert -n $c -f raw -O qcow2 odd.raw there.qcow2
	t "what was behind the end" same -f raw -F qcow2 want.raw there.qcow2
done

# Above another image: zeroes hide it, and with -B what the source does not have
# shows it.
for o in cluster_size=64k compat=0.10 extended_l2=on; do
	full $SIZE -b below.raw -F raw -o $o
	t "above another: $o" img convert -n -O qcow2 disk.raw there.qcow2
	t "the same disk" same disk.raw there.qcow2
	full $SIZE -b below.raw -F raw -o $o
	t "with -B: $o" img convert -n -B below.raw -F raw -O qcow2 top.qcow2 there.qcow2
	t "the same disk" same top.qcow2 there.qcow2
	t "clean" clean there.qcow2
	t "no more than the source has" [ "$(qemu-img check --output json there.qcow2 |
		jq '."allocated-clusters"')" -lt 30 ]
done
full $SIZE
fails_with 1 "-B, and none below" img convert -n -B below.raw -F raw -O qcow2 \
	top.qcow2 there.qcow2
sum=$(sha there.qcow2)
fails_with 1 "onto itself" img convert -n -U -O qcow2 there.qcow2 there.qcow2
fails_with 1 "onto what is below the source" img convert -n -U -O raw top.qcow2 below.raw
qemu-img create -q -f qcow2 small.qcow2 1M
fails_with 1 "too small" img convert -n -O qcow2 disk.raw small.qcow2
is "$(sha there.qcow2)" "$sum" "nothing has changed"

# A bitmap that records knows of all that was written, behind its end of nothing.
for f in full empty; do
	rm -f b.qcow2
	qemu-img create -q -f qcow2 b.qcow2 24M
	[ $f = empty ] || qemu-io -c 'write 0 1M' b.qcow2 >/dev/null
	qemu-img bitmap --add b.qcow2 b0
	qemu-img bitmap --add --disable b.qcow2 b1
	t "a bitmap that records, $f" img convert -n -O qcow2 disk.raw b.qcow2
	is "$(bits b.qcow2 b0)" "[[0,20971520]]" "knows of it"
	is "$(bits b.qcow2 b1)" "[]" "one that does not record stays as it was"
	t "clean" clean b.qcow2
done

qemu-img convert -O qcow2 disk.raw b.qcow2 && qemu-img bitmap --add b.qcow2 b0
full $SIZE
t "bitmaps too" img convert -n --bitmaps -O qcow2 b.qcow2 there.qcow2
t "the same disk" same disk.raw there.qcow2
t "clean" clean there.qcow2
is "$(qemu-img info --output=json there.qcow2 |
	jq -r '."format-specific".data.bitmaps[].name')" b0 "they are there"
full $SIZE -b below.raw -F raw
fails_with 1 "opened without what is below" img convert -n --target-image-opts disk.raw \
	driver=qcow2,file.filename=there.qcow2,backing=

# Interrupted, the image is there still, and is one.
full $SIZE
qemu-img create -q -f qcow2 large.qcow2 64G
timeout -s INT 0.2 "$BIN/blkctl" image convert -n -S 0 -O qcow2 large.qcow2 \
	there.qcow2 >/dev/null 2>&1
t "interrupted" leaks_only there.qcow2

done_testing
