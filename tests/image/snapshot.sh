#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Snapshots made, applied and deleted by us or by qemu-img are the same to both.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

io() { qemu-io -f qcow2 "$@" >/dev/null; }

# is_snap IMAGE NAME RAW: that snapshot is this disk
is_snap() {
	rm -f now.raw
	qemu-img convert -l "$2" -f qcow2 -O raw "$1" now.raw && cmp -s now.raw "$3"
}
is_disk() { same -f qcow2 -F raw "$1" "$2"; }
keep() { rm -f "$2"; qemu-img convert -f qcow2 -O raw "$1" "$2"; }
listed() { qemu-img snapshot -l a.qcow2 >want.txt && img snapshot -l a.qcow2 >got.txt && cmp want.txt got.txt; }

for opts in "" "-o cluster_size=512" "-o extended_l2=on,cluster_size=128k" \
	"-o compat=0.10" "-o refcount_bits=64" "-o refcount_bits=8,cluster_size=4k"; do
	rm -f ./*.qcow2 ./*.raw
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $opts a.qcow2 8M
	io -c 'write -P 1 0 1M' -c 'write -P 2 5M 700k' -c 'write -z 2M 64k' a.qcow2
	io -c 'write -c -P 7 3M 128k' a.qcow2
	keep a.qcow2 one.raw
	t "create: $opts" img snapshot -c one a.qcow2
	t "clean: $opts" clean a.qcow2
	t "it is the disk: $opts" is_snap a.qcow2 one one.raw
	io -c 'write -P 3 512k 1M' a.qcow2
	keep a.qcow2 two.raw
	t "theirs beside ours: $opts" qemu-img snapshot -c two a.qcow2
	t "listed as by qemu-img: $opts" listed
	io -c 'write -P 4 0 300k' a.qcow2
	t "apply theirs: $opts" img snapshot -a two a.qcow2
	t "clean, and that disk: $opts" eval 'clean a.qcow2 && is_disk a.qcow2 two.raw'
	t "theirs applies ours: $opts" qemu-img snapshot -a one a.qcow2
	t "clean, and that disk: $opts" eval 'clean a.qcow2 && is_disk a.qcow2 one.raw'
	t "delete: $opts" img snapshot -d one a.qcow2
	t "clean, and nothing lost: $opts" eval 'clean a.qcow2 &&
		is_disk a.qcow2 one.raw && is_snap a.qcow2 two two.raw'
	io -c 'write -P 5 1M 1M' a.qcow2
	t "delete the last: $opts" img snapshot -d two a.qcow2
	t "clean: $opts" clean a.qcow2
done

rm -f a.qcow2
qemu-img create -q -f qcow2 -o refcount_bits=1,cluster_size=4k a.qcow2 1M
io -c 'write 0 64k' a.qcow2
fails_with 1 "refcounts of one bit" img snapshot -c x a.qcow2
like "$output" "1 bits" "say why"
t "and the image is clean" clean a.qcow2
fails_with 1 "no such snapshot" img snapshot -d nobody a.qcow2
qemu-img create -q -f qcow2 b.qcow2 1M
img snapshot -q -c 1 b.qcow2; img snapshot -q -c x b.qcow2
is "$(json snapshot b.qcow2 | jq -c '[.[]|[.id,.name]]')" '[["1","1"],["2","x"]]' "JSON"
img resize -q b.qcow2 5M
t "apply with another size" img snapshot -a x b.qcow2
is "$(qemu-img info --output=json b.qcow2 | jq '."virtual-size"')" 1048576 "the size is back"
t "clean" clean b.qcow2
qemu-img bitmap --add b.qcow2 bm
fails_with 1 "bitmaps would not know" img snapshot -a x b.qcow2
done_testing
