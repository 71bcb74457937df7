#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# commit does what qemu-img's does: the same disks, clean images.
#
# requires: qemu-img qemu-io qemu-nbd jq
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

# Bitmaps that record.  Those of the base know of what is committed; those of
# the image do not care that it is emptied.
recorded() {
	qemu-img create -q -f qcow2 r.base 8M
	qemu-img bitmap --add -g 4k r.base fine
	qemu-img bitmap --add -g 64k r.base coarse
	qemu-img bitmap --add --disable r.base still
	qemu-io -c 'write -P 1 4M 4k' r.base >/dev/null
	qemu-img create -q -f qcow2 -o extended_l2=on -b r.base -F qcow2 r.top
	qemu-img bitmap --add -g 4k r.top own
	qemu-io -c 'write -P 2 1M 2M' -c 'write -P 3 6M 6k' -c 'write -z 7M 64k' \
		r.top >/dev/null
	qemu-img convert -O raw r.top r.raw
}
recorded
own=$(bits r.top own)
t "bitmaps that record" img commit r.top
t "the base has the disk" same -f qcow2 -F raw r.base r.raw
t "so has the image" same -f qcow2 -F raw r.top r.raw
t "clean" clean r.base
t "clean, too" clean r.top
is "$(bits r.base fine)" \
	"[[1048576,2097152],[4194304,4096],[6291456,8192],[7340032,65536]]" \
	"the base's knows what has come, to the subcluster"
is "$(bits r.base coarse)" \
	"[[1048576,2097152],[4194304,65536],[6291456,65536],[7340032,65536]]" \
	"whatever its granularity"
is "$(bits r.base still)" "[]" "not one that does not record"
is "$(bits r.top own)" "$own" "the image's is what it was"
# one that is in use, as after a crash, is nobody's to change
recorded
python3 - r.base <<-'END'
	import re, sys
	d = bytearray(open(sys.argv[1], "rb").read())
	for m in re.finditer(b"coarse", d):	# old directories, too
	    if d[m.start() - 9] == 2:		# flags: auto
	        d[m.start() - 9] |= 1		# and in use
	open(sys.argv[1], "wb").write(d)
END
t "one of them is inconsistent" img commit -d r.top
is "$(bits r.base fine)" \
	"[[1048576,2097152],[4194304,4096],[6291456,8192],[7340032,65536]]" \
	"the other knows"
is "$(qemu-img info --output json r.base | jq -c \
	'[."format-specific".data.bitmaps[] | select(.name == "coarse").flags[]] | sort')" \
	'["auto","in-use"]' "that one is left alone"
make a qcow2 ""
is "$(json commit a.top | jq -r .filename)" a.top "--json"
done_testing
