#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# New images, with every option: qemu-img finds what it would have made itself,
# and what is written to them through QEMU reads back.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# What tells an image from another, but for the size of the file
about() {
	qemu-img info --output=json "$1" | jq -S 'del(.filename,
		."actual-size", .children, ."full-backing-filename",
		."format-specific".data.encrypt,
		."format-specific".data."data-file")'
}

# twin NAME SIZE OPTIONS...: by both, and equal
twin() {
	local name=$1 size=$2
	shift 2
	rm -f a.qcow2 b.qcow2 a.data b.data
	t "$name" img create -q -f qcow2 "$@" a.qcow2 "$size" || return
	qemu-img create -q -f qcow2 "${@//a.data/b.data}" b.qcow2 "$size"
	is "$(about a.qcow2)" "$(about b.qcow2)" "$name: QEMU sees the same"
	t "$name: clean" clean a.qcow2
	t "$name: empty" same a.qcow2 b.qcow2
	[ "$size" != 0 ] && [ "$size" != 1 ] || return
	t "$name: QEMU writes to it" qemu-io -c 'write -P 5 0 3k' \
		-c 'write -P 6 100k 70k' -c 'read -P 5 0 3k' \
		-c 'read -P 6 100k 70k' a.qcow2
	t "$name: and it is clean" clean a.qcow2
}

twin defaults 1G
twin "one byte becomes a sector" 1
twin empty 0
for cs in 512 1k 4k 2M; do
	twin "clusters of $cs" 64M -o cluster_size=$cs
done
twin "a large table" 60G -o cluster_size=512
twin "version 2" 100M -o compat=0.10
for bits in 1 2 4 8 32 64; do
	twin "refcounts of $bits bits" 100M -o refcount_bits=$bits
done
twin "small clusters, wide refcounts" 1G -o cluster_size=512,refcount_bits=64
twin "extended L2" 1G -o extended_l2=on,cluster_size=128k
twin "lazy refcounts" 1G -o lazy_refcounts=on
twin zstd 1G -o compression_type=zstd
twin "several -o" 1G -o compression_type=zstd -o cluster_size=32k
twin "a data file" 64M -o data_file=a.data
twin "a raw data file" 64M -o data_file=a.data,data_file_raw=on
for how in metadata falloc full; do
	twin "preallocation=$how" 32M -o preallocation=$how
	is "$(qemu-img map --output=json a.qcow2 | jq '[.[].present] | all')" \
		true "$how: everything is mapped"
done
twin "preallocated, extended" 32M -o preallocation=metadata,extended_l2=on

img create -q -f qcow2 -o preallocation=metadata a.qcow2 32M
is "$(qemu-img map --output=json a.qcow2 | jq length)" 1 "all in a row"

qemu-img create -q -f raw base.raw 10M
qemu-io -f raw -c 'write -P 7 0 10M' base.raw >/dev/null
t "preallocated, above another" img create -q -f qcow2 -b base.raw -F raw \
	-o preallocation=metadata,extended_l2=on over.qcow2
t "which shows" same base.raw over.qcow2
qemu-img create -q -f qcow2 base.qcow2 20M
t "an overlay" img create -q -f qcow2 -b base.raw -F raw over.qcow2
is "$(qemu-img info --output=json over.qcow2 |
	jq -r '"\(."virtual-size") \(."backing-filename") \(."backing-filename-format")"')" \
	"10485760 base.raw raw" "has its size, name and format"
mkdir -p sub
t "relative to where it is" img create -q -f qcow2 -b ../base.qcow2 -F qcow2 sub/o.qcow2
is "$(qemu-img info --output=json sub/o.qcow2 | jq '."virtual-size"')" 20971520 \
	"it was found"
t "by -o, with another size" img create -q -f qcow2 \
	-o backing_file=base.qcow2,backing_fmt=qcow2 over.qcow2 30M
t "clean" clean over.qcow2
t "unsafe: it need not be there" img create -q -f qcow2 -u -b none.qcow2 -F qcow2 u.qcow2 1M
fails_with 1 "a backing file that is not there" img create -f qcow2 \
	-b none.qcow2 -F qcow2 v.qcow2
is "$(find . -name v.qcow2)" "" "leaves nothing"
fails_with 1 "no format of it" img create -f qcow2 -b base.qcow2 v.qcow2
like "$output" "-F qcow2" "says how"

t "raw" img create -q -f raw r.raw 3M
is "$(stat -c %s r.raw)" 3145728 "as large"
t "raw, full" img create -q -o preallocation=full r.raw 3M
[ "$(stat -c %b r.raw)" -ge 6144 ] && ok "takes its space" || not_ok "takes its space"

printf secret >key
t "encrypted" img create -q -f qcow2 --object secret,id=s,file=key \
	-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 e.qcow2 8M
is "$(qemu-img info --output=json e.qcow2 | jq -r \
	'."format-specific".data.encrypt | "\(.format) \(."cipher-alg") \(."cipher-mode") \(."ivgen-alg") \(."hash-alg")"')" \
	"luks aes-256 xts plain64 sha256" "as QEMU does it"
t "QEMU opens it" qemu-io --object secret,id=s,file=key --image-opts \
	driver=qcow2,file.filename=e.qcow2,encrypt.key-secret=s \
	-c 'write -P 7 1M 1M' -c 'read -P 7 1M 1M'
t "clean" clean --object secret,id=s,file=key --image-opts \
	driver=qcow2,file.filename=e.qcow2,encrypt.key-secret=s
t "another cipher" img create -q -f qcow2 --object secret,id=s,data=abc \
	-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 \
	-o encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv e.qcow2 8M
t "QEMU opens that" qemu-io --object secret,id=s,data=abc --image-opts \
	driver=qcow2,file.filename=e.qcow2,encrypt.key-secret=s -c 'read -P 0 0 1M'
fails_with 1 "no secret" img create -f qcow2 -o encrypt.format=luks f.qcow2 1M

fails_with 1 "no size" img create -f qcow2 x.qcow2
like "$output" "how large" "says so"
for bad in cluster_size=1000 cluster_size=4M refcount_bits=3 compat=2.0 foo=1 \
	extended_l2=on,cluster_size=4k lazy_refcounts=on,compat=0.10 \
	data_file_raw=on; do
	fails_with 1 "refused: $bad" img create -f qcow2 -o $bad x.qcow2 1M
done
fails_with 1 "too large for its clusters" img create -f qcow2 -o cluster_size=512 x.qcow2 1T
is "$(ls x.qcow2 2>/dev/null)" "" "nothing was made"
t "-o help" img create -f qcow2 -o help
like "$output" extended_l2 "lists the options"

t "an image" img create -q -f qcow2 busy.qcow2 1M
qemu-io -c 'read 0 512' -c 'sleep 90000' busy.qcow2 >holder.log 2>&1 &
holder=$!
for _ in $(seq 100); do
	! grep -q '^read' holder.log || break
	sleep 0.1
done
before=$(sha busy.qcow2)
fails_with 1 "in use" img create -f qcow2 busy.qcow2 2M
is "$(sha busy.qcow2)" "$before" "is left alone"
kill $holder
wait $holder 2>/dev/null
before=$(sha base.qcow2)
fails_with 1 "its own backing file" img create -f qcow2 -b base.qcow2 -F qcow2 base.qcow2
ln -s base.qcow2 link.qcow2
fails_with 1 "by another name" img create -f qcow2 -b base.qcow2 -F qcow2 link.qcow2
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 mid.qcow2
fails_with 1 "further down" img create -f qcow2 -b mid.qcow2 -F qcow2 base.qcow2
fails_with 1 "a data file that has something" img create -f qcow2 -o data_file=base.qcow2 y.qcow2 1M
like "$output" "would be lost" "says why"
fails_with 1 "itself as a data file" img create -f qcow2 -o data_file=y.qcow2 y.qcow2 1M
is "$(sha base.qcow2)" "$before" "nothing was lost"
is "$(find . -name y.qcow2)" "" "nothing was made"
is "$(json create -f qcow2 j.qcow2 4M | jq -c .)" \
	'{"filename":"j.qcow2","format":"qcow2","virtual-size":4194304}' "--json"
done_testing
