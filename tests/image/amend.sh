#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# amend makes of an image what qemu-img's makes of it, and refuses what that
# refuses.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# make OPTIONS: data, zeroes, and a snapshot with other data
make() {
	rm -f a.qcow2
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $1 a.qcow2 16M &&
		qemu-io -f qcow2 -c 'write -P 1 0 3M' -c 'write -z 1M 64k' \
			-c 'write -c -P 4 8M 64k' a.qcow2 >/dev/null &&
		qemu-img snapshot -c one a.qcow2 &&
		qemu-io -f qcow2 -c 'write -P 2 2M 1M' -c 'write -z 2560k 128k' \
			-c 'write -z 9M 64k' a.qcow2 >/dev/null &&
		cp a.qcow2 b.qcow2
}

facts() {
	qemu-img info --output=json "$1" |
		jq -cS '[."format-specific".data, ."virtual-size",
			(.snapshots // [] | map(.name))]'
}

# both TEXT OPTIONS: the same by both, and nothing lost
both() {
	img amend -q -o "$2" a.qcow2 && qemu-img amend -q -o "$2" b.qcow2 &&
		clean a.qcow2 && same -f qcow2 -F qcow2 a.qcow2 b.qcow2 &&
		[ "$(facts a.qcow2)" = "$(facts b.qcow2)" ] &&
		snapshots_same
}

snapshots_same() {
	qemu-img convert -l one -f qcow2 -O raw a.qcow2 a.raw &&
		qemu-img convert -l one -f qcow2 -O raw b.qcow2 b.raw &&
		cmp a.raw b.raw
}

truncate -s 16M base.raw
qemu-io -f raw -c 'write -P 7 0 16M' base.raw >/dev/null

for opts in "" "-o cluster_size=512" "-b base.raw -F raw" \
	"-b base.raw -F raw -o cluster_size=4k"; do
	make "-o compat=0.10 $opts" 2>/dev/null
	t "version 3: $opts" both x compat=1.1
	t "lazy refcounts: $opts" both x lazy_refcounts=on
	t "and back: $opts" both x compat=0.10,lazy_refcounts=off
	make "$opts"
	t "version 2: $opts" both x compat=0.10
	make "$opts"
	for bits in $([[ $opts = *cluster* ]] && echo 8 64 || echo 64 2); do
		t "refcounts of $bits bits: $opts" both x "refcount_bits=$bits"
	done
done
make "-o extended_l2=on"
t "refcounts with extended L2" both x refcount_bits=8
t "size" both x size=20M
t "all at once" both x refcount_bits=16,size=32M,lazy_refcounts=on
qemu-img bitmap --add a.qcow2 b0
cp a.qcow2 b.qcow2
t "bitmaps stay" both x refcount_bits=32
is "$(facts a.qcow2 | jq '.[0].bitmaps | length')" 1 "there it is"

rm -f d.raw
qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 1M
mv d.raw e.raw
t "another data file" img amend -q -o data_file=e.raw d.qcow2
t "it is used" clean d.qcow2
t "data_file_raw=off" img amend -q -o data_file_raw=off d.qcow2
is "$(qemu-img info --output=json d.qcow2 | jq -c '."format-specific".data | [."data-file", ."data-file-raw"]')" \
	'["e.raw",false]' "says the header"
fails_with 1 "not on again" img amend -o data_file_raw=on d.qcow2
fails_with 1 "a data file and version 2" img amend -o compat=0.10 d.qcow2

make ""
sum=$(sha a.qcow2)
for o in compat=0.11 refcount_bits=7 refcount_bits=8,compat=0.10 data_file=x \
	data_file_raw=on backing_file=x cluster_size=4k foo=1 refcount_bits=1 \
	lazy_refcounts=on,compat=0.10; do
	fails_with 1 "refused: $o" img amend -o $o a.qcow2
	qemu-img amend -q -o $o b.qcow2 2>/dev/null
	is $? 1 "by qemu-img too"
done
is "$(sha a.qcow2)" "$sum" "nothing has changed"
make "-o extended_l2=on"
fails_with 1 "extended L2 and version 2" img amend -o compat=0.10 a.qcow2
make ""
qemu-img resize -q a.qcow2 20M
fails_with 1 "a snapshot of another size and version 2" \
	img amend -o compat=0.10 a.qcow2
qemu-img create -q -f raw r.raw 1M
fails_with 1 "raw" img amend -f raw -o size=1 r.raw
fails_with 1 "nothing" img amend a.qcow2
t "help" img amend -o help a.qcow2
is "$(json amend -o lazy_refcounts=on a.qcow2 | jq -c .)" \
	'{"filename":"a.qcow2"}' "--json"
done_testing
