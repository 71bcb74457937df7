#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# check says what qemu-img's says: verdict, exit code and numbers; and repairs.
#
# requires: qemu-img qemu-io jq python3
. "$(dirname "$0")/lib.sh"

set_field() { python3 "$TESTS/lib/qcow2-set.py" "$@"; }
numbers() { jq -cS 'del(.filename, .findings, .memory, .threads, ."findings-left-out")'; }

# agree NAME FILE: both say the same
agree() {
	local q o qc oc
	q=$(qemu-img check -f qcow2 --output=json "$2" 2>/dev/null)
	qc=$?
	o=$(img check -f qcow2 --json "$2" 2>/dev/null)
	oc=$?
	is "$oc $(jq .check <<<"$o" | numbers)" "$qc $(numbers <<<"$q")" "$1"
}

make() {
	rm -f a.qcow2
	qemu-img create -q -f qcow2 "$@" a.qcow2 64M &&
		qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 40M 1M' \
			a.qcow2 >/dev/null && cp a.qcow2 good.qcow2
}

images=$("$TESTS/lib/make-images")
for i in v2 v3 clusters-512 refcount-1 refcount-64 zlib extl2-zeroes snapshots \
	bitmaps; do
	agree "$i" "$images/$i.qcow2"
done

# damage NAME FIELD VALUE: agrees, and can be repaired without loss
damage() {
	make
	set_field a.qcow2 "$2" "$3"
	agree "damage: $1" a.qcow2
	img check -q -r all a.qcow2 >/dev/null 2>&1
	t "repaired: $1" clean a.qcow2
	t "same content: $1" same a.qcow2 good.qcow2
}
damage "no COPIED" "l2[1]" "old ^ (1 << 63)"
damage "no COPIED in the L1" "l1[0]" "old ^ (1 << 63)"
damage "reserved bits" "l2[1]" "old | 2"
damage "shared clusters" "l2[900]" "0"
damage "a lost refcount block" "@0x10000" 0
damage "an unaligned refcount block" "@0x10000" "old + 512"
damage "refcounts too low and too high" "@0x20008" "0x0001000000030001"

make
set_field a.qcow2 "l2[1]" "1 << 40"
agree "outside the file" a.qcow2
sum=$(sha a.qcow2)
fails_with 2 "which is not repaired" img check -r all a.qcow2
like "$output" "not repaired" "it says so"
is "$(sha a.qcow2)" "$sum" "nor changed"

make
qemu-img snapshot -c one a.qcow2
set_field a.qcow2 nb_snapshots 0
agree "a lost snapshot" a.qcow2
img check -q -r all a.qcow2
t "repaired" clean a.qcow2

make
set_field a.qcow2 incompatible_features 3
t "dirty and corrupt" img check -r all a.qcow2
is "$(set_field a.qcow2 --get incompatible_features)" 0 "both bits are cleared"

# many NAME OPTIONS RUN EVERY: what is checked in bulk, by several threads
many() {
	rm -f a.qcow2
	qemu-img create -q -f qcow2 -o "preallocation=metadata,$2" a.qcow2 32M
	python3 "$TESTS/lib/qcow2-shuffle.py" a.qcow2 "$3" "$4"
	agree "$1" a.qcow2
	[ "$4" = 0 ] || return
	qemu-img snapshot -c one a.qcow2
	qemu-io -f qcow2 -c 'write 1M 9M' -c 'write 20M 1k' a.qcow2 >/dev/null
	qemu-img snapshot -c two a.qcow2
	set_field a.qcow2 "l2[3]" "old ^ (1 << 63)"
	agree "$1, snapshots" a.qcow2
}
many "in order" cluster_size=4k 8192 0
many "at random" cluster_size=4k 1 0
many "in short runs" cluster_size=4k 5 0
many "in longer runs, damaged" cluster_size=4k 100 333
many "at random, damaged" cluster_size=4k 1 97
many "wide refcounts" cluster_size=4k,refcount_bits=32 3 1000
many "version 2" cluster_size=4k,compat=0.10 70 0

truncate -s 1M raw
fails_with 63 "raw" img check -f raw raw
fails_with 1 "no image" img check none.qcow2
# Node options are those of the other verbs.
make
t "--image-opts" img check --image-opts driver=qcow2,file.filename=a.qcow2
fails_with 1 "a driver that is not here" \
	img check --image-opts driver=vmdk,file.filename=a.qcow2
fails_with 1 "an option that is not known" \
	img check --image-opts driver=qcow2,file.filename=a.qcow2,foo=1

done_testing
