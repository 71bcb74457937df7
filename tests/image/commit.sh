#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# commit does what qemu-img's does: the same disks, clean images.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# make PREFIX FORMAT OPTIONS: base <- mid <- top, each larger than the last
make() {
	local p=$1 f=$2
	rm -f "$p".*
	# shellcheck disable=SC2086
	qemu-img create -q -f "$f" $3 "$p.base" 4M
	qemu-io -f "$f" -c 'write -P 1 0 4M' "$p.base" >/dev/null
	qemu-img create -q -f qcow2 -b "$p.base" -F "$f" "$p.mid" 6M
	qemu-io -f qcow2 -c 'write -P 2 1M 1M' -c 'write -z 3M 512k' \
		-c 'write -c -P 3 5M 64k' "$p.mid" >/dev/null
	qemu-img create -q -f qcow2 -b "$p.mid" -F qcow2 "$p.top" 8M
	qemu-io -f qcow2 -c 'write -P 4 1536k 1M' -c 'write -P 5 7M 300k' \
		-c 'write -z 64k 64k' "$p.top" >/dev/null
}

# equal FORMAT: all three, of both chains; the base has that format
equal() {
	[ "$1" = raw ] || clean a.base || return
	clean a.mid && clean a.top &&
		same -f "$1" -F "$1" a.base b.base &&
		same -f qcow2 -F qcow2 a.mid b.mid &&
		same -f qcow2 -F qcow2 a.top b.top
}

for f in raw qcow2; do
	for opts in "" "-o cluster_size=4k" "-o compat=0.10"; do
		[ $f = qcow2 ] || [ -z "$opts" ] || continue
		make a $f "$opts"
		make b $f "$opts"
		t "commit: $f $opts" img commit -q a.top
		qemu-img commit -q b.top
		t "as qemu-img's" equal $f
		is "$(qemu-img map --output=json a.top | jq -c 'map(select(.depth == 0))')" \
			"[]" "it is empty"
		make a $f "$opts"
		make b $f "$opts"
		t "into the base: $f $opts" img commit -q -b a.base a.top
		qemu-img commit -q -b b.base b.top
		t "as qemu-img's" same -f $f -F $f a.base b.base
		make a $f "$opts"
		sum=$(sha a.top)
		t "drop: $f $opts" img commit -q -d a.top
		is "$(sha a.top)" "$sum" "leaves the image alone"
	done
done
make a qcow2 ""
fails_with 1 "no such base" img commit -b none a.top
fails_with 1 "nothing below" img commit a.base
# a bitmap in the image alone; nothing below has changed when it is refused
make a raw ""
qemu-img bitmap --add a.mid one
sum=$(sha a.base)
fails_with 1 "a bitmap that records" img commit a.mid
is "$(sha a.base)" "$sum" "nothing was committed"
t "drop: it is not written to" img commit -d a.mid
make a qcow2 ""
is "$(json commit a.top | jq -r .filename)" a.top "--json"
done_testing
