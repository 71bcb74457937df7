#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# dd copies the blocks that dd(1) would.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

head -c 3000320 /dev/urandom >disk.raw
truncate -s 64M disk.raw
dd if=/dev/urandom of=disk.raw bs=1000 count=500 seek=50000 conv=notrunc status=none
qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
qemu-img convert -c -f raw -O qcow2 disk.raw packed.qcow2
qemu-img create -q -f qcow2 -b disk.qcow2 -F qcow2 top.qcow2
qemu-io -f qcow2 -c 'write -P 9 1M 200k' -c 'write -z 2M 64k' top.qcow2 >/dev/null
qemu-img convert -f qcow2 -O raw top.qcow2 top.raw

# what OPERAND...: the blocks that are wanted, in wanted.raw, whole sectors
what() {
	dd if="$1" of=wanted.raw "${@:2}" status=none
	truncate -s %512 wanted.raw
}

for o in '' 'bs=1M count=2' 'bs=1M count=2 skip=1' 'bs=700 count=3' \
	'bs=1000 skip=49990 count=600' 'skip=7' 'bs=64k skip=1024' \
	'count=0' 'bs=1M count=100k skip=2'; do
	for f in disk.raw disk.qcow2 packed.qcow2 top.qcow2; do
		raw=disk.raw
		[ $f = top.qcow2 ] && raw=top.raw
		# shellcheck disable=SC2086
		what $raw ${o/100k/102400}
		# shellcheck disable=SC2086
		t "$f $o" img dd -f "${f##*.}" if=$f of=out.raw $o
		is "$(sha out.raw)" "$(sha wanted.raw)" "$f $o: the blocks"
		[ $f = top.qcow2 ] || continue
		# shellcheck disable=SC2086
		t "$f $o to qcow2" img dd -O qcow2 if=$f of=out.qcow2 $o
		t "$f $o: clean" clean out.qcow2
		t "$f $o: the same" same -f qcow2 -F raw out.qcow2 wanted.raw
	done
done

t "zeroes" img dd -f raw if=disk.raw of=out.raw
[ "$(stat -c %b out.raw)" -lt 20000 ]
is $? 0 "stay holes"

is "$(json dd if=disk.qcow2 of=x.raw bs=1k count=3 | jq -c .)" \
	'{"filename":"x.raw","format":"raw","copied":3072}' "json"
t "as qemu-img has it" qemu-img dd -f qcow2 -O raw bs=1M count=5 if=top.qcow2 of=qemu.raw
t "and we" img dd -f qcow2 -O raw bs=1M count=5 if=top.qcow2 of=ours.raw
is "$(sha ours.raw)" "$(sha qemu.raw)" "the same bytes"

before=$(sha disk.qcow2)
fails_with 1 "onto itself" img dd if=disk.qcow2 of=disk.qcow2
fails_with 1 "onto itself, whoever uses it" img dd -U if=disk.qcow2 of=disk.qcow2
is "$(sha disk.qcow2)" "$before" "it stays as it was"
fails_with 1 "behind the end" img dd if=disk.qcow2 of=none.raw bs=1M skip=65
fails_with 1 "no target" img dd if=disk.qcow2
fails_with 1 "another operand" img dd if=disk.qcow2 of=none.raw seek=1
fails_with 1 "no size" img dd if=disk.qcow2 of=none.raw bs=0
fails_with 1 "no source" img dd if=nothing.qcow2 of=none.raw
[ ! -e none.raw ]
is $? 0 "and nothing is made"

done_testing
