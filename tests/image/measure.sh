#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# measure says what qemu-img measure says, for sizes and for images.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# equal NAME ARGUMENT...: the same object from both, or an error from both
equal() {
	local name=$1 ours theirs
	shift
	ours=$(json measure "$@" 2>/dev/null | jq -Sc 'if .code then "error" else . end')
	if [ "$ours" = '"error"' ]; then
		theirs=$(qemu-img measure --output json "$@" 2>/dev/null | jq -Sc .)
	else
		theirs=$(patient qemu-img measure --output json "$@" | jq -Sc .)
	fi
	is "$ours" "${theirs:-\"error\"}" "$name"
}

for size in 1000 10000000000 16T; do
	for o in '' cluster_size=2M extended_l2=on refcount_bits=64,cluster_size=4k \
		compat=0.10,preallocation=falloc; do
		equal "$size, $o" --size $size -O qcow2 ${o:+-o "$o"}
	done
done
for o in cluster_size=512 cluster_size=4k refcount_bits=1 \
	extended_l2=on,cluster_size=16k preallocation=metadata; do
	equal "1G, $o" --size 1G -O qcow2 -o "$o"
done
equal "nothing" --size 0 -O qcow2
equal "raw" --size 1025 -O raw

for o in '' ,encrypt.cipher-alg=aes-128 ,encrypt.cipher-mode=cbc \
	,cluster_size=2M; do
	equal "encrypted$o" --size 1G -O qcow2 --object secret,id=s,data=abc \
		-o "encrypt.format=luks,encrypt.key-secret=s$o"
done

fails_with 1 "no size and no file" img measure -O qcow2
fails_with 1 "size and file" img measure --size 1G x.qcow2
fails_with 1 "-l without a file" img measure --size 1G -l snap
for o in foo=1 cluster_size=100 cluster_size=4M refcount_bits=3 \
	compat=0.10,refcount_bits=1 extended_l2=on,cluster_size=4k \
	encrypt.format=luks compat=0.10,compression_type=zstd; do
	fails_with 1 "refused: $o" img measure --size 1G -O qcow2 -o "$o"
done
fails_with 1 "too large a disk" img measure --size 100T -O qcow2 -o cluster_size=512
t "-o help" img measure -O qcow2 -o help
like "$output" cluster_size "it lists the options"
t "for people" img measure --size 1G -O qcow2
is "$output" "$(qemu-img measure --size 1G -O qcow2)" "they read what they know"

# --- of images --------------------------------------------------------------------

fill() {
	qemu-io -f "$1" -c 'write -P 1 0 64k' -c 'write -P 2 1M 100k' \
		-c 'write -z 3M 1M' -c 'write -P 3 33M 4k' \
		-c 'write -P 4 63M 1M' "$2" >/dev/null
}

qemu-img create -q -f raw disk.raw 64M && fill raw disk.raw
qemu-img create -q -f qcow2 base.qcow2 64M && fill qcow2 base.qcow2
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 80M
qemu-io -f qcow2 -c 'write -P 9 5M 200k' -c 'write -z 1M 64k' top.qcow2 >/dev/null
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 10000000 &&
	qemu-io -f qcow2 -c 'write 9M 64k' old.qcow2 >/dev/null
qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k sub.qcow2 64M &&
	fill qcow2 sub.qcow2
qemu-img convert -c -f raw -O qcow2 disk.raw packed.qcow2
qemu-img create -q -f qcow2 -o preallocation=metadata pre.qcow2 64M
cp base.qcow2 bitmaps.qcow2
qemu-img bitmap --add bitmaps.qcow2 a
qemu-img bitmap --add -g 512 bitmaps.qcow2 a-name-that-is-longer
qemu-img bitmap --disable bitmaps.qcow2 a

for f in disk.raw base.qcow2 top.qcow2 old.qcow2 sub.qcow2 packed.qcow2 \
	pre.qcow2 bitmaps.qcow2; do
	for o in '' cluster_size=2M,compat=0.10; do
		equal "$f, $o" -f "${f##*.}" -O qcow2 ${o:+-o "$o"} "$f"
	done
done
for o in preallocation=full backing_file=x,backing_fmt=raw; do
	equal "top.qcow2, $o" -f qcow2 -O qcow2 -o "$o" top.qcow2
done
equal "old.qcow2, raw" -f qcow2 -O raw old.qcow2
equal "--image-opts" -O qcow2 --image-opts driver=qcow2,file.filename=top.qcow2
qemu-img snapshot -c one base.qcow2
qemu-io -f qcow2 -c 'write -P 7 40M 4M' base.qcow2 >/dev/null
equal "a snapshot" -O qcow2 -l one base.qcow2
fails_with 1 "a snapshot that is not there" img measure -l two base.qcow2
fails_with 1 "a file that is not there" img measure -O qcow2 nothing.qcow2

done_testing
