#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# map says what qemu-img map says, extent by extent, of images of every kind and
# of chains; and its pictures are pictures.
#
# requires: qemu-img qemu-io jq file python3
. "$(dirname "$0")/lib.sh"

# Where a part of a cluster of data is a hole in the file, we say so and QEMU only
# does of images that were preallocated: whole clusters are written here.
# QEMU splits where its own reads end: neighbours that go on are one.
# shellcheck disable=SC2016
join='reduce .[] as $x ([]; if length > 0 and
	(.[-1] | [.depth, .zero, .data, .present]) ==
		($x | [.depth, .zero, .data, .present]) and
	(.[-1] | if .offset then .offset + .length else null end) == $x.offset
	then .[-1].length += $x.length else . + [$x] end)'
keys='map({start, length, depth, present, zero, data} +
	if .offset == null or (.present | not) then {} else {offset} end)'

# equal NAME FILE [OPTION]...
equal() {
	local name=$1
	shift
	is "$(json map "$@" | jq -c "$keys | $join")" \
		"$(qemu-img map --output=json "$@" | jq -c "$keys | $join")" "$name"
}

for o in compat=0.10 cluster_size=4k cluster_size=2M extended_l2=on \
	data_file=x.data preallocation=metadata preallocation=full; do
	qemu-img create -q -f qcow2 -o "$o" a.qcow2 20M
	qemu-io -c 'write -P 1 0 2M' -c 'write -P 2 6M 4M' -c 'write -z 12M 2M' \
		-c 'write -P 3 16M 2M' -c 'discard 16M 2M' a.qcow2 >/dev/null
	equal "$o" a.qcow2
done
head -c 3M /dev/zero | tr '\0' 'x' >c.raw
truncate -s 10M c.raw
qemu-img convert -c -O qcow2 c.raw c.qcow2
equal compressed c.qcow2
is "$(json map c.qcow2 | jq '[.[] | select(.compressed) | .length] | add')" \
	3145728 "compressed clusters are said to be"
t "for people too" img map c.qcow2
like "$output" compressed "they are there"
equal raw c.raw

qemu-img create -q -f qcow2 -b c.raw -F raw b.qcow2 12M
qemu-io -c 'write 1M 1M' -c 'write 11M 64k' b.qcow2 >/dev/null
equal "over a shorter raw file" b.qcow2
qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 t.qcow2 12M
qemu-io -c 'write 2M 128k' -c 'write -z 5M 1M' t.qcow2 >/dev/null
equal "a chain" t.qcow2
equal "a part of it" --start-offset=1M --max-length=4M t.qcow2
is "$(img map -s 1M -l 2M t.qcow2 | awk '{ print $1, $2, $3 }')" \
	"$(qemu-img map -s 1M -l 2M t.qcow2 | awk '{ print $1, $2, $3 }')" "the list for people"
t "behind the end" img map -s 20M t.qcow2

# What snapshots share: the second of 4M was written again, the fourth is new
qemu-img create -q -f qcow2 s.qcow2 8M
qemu-io -c 'write -P 1 0 3M' s.qcow2 >/dev/null
qemu-img snapshot -c one s.qcow2
qemu-io -c 'write -P 2 1M 1M' -c 'write -P 2 3M 1M' s.qcow2 >/dev/null
equal "after a snapshot" s.qcow2
shared='[.[] | select(.data) | "\(.start / 1048576)+\(.length / 1048576):\(.shared)"] | join(" ")'
is "$(json map --shared s.qcow2 | jq -r "$shared")" \
	"0+1:true 1+1:false 2+1:true 3+1:false" "what snapshots share"
is "$(img map --shared s.qcow2 | awk 'NR > 1 { print $4 }' | tr '\n' ' ')" \
	"yes no yes no " "for people too"
is "$(img map --draw s.qcow2 | head -n 32 | tr -d '\n' | tr -s 'S#.')" "S#S#." \
	"in letters"
qemu-img create -q -f qcow2 -b s.qcow2 -F qcow2 u.qcow2 8M
qemu-io -c 'write -P 1 7M 1M' u.qcow2 >/dev/null
is "$(json map --shared u.qcow2 | jq -r "$shared")" \
	"0+1:true 1+1:false 2+1:true 3+1:false 7+1:false" "of the image below"
like "$(img map --draw u.qcow2)" "images in the chain: 2" "how long the chain is"
qemu-img snapshot -d one s.qcow2
is "$(json map --shared s.qcow2 | jq 'any(.[]; .shared)')" false "without snapshots nothing is"

t "in letters" img map --draw t.qcow2
like "$output" '[+-]#' "data of several layers"
t "as SVG" img map --heat x.svg t.qcow2
t "it is XML" python3 -c 'import xml.dom.minidom as m; m.parse("x.svg")'
t "as PNG" img map --heat x.png t.qcow2
like "$(file x.png)" "PNG image data, 640 x" "it is one"
t "every byte of it" python3 - <<'PY'
import struct, zlib
d = open("x.png", "rb").read()
assert d[:8] == b"\x89PNG\r\n\x1a\n"
at, seen, idat = 8, [], b""
while at < len(d):
    n, t = struct.unpack(">I4s", d[at:at + 8])
    body = d[at + 8:at + 8 + n]
    crc, = struct.unpack(">I", d[at + 8 + n:at + 12 + n])
    assert crc == zlib.crc32(t + body)
    idat += body if t == b"IDAT" else b""
    seen.append(t)
    at += 12 + n
assert seen == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
w, h = struct.unpack(">II", d[16:24])
assert len(zlib.decompress(idat)) == (w + 1) * h
PY
fails_with 1 "another ending" img map --heat x.gif t.qcow2
done_testing
