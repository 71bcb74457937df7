#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# info says what qemu-img info says, key by key, of images of every kind; and
# draws chains.
#
# requires: qemu-img qemu-io jq python3
. "$(dirname "$0")/lib.sh"

# equal NAME FILE [OPTION]...
equal() {
	local name=$1
	shift
	is "$(json info "$@" | jq -S .)" \
		"$(qemu-img info --output=json "$@" | jq -S .)" "$name"
}

for o in compat=0.10 compat=1.1 cluster_size=512 cluster_size=2M \
	extended_l2=on lazy_refcounts=on refcount_bits=1 refcount_bits=64 \
	compression_type=zstd data_file=x.data \
	data_file=x.data,data_file_raw=on preallocation=falloc; do
	qemu-img create -q -f qcow2 -o "$o" a.qcow2 40M
	qemu-io -c 'write 1M 64k' a.qcow2 >/dev/null
	equal "$o" a.qcow2
done
qemu-img create -q -f raw r.raw 3M
equal raw r.raw
printf 'not whole' >odd.raw
is "$(json info odd.raw | jq '."virtual-size"')" 9 "a raw file of odd size"

qemu-img create -q -f qcow2 s.qcow2 10M
for i in 1 2 3; do
	qemu-img snapshot -c "snap $i" s.qcow2
	qemu-io -c "write ${i}M 64k" s.qcow2 >/dev/null
done
equal snapshots s.qcow2
t "for people" img info s.qcow2
like "$output" "snap 2" "they are listed"
qemu-img create -q -f qcow2 b.qcow2 10M
qemu-img bitmap --add -g 1M b.qcow2 one
qemu-img bitmap --add --disable b.qcow2 two
equal bitmaps b.qcow2

mkdir -p sub
qemu-img create -q -f qcow2 sub/base.qcow2 10M
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 sub/mid.qcow2
qemu-img create -q -f qcow2 -b sub/mid.qcow2 -F qcow2 top.qcow2
equal "an overlay" top.qcow2
is "$(json info --backing-chain top.qcow2 | jq -c 'map([."virtual-size", .format, ."backing-filename"])')" \
	"$(qemu-img info --output=json --backing-chain top.qcow2 |
		jq -c 'map([."virtual-size", .format, ."backing-filename"])')" \
	"a chain"
t "as a tree" img info --graph tree top.qcow2
is "$(grep -c qcow2 <<<"$output")" 3 "three images"
t "as dot" img info --graph dot top.qcow2
like "$output" "n1 -> n2" "who is below whom"
qemu-img rebase -q -u -b top.qcow2 -F qcow2 sub/base.qcow2 2>/dev/null
qemu-img rebase -q -u -b ../top.qcow2 -F qcow2 sub/base.qcow2
fails_with 1 "a chain without an end" img info --backing-chain top.qcow2
like "$output" "leads back" "is found"
equal "alone it is fine" top.qcow2

patient qemu-img create -q -f qcow2 --object secret,id=s,data=x \
	-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 e.qcow2 4M
is "$(json info e.qcow2 | jq -c '[.encrypted, ."format-specific".data.encrypt.format]')" \
	'[true,"luks"]' "encrypted: no key is needed"
for o in cipher-alg=aes-256 cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256 \
	cipher-alg=aes-256,cipher-mode=cbc,ivgen-alg=plain,hash-alg=sha512; do
	patient qemu-img create -q -f qcow2 --object secret,id=s,data=x -o \
		"encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,encrypt.${o//,/,encrypt.}" e.qcow2 4M
	equal "LUKS: $o" e.qcow2
done
# QEMU sorts its lines
is "$(img info e.qcow2 | sort)" "$(qemu-img info e.qcow2 | sort)" "for people too"
printf 'XXXX' | dd of=e.qcow2 bs=1 conv=notrunc status=none \
	seek=$(($(od -An -tu8 --endian=big -j120 -N8 e.qcow2)))
t "a damaged LUKS header is left out" img info e.qcow2

python3 - <<'PY'
d = bytearray(open("a.qcow2", "rb").read())
open("short", "wb").write(d[:300])
d[20:24] = (99).to_bytes(4, "big")
open("bits", "wb").write(d)
PY
for bad in short bits none; do
	fails_with 1 "refused: $bad" img info $bad
done
t "raw is what it is" img info -f raw bits
qemu-io -c 'read 0 512' -c 'sleep 90000' s.qcow2 >holder.log 2>&1 &
holder=$!
for _ in $(seq 100); do
	! grep -q '^read' holder.log || break
	sleep 0.1
done
fails_with 1 "in use" img info s.qcow2
t "with -U all the same" img info -U s.qcow2
kill $holder
wait $holder 2>/dev/null
done_testing
