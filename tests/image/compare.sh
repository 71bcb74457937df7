#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# compare says what qemu-img compare says, with its exit codes.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# equal NAME ARGUMENT...: the same text and exit code from both
equal() {
	local name=$1 ours theirs
	shift
	ours=$(img compare "$@" 2>/dev/null; echo "exit $?")
	theirs=$(qemu-img compare "$@" 2>/dev/null; echo "exit $?")
	is "$ours" "$theirs" "$name"
}

qemu-img create -q -f raw a.raw 16M
qemu-io -f raw -c 'write -P 1 64k 200k' -c 'write -P 2 9M 3M' a.raw >/dev/null
qemu-img convert -f raw -O qcow2 a.raw a.qcow2
qemu-img convert -c -f raw -O qcow2 a.raw packed.qcow2
qemu-img convert -c -o compression_type=zstd -f raw -O qcow2 a.raw zstd.qcow2
qemu-img convert -o extended_l2=on -f raw -O qcow2 a.raw sub.qcow2
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2
for f in a.qcow2 packed.qcow2 zstd.qcow2 sub.qcow2 top.qcow2; do
	equal "a.raw, $f" -f raw -F qcow2 a.raw $f
	equal "$f, a.raw" -f qcow2 -F raw $f a.raw
done

cp a.qcow2 b.qcow2
qemu-io -f qcow2 -c 'write -P 3 10000001 1' b.qcow2 >/dev/null
equal "a byte in data" a.qcow2 b.qcow2
equal "packed, a byte" packed.qcow2 b.qcow2
qemu-io -f qcow2 -c 'write -P 3 5000001 1' b.qcow2 >/dev/null
equal "a byte in a hole" a.qcow2 b.qcow2
equal "and the other way round" b.qcow2 a.qcow2

cp a.qcow2 longer.qcow2 && qemu-img resize -q longer.qcow2 20M
equal "longer, by zeroes" a.qcow2 longer.qcow2
equal "shorter" longer.qcow2 a.qcow2
equal "strict: longer" -s a.qcow2 longer.qcow2
cp longer.qcow2 more.qcow2
qemu-io -f qcow2 -c 'write -P 4 19M 1k' more.qcow2 >/dev/null
equal "longer, by data" a.qcow2 more.qcow2
equal "longer, and a byte before" b.qcow2 longer.qcow2
equal "strict: the same" -s a.qcow2 a.qcow2
cp a.qcow2 zero.qcow2 && qemu-io -f qcow2 -c 'write -z 4M 1M' zero.qcow2 >/dev/null
equal "zeroes are a hole" a.qcow2 zero.qcow2
equal "strict: they are none" -s a.qcow2 zero.qcow2
equal "quiet" -q a.qcow2 b.qcow2

# threads compare chunks side by side: the first difference counts, always
head -c 16M /dev/urandom >many.raw && cp many.raw other.raw
for i in 3 5 6 9 11 15; do
	printf '\0\1\2\3' | dd of=other.raw bs=1 seek=${i}234567 conv=notrunc status=none
done
seen=$(for _ in $(seq 12); do img compare many.raw other.raw; done | sort -u)
is "$seen" "$(qemu-img compare -f raw -F raw many.raw other.raw)" "the first of many"

fails_with 2 "one is not there" img compare a.qcow2 nothing.qcow2
fails_with 2 "no qcow2" img compare -f qcow2 a.raw a.qcow2
# The second entry of the first L2 table, the one at 64k
cp a.qcow2 bad.qcow2
l1=$(od -An -tu8 -j40 -N8 --endian=big bad.qcow2)
l2=$(($(od -An -tu8 -j$((l1)) -N8 --endian=big bad.qcow2) & 0xfffffffffffe00))
printf '\x80\0\0\0\0\x01\x02\0' |
	dd of=bad.qcow2 bs=1 seek=$((l2 + 8)) conv=notrunc status=none
fails_with 3 "damaged metadata" img compare a.qcow2 bad.qcow2

is "$(json compare a.qcow2 packed.qcow2 | jq -c .)" '{"identical":true}' "JSON: the same"
is "$(json compare a.qcow2 b.qcow2 | jq -Sc .)" \
	'{"identical":false,"mismatch":"content","offset":4999680}' "JSON: not the same"

done_testing
