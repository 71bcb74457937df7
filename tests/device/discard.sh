#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Discard and write zeroes: what reads as zeroes afterwards, what stays, that
# clusters given up are referenced by nobody and punched out of the file.
#
# requires: qemu-img qemu-io blkdiscard python3
# timeout: 240
# once: 6.12
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/features.sh"

disk=/dev/mapper/disk
seed=0

kib_of() { echo $(($(stat -c '%b * %B' "$1") / 1024)); }
dev_io() {
	local c commands=()
	for c in "$@"; do commands+=(-c "$c"); done
	qemu-io -f raw -t none "${commands[@]}" "$disk"
}
# at_most KIB: the image has no more blocks
at_most() { [ "$(kib_of "$image")" -le "$1" ]; }
image_io() { qemu-io -f qcow2 -c "$1" "$image"; }
zero_out() { blkdiscard -f -z -o "$1" -l "$2" "$disk"; }
# All of the range is "allocated" or not, in the image itself.
depth0() {
	qemu-img map --output=json -f qcow2 "$image" | python3 -c '
import json, sys
start, end, wanted = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "data"
for e in json.load(sys.stdin):
    if e["start"] < end and e["start"] + e["length"] > start:
        if (e["data"] and e["depth"] == 0) != wanted:
            sys.exit("%s" % e)' "$@"
}

ends_clean() {
	t "$1: remove" detach disk
	t "$1: no errors, no leaks" check_image "$image"
}

# made NAME SIZE OPTION...: attached, as $image
made() {
	image=$(mkimg "$@") && t "$1: create" attach disk "$image"
}

# --- write zeroes ---------------------------------------------------------------

zero_plain() {
	made zero-plain 64M || return
	dev_io 'write -P 9 0 8M' flush >/dev/null
	t "zero-plain: write zeroes, to parts of clusters too" \
		zero_out $((512 * 100)) $(((4 << 20) + 512))
	t "zero-plain: what is zero, and what is not" dev_io 'read -P 9 0 51200' \
		'read -P 0 51200 4194816' 'read -P 9 4246016 4142592'
	ends_clean zero-plain
	t "zero-plain: qemu-img reads the same" image_io 'read -P 0 51200 4194816'
	t "zero-plain: beside it too" image_io 'read -P 9 4246016 4142592'
}

zero_prealloc() {
	made zero-prealloc 16M -o preallocation=full || return
	dev_io 'write -P 9 0 8M' flush >/dev/null
	t "zero-prealloc: write zeroes" zero_out 0 $((4 << 20))
	t "zero-prealloc: what is zero" dev_io 'read -P 0 0 4M' 'read -P 9 4M 4M'
	t "zero-prealloc: writes over it" dev_io 'write -P 8 1M 70k' \
		'read -P 8 1M 70k' 'read -P 0 1120256 1M'
	ends_clean zero-prealloc
}

zero_old() {
	made zero-old 16M -o compat=0.10 || return
	dev_io 'write -P 9 0 4M' flush >/dev/null
	t "zero-old: write zeroes" zero_out 0 $((2 << 20))
	t "zero-old: what is zero" dev_io 'read -P 0 0 2M' 'read -P 9 2M 2M'
	ends_clean zero-old
	t "zero-old: qemu-img reads the same" image_io 'read -P 0 0 2M'
}

# A new image stays empty.
zero_nothing() {
	made zero-nothing 1G || return
	t "zero-nothing: write zeroes over nothing" zero_out 0 $((1 << 30))
	ends_clean zero-nothing
	t "zero-nothing: takes next to nothing" at_most 2048
}

over_base() { # COMPAT
	truncate -s 16M base.raw
	qemu-io -f raw -c 'write -P 5 0 16M' base.raw >/dev/null ||
		return
	made "over-base-$1" 16M -b base.raw -F raw -o compat="$1" || return
	t "over-base-$1: write zeroes" zero_out 4096 $(((4 << 20) + 512))
	t "over-base-$1: the base does not shine through" dev_io \
		'read -P 5 0 4096' 'read -P 0 4096 4194816' 'read -P 5 4198912 1M'
	dev_io 'write -P 6 8M 4M' flush >/dev/null
	blkdiscard -f -o $((8 << 20)) -l $((2 << 20)) "$disk"
	t "over-base-$1: nor after a discard" not_the_base
	ends_clean "over-base-$1"
}
not_the_base() {
	dev_io 'read -P 0 8M 2M' || dev_io 'read -P 6 8M 2M'
}

# --- discard -----------------------------------------------------------------------

give_up() { # NAME OPTION of mkimg...
	local name=$1 before
	shift
	made "$name" 256M "$@" || return
	dev_io 'write -P 9 0 64M' flush >/dev/null
	before=$(kib_of "$image")
	t "$name: discard" blkdiscard -f -o 0 -l $((48 << 20)) "$disk"
	t "$name: what was not discarded stays" dev_io 'read -P 9 48M 16M'
	sync "$disk"
	t "$name: 48 MiB leave the file" wait_for 20 at_most $((before - 47 * 1024))
	dev_io 'write -P 8 0 48M' flush >/dev/null
	t "$name: new data" dev_io 'read -P 8 0 48M' 'read -P 9 48M 16M'
	ends_clean "$name"
	t "$name: took their place" at_most $((72 * 1024))
	t "$name: nothing of it comes back" image_io 'read -P 8 0 48M'
}

# Many times over, the file does not grow.
again_and_again() {
	local i
	made again 64M || return
	for i in 1 2 3 4 5 6; do
		dev_io "write -P $i 0 16M" flush >/dev/null
		blkdiscard -f -o 0 -l $((16 << 20)) "$disk"
	done
	ends_clean again
	t "again: nearly nothing is left" at_most 4096
	[ "$(stat -c %s "$image")" -le $((48 << 20)) ] &&
		ok "again: the file has not grown" ||
		not_ok "again: the file has $(stat -c %s "$image") bytes"
}

# Less than a cluster is a hint that may be ignored.
small_discards() {
	made small 16M || return
	dev_io 'write -P 9 0 1M' flush >/dev/null
	t "small: less than a cluster" blkdiscard -f -o 4096 -l 32768 "$disk"
	t "small: the rest of it stays" dev_io 'read -P 9 0 4096' \
		'read -P 9 36864 1011712'
	ends_clean small
}

whole() {
	image=$(mkimg whole 512G)
	t "whole: create" attach disk "$image" || return
	dev_io 'write -P 1 0 16M' 'write -P 2 100G 16M' 'write -P 3 511G 16M' \
		flush >/dev/null
	SECONDS=0
	t "whole: discard 512 GiB" blkdiscard -f "$disk"
	t "whole: write zeroes to 64 GiB" zero_out 0 $((64 << 30))
	[ "$SECONDS" -le $((40 * VM_SLOW)) ] && ok "whole: in $SECONDS s" ||
		not_ok "whole: in $SECONDS s"
	t "whole: reads as zeroes" dev_io 'read -P 0 0 16M' 'read -P 0 10G 1M'
	ends_clean whole
	t "whole: the file shrinks" at_most 20480
}

# --- random ----------------------------------------------------------------------

any() { # NAME OPTION of mkimg...
	local cluster=65536
	[[ $* != *cluster_size=4k* ]] || cluster=4096
	made "$1" 16M "${@:2}" || return
	seed=$((seed + 1))
	qemu-img convert -U -f qcow2 -O raw "$image" model.raw
	t "$1: random operations" "$PROP" --seed "$seed" --ops 500 --must discard,zero \
		--cluster "$cluster" "$disk" model.raw
	ends_clean "$1"
	t "$1: qemu-img reads the same" qemu-img compare -f raw -F qcow2 model.raw \
		"$image"
}

start_daemon
feature zero zero_plain
feature zero zero_prealloc
feature zero zero_old
feature zero zero_nothing
feature zero+discard+backing over_base 1.1
feature zero+discard+backing over_base 0.10
feature discard give_up plain
feature discard give_up small-clusters -o cluster_size=4k
feature discard again_and_again
feature discard small_discards
feature zero+discard whole
feature zero+discard any any
feature zero+discard any any-4k -o cluster_size=4k
feature zero+discard any any-old -o compat=0.10
feature zero+discard any any-prealloc -o preallocation=metadata
feature zero+discard+extl2 any any-extl2 -o extended_l2=on
done_testing
