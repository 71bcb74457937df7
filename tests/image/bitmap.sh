#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Bitmaps made, merged and removed by us or by qemu-img are the same to both.
#
# requires: qemu-img qemu-io jq python3
. "$(dirname "$0")/lib.sh"

io() { qemu-io -f qcow2 "$@" >/dev/null; }
bitmaps() { qemu-img info --output=json "$1" | jq -cS '."format-specific".data.bitmaps'; }

# bits IMAGE BITMAP: the dirty ranges, from the clusters of the bitmap
bits() {
	python3 - "$@" <<-'END'
	import struct, sys
	f = open(sys.argv[1], 'rb').read()
	at = lambda fmt, off: struct.unpack_from('>' + fmt, f, off)
	cs, size = 1 << at('I', 20)[0], at('Q', 24)[0]
	pos, = at('I', 100)
	while at('I', pos)[0] != 0x23852875:
	    pos += 8 + (at('I', pos + 4)[0] + 7) // 8 * 8
	n, _, _, d = at('IIQQ', pos + 8)
	for _ in range(n):
	    table, entries, _, _, g, name_len, extra = at('QIIBBHI', d)
	    name = f[d + 24 + extra:d + 24 + extra + name_len].decode()
	    d += (24 + extra + name_len + 7) // 8 * 8
	    if name != sys.argv[2]:
	        continue
	    last = None
	    for i in range(entries * cs * 8):
	        if i << g >= size:
	            break
	        e, = at('Q', table + i // (cs * 8) * 8)
	        off = e & 0x00fffffffffffe00
	        bit = f[off + i // 8 % cs] >> i % 8 & 1 if off else e & 1
	        if bit != last:
	            print(bit, i << g)
	            last = bit
	END
}
is_bits() { is "$(bits "$1" "$2")" "$(bits "$3" "$4")" "$5"; }

for opts in "" "-o cluster_size=512" "-o extended_l2=on,data_file=data.raw"; do
	rm -f ./*.qcow2 data.raw
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $opts a.qcow2 33M
	t "add: $opts" img bitmap a.qcow2 one --add
	t "clean: $opts" clean a.qcow2
	io -c 'write -P 1 0 1M' -c 'write 5M 700k' -c 'write -z 32M 1M' a.qcow2
	t "add with a granularity, disabled: $opts" img bitmap a.qcow2 two --add -g 512 --disable
	t "theirs beside ours: $opts" qemu-img bitmap --add -g 1M a.qcow2 three
	io -c 'write 7M 3k' -c 'write 20M 64k' a.qcow2
	t "clean: $opts" clean a.qcow2
	cp a.qcow2 b.qcow2
	qemu-img bitmap --merge one --merge three b.qcow2 two
	t "merge: $opts" img bitmap a.qcow2 two --merge one --merge three
	is_bits a.qcow2 two b.qcow2 two "as theirs: $opts"
	qemu-img bitmap --merge two b.qcow2 three
	t "merge fine into coarse: $opts" img bitmap a.qcow2 three --merge two
	is_bits a.qcow2 three b.qcow2 three "as theirs: $opts"
	is "$(bitmaps a.qcow2)" "$(bitmaps b.qcow2)" "the same lists: $opts"
	is "$(json info a.qcow2 | jq -cS '."format-specific".data.bitmaps')" \
		"$(bitmaps a.qcow2)" "and we see them: $opts"
	t "clean: $opts" clean a.qcow2
	t "theirs goes on: $opts" qemu-img bitmap --clear --enable a.qcow2 two
	t "several at once: $opts" img bitmap a.qcow2 one --disable --clear --merge three
	is_bits a.qcow2 one a.qcow2 three "in their order: $opts"
	t "clean: $opts" clean a.qcow2
	for bm in one two three; do
		t "remove $bm: $opts" img bitmap a.qcow2 $bm --remove
	done
	t "clean: $opts" clean a.qcow2
	is "$(bitmaps a.qcow2)" null "none is left: $opts"
	t "the disk is what it was: $opts" qemu-img compare -q -f qcow2 -F qcow2 a.qcow2 b.qcow2
done

# from another image
rm -f ./*.qcow2
qemu-img create -q -f qcow2 a.qcow2 100M
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 -o cluster_size=4k b.qcow2
for i in a b; do qemu-img bitmap --add $i.qcow2 bm; done
io -c 'write 3M 1M' a.qcow2
io -c 'write 70M 5k' b.qcow2
cp a.qcow2 want.qcow2
qemu-img bitmap --merge bm -b b.qcow2 -F qcow2 want.qcow2 bm
t "merge from another image" img bitmap --merge bm -b b.qcow2 -F qcow2 a.qcow2 bm
is_bits a.qcow2 bm want.qcow2 bm "as theirs"
t "clean" eval 'clean a.qcow2 && clean b.qcow2'
is "$(json bitmap a.qcow2 x --add -g 64k | jq -cS .)" "$(bitmaps a.qcow2)" "JSON"
qemu-img create -q -f qcow2 small.qcow2 1M
qemu-img bitmap --add small.qcow2 bm
fails_with 1 "disks of different sizes" img bitmap --merge bm -b small.qcow2 a.qcow2 bm

# what is refused changes nothing
before=$(sha a.qcow2)
fails_with 1 "it exists" img bitmap a.qcow2 bm --add
fails_with 1 "it does not exist" img bitmap a.qcow2 nobody --enable
fails_with 1 "all or nothing" img bitmap a.qcow2 bm --clear --merge nobody
fails_with 1 "no such image" img bitmap a.qcow2 bm --merge bm -b nowhere.qcow2
for g in 0 256 513 4G 96k; do
	fails_with 1 "granularity $g" img bitmap a.qcow2 y --add -g $g
done
fails_with 1 "no action" img bitmap a.qcow2 bm
fails_with 1 "-g without --add" img bitmap a.qcow2 bm --clear -g 64k
fails_with 1 "-b without --merge" img bitmap a.qcow2 bm --clear -b b.qcow2
fails_with 1 "-F without -b" img bitmap a.qcow2 bm --merge x -F qcow2
fails_with 1 "a name that is too long" img bitmap a.qcow2 "$(printf '%01024d' 0)" --add
is "$(sha a.qcow2)" "$before" "nothing has changed"
t "the longest name" img bitmap a.qcow2 "$(printf '%01023d' 0)" --add
t "and it is clean" clean a.qcow2
qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 1M
fails_with 1 "version 2" img bitmap v2.qcow2 bm --add
truncate -s 1M raw.img
fails_with 1 "raw" img bitmap raw.img bm --add
qemu-img create -q -f qcow2 huge.qcow2 8T
fails_with 1 "too large" img bitmap huge.qcow2 bm --add -g 512
t "--image-opts" img bitmap --image-opts driver=qcow2,file.filename=small.qcow2 --add z

# one that QEMU left in use can only be removed
(io -c 'write 0 64k' -c 'sigraise 9' small.qcow2; :) 2>/dev/null
like "$(bitmaps small.qcow2)" in-use "inconsistent"
fails_with 1 "cannot be cleared" img bitmap small.qcow2 bm --clear
t "nor hinder another" img bitmap small.qcow2 new --add
t "removed" img bitmap small.qcow2 bm --remove
t "no errors" leaks_only small.qcow2

# hostile: a table that is the directory's place
cp want.qcow2 bad.qcow2
python3 - <<'END'
import struct
f = open('bad.qcow2', 'r+b')
d = f.read()
pos, = struct.unpack_from('>I', d, 100)
while struct.unpack_from('>I', d, pos)[0] != 0x23852875:
    pos += 8 + (struct.unpack_from('>I', d, pos + 4)[0] + 7) // 8 * 8
o, = struct.unpack_from('>Q', d, pos + 24)
f.seek(o)
f.write(struct.pack('>Q', o))
END
before=$(sha bad.qcow2)
fails_with 1 "an overlapping table" img bitmap bad.qcow2 bm --remove
is "$(sha bad.qcow2)" "$before" "and nothing has changed"
done_testing
