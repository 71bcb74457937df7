#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Tables of many layers, read without a daemon: what they show is what QEMU
# shows, and what a table must not be is refused.
#
# once: 6.1
# requires: qemu-img qemu-io dmsetup losetup
# timeout: 600
. "$(dirname "$0")/../lib.sh"

modprobe dm-qcow || bail "the module loads"

# loop FILE: its loop device, padded so that nothing is cut off
loop() {
	local d
	truncate -s %64K "$1"
	d=$(losetup --find --show --read-only --direct-io=on "$1") || return 1
	echo "$d"
}

# show NAME SECTORS TABLE: a read-only device
show() {
	dmsetup create --readonly "$1" --table "0 $2 qcow $3"
}

# layers IMAGE...: the layers' part of a table, loop devices at once
layers() {
	local f out=$#
	for f in "$@"; do
		case $f in
		*.raw) out+=" raw $(loop "$f")" ;;
		*) out+=" qcow2 $(loop "$f") -" ;;
		esac
	done
	echo "$out"
}

clear_up() {
	dmsetup remove --retry "$1"
	losetup -D
}

sum() { sha256sum <"$1" | cut -c1-64; }

# same NAME IMAGE TABLE [OPTION of convert]...: the device shows what QEMU shows
same() {
	local name=$1 image=$2 table=$3 size want got
	shift 3
	qemu-img convert -O raw "$@" "$image" want.raw || return 1
	size=$(stat -c %s want.raw)
	show "$name" $((size / 512)) "$table" || return 1
	want=$(sum want.raw)
	got=$(dd if="/dev/mapper/$name" bs=1M iflag=direct status=none | sha256sum | cut -c1-64)
	[ "$want" = "$got" ] || { echo "whole: $want $got"; return 1; }
	# Warm, in small pieces and large, and through the page cache.
	got=$(dd if="/dev/mapper/$name" bs=12K iflag=direct status=none | sha256sum | cut -c1-64)
	[ "$want" = "$got" ] || { echo "pieces: $want $got"; return 1; }
	got=$(sum "/dev/mapper/$name")
	clear_up "$name"
	[ "$want" = "$got" ] || { echo "buffered: $want $got"; return 1; }
}

io() { qemu-io -f qcow2 "$@" >/dev/null; }

# over BASE FORMAT NEW SIZE [OPTION]...
over() {
	local base=$1 format=$2 new=$3 size=$4
	shift 4
	qemu-img create -q -f qcow2 -b "$base" -F "$format" "$@" "$new" "$size"
}

# --- a chain of mixed layers --------------------------------------------------

head -c 5M /dev/urandom >base.raw
over base.raw raw a.qcow2 12M -o cluster_size=4K
io -c 'write -P 1 0 200k' -c 'write -z 5M 1M' -c 'write -P 11 11M 512' a.qcow2
over a.qcow2 qcow2 b.qcow2 8M -o cluster_size=2M
io -c 'write -P 2 100k 300k' -c 'discard 6M 1M' b.qcow2
over b.qcow2 qcow2 c.qcow2 16M -o cluster_size=512
io -c 'write -P 3 15M 1M' -c 'write -P 4 1025 511' c.qcow2
over c.qcow2 qcow2 d.qcow2 16M -o cluster_size=64K,compat=0.10
io -c 'write -P 5 3M 4k' d.qcow2
over d.qcow2 qcow2 e.qcow2 20M -o cluster_size=64K,extended_l2=on
io -c 'write -P 6 2M 2k' -c 'write -P 6 2070k 6k' -c 'write -z 1M 4k' \
	-c 'write -P 7 4M 256k' -c 'discard 4160k 64k' e.qcow2

t "a layer over a raw one" same q a.qcow2 "$(layers a.qcow2 base.raw)"
t "a shorter one with large clusters over it" same q b.qcow2 \
	"$(layers b.qcow2 a.qcow2 base.raw)"
t "a longer one with small clusters over it" same q c.qcow2 \
	"$(layers c.qcow2 b.qcow2 a.qcow2 base.raw)"
t "one of version 2" same q d.qcow2 \
	"$(layers d.qcow2 c.qcow2 b.qcow2 a.qcow2 base.raw)"
t "one with extended L2 entries" same q e.qcow2 \
	"$(layers e.qcow2 d.qcow2 c.qcow2 b.qcow2 a.qcow2 base.raw)"

# --- depth --------------------------------------------------------------------

cp a.qcow2 n0.qcow2
files=(n0.qcow2 base.raw)
for i in $(seq 1 63); do
	over "n$((i - 1)).qcow2" qcow2 "n$i.qcow2" 12M
	[ $((i % 8)) != 0 ] || io -c "write -P $i ${i}00k 70k" "n$i.qcow2"
	files=("n$i.qcow2" "${files[@]}")
done
t "64 layers of qcow2 over a raw one" same q n63.qcow2 "$(layers "${files[@]}")"
rm -f n*.qcow2

# --- a data device, a snapshot ------------------------------------------------

qemu-img create -q -f qcow2 -o data_file=data.bin ext.qcow2 8M
io -c 'write -P 1 0 300k' -c 'write -P 2 7M 1M' -c 'write -z 64k 64k' ext.qcow2
t "an external data file" same q ext.qcow2 \
	"1 qcow2 $(loop ext.qcow2) $(loop data.bin)"
t_rc 1 "which must be named" show q 16384 "$(layers ext.qcow2)"
losetup -D
like "$(klog_since_start)" 'needs the device of its external data file' \
	"the kernel says so"

qemu-img create -q -f qcow2 snap.qcow2 8M
io -c 'write -P 1 0 3M' snap.qcow2
qemu-img snapshot -c one snap.qcow2
io -c 'write -P 2 1M 3M' -c 'write -P 3 7M 1M' snap.qcow2
read -r off entries < <(python3 - snap.qcow2 <<-'E'
	import struct, sys
	f = open(sys.argv[1], 'rb')
	f.seek(60)
	n, at = struct.unpack('>IQ', f.read(12))
	f.seek(at)
	print(*struct.unpack('>QI', f.read(12)))
E
)
t "an internal snapshot" same q snap.qcow2 \
	"$(layers snap.qcow2) 2 snapshot $off,$entries,8388608" -l one
t "and what is there now" same q snap.qcow2 "$(layers snap.qcow2)"

# --- what is refused ----------------------------------------------------------

refused() { ! show q 8 "$1"; }
l=$(loop a.qcow2) r=$(loop base.raw)
t "an image twice" refused "2 qcow2 $l - qcow2 $l -"
t "a raw layer alone" refused "1 raw $r"
t "a raw layer above another" refused "3 qcow2 $l - raw $r raw $r"
t "a raw layer called qcow2" refused "2 qcow2 $l - qcow2 $r -"
t "no layers" refused "0"
t "fewer layers than it says" refused "2 qcow2 $l -"
t "a data device for an image without" refused "1 qcow2 $l $r"
t "a snapshot's L1 outside of the image" \
	refused "1 qcow2 $l - 2 snapshot 1099511627776,1,8388608"
t "a snapshot's L1 that is too short" \
	refused "1 qcow2 $l - 2 snapshot $((64 * 1024)),1,1099511627776"
t "a snapshot without numbers" refused "1 qcow2 $l - 2 snapshot x"
losetup -D
done_testing
