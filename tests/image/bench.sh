#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# bench reads and writes what it says, and leaves good images.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# reads FILE PATTERN OFFSET LENGTH
reads() {
	local said
	said=$(qemu-io -r -f qcow2 -c "read -P $2 $3 $4" "$1" 2>&1)
	[[ $said == read* && $said != *ailed* ]]
}

for o in cluster_size=64k extended_l2=on,cluster_size=128k compat=0.10 \
	cluster_size=4k,refcount_bits=1; do
	qemu-img create -q -f qcow2 -o "$o" a.qcow2 64M
	t "$o: written" img bench -w --pattern 17 -c 300 -d 8 -s 8k -o 1M a.qcow2
	t "$o: all of it is there" reads a.qcow2 17 1M 2457600
	t "$o: nothing before it" reads a.qcow2 0 0 1M
	t "$o: nothing behind it" reads a.qcow2 0 3506176 1M
	t "$o: flushed on the way" img bench -w --pattern 18 -c 200 -d 4 \
		-S 256k --flush-interval 8 a.qcow2
	t "$o: and without waiting" img bench -w --pattern 18 -c 200 -d 4 \
		-S 256k --flush-interval 8 --no-drain a.qcow2
	t "$o: clean" clean a.qcow2
	t "$o: read" img bench -c 500 a.qcow2
	like "$output" "Sending 500 read requests, 4096 bytes each, 64 in parallel" \
		"$o: it says what it does"
done

not() { ! "$@"; }

# over the end, back to the beginning
qemu-img create -q -f qcow2 b.qcow2 100k
t "round and round" img bench -w --pattern 5 -c 100 -d 3 -s 7000 b.qcow2
t "nothing else is" not reads b.qcow2 6 0 100k
t "everything is written" reads b.qcow2 5 0 100k
t "and clean" clean b.qcow2

is "$(json bench -c 10 b.qcow2 | jq -c '[.requests, ."buffer-size", (.seconds >= 0)]')" \
	"[10,4096,true]" "json"
t "-q" img bench -q -c 10 b.qcow2
is "$output" "" "is quiet"
t "letters of QEMU" img bench -n -i native -t none -c 10 b.qcow2
t "raw" img bench -f raw -c 10 b.qcow2
t "an empty disk is made" qemu-img create -q -f qcow2 empty.qcow2 0
fails_with 1 "an empty disk" img bench -c 10 empty.qcow2
fails_with 1 "behind the end" img bench -o 1M b.qcow2
fails_with 1 "too large a byte" img bench -w --pattern 256 b.qcow2
fails_with 1 "flushes without -w" img bench --flush-interval 100 b.qcow2
fails_with 1 "flushes more often than the depth" \
	img bench -w --flush-interval 2 b.qcow2
fails_with 1 "no file" img bench nothing.qcow2

done_testing
