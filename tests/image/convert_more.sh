#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# convert: persistent bitmaps, what cannot be read, targets that are there
# already, copies by the host, and a limit of the rate.
#
# requires: qemu-img qemu-io qemu-nbd jq
. "$(dirname "$0")/lib.sh"

flags() {
	qemu-img info --output json "$1" 2>/dev/null |
		jq -c '[."format-specific".data.bitmaps[]? | [.name, .granularity, .flags]] | sort'
}

# --- bitmaps ------------------------------------------------------------------------

qemu-img create -q -f qcow2 source.qcow2 8M
qemu-img bitmap --add -g 64k source.qcow2 one
qemu-img bitmap --add -g 4k source.qcow2 two
qemu-io -c 'write -P 1 100k 70k' -c 'write -P 2 5M 64k' source.qcow2 >/dev/null
qemu-img bitmap --disable source.qcow2 two
qemu-io -c 'write -P 3 1M 64k' source.qcow2 >/dev/null

t "without --bitmaps" img convert -O qcow2 source.qcow2 none.qcow2
is "$(flags none.qcow2)" '[]' "there are none"
for o in '' '-c' '-o cluster_size=4k' '-o data_file=copy.data' \
	'-o preallocation=off,refcount_bits=64'; do
	rm -f copy.qcow2 copy.data
	# shellcheck disable=SC2086
	t "--bitmaps $o" img convert --bitmaps -O qcow2 $o source.qcow2 copy.qcow2
	is "$(flags copy.qcow2)" "$(flags source.qcow2)" "the same bitmaps"
	is "$(bits copy.qcow2 one)" "$(bits source.qcow2 one)" "the same bits"
	is "$(bits copy.qcow2 two)" "$(bits source.qcow2 two)" "in both"
	t "clean" clean copy.qcow2
	t "the same disk" same source.qcow2 copy.qcow2
done
like "$(bits source.qcow2 one)" 65536 "and there are bits"

qemu-img create -q -f qcow2 there.qcow2 8M
t "--bitmaps -n" img convert -n --bitmaps -O qcow2 source.qcow2 there.qcow2
is "$(flags there.qcow2)" "$(flags source.qcow2)" "the same bitmaps"
qemu-img create -q -f qcow2 there.qcow2 9M
fails_with 1 "--bitmaps and another size" \
	img convert -n --bitmaps -O qcow2 source.qcow2 there.qcow2

# One that was in use when QEMU died
cp source.qcow2 broken.qcow2
mkfifo in
# shellcheck disable=SC2094
qemu-io broken.qcow2 <in >/dev/null 2>&1 &
exec 7>in
echo 'write -P 5 3M 64k' >&7
echo flush >&7
for ((i = 0; i < 100; i++)); do
	[[ $(qemu-img info -U --output json broken.qcow2 2>/dev/null) != *in-use* ]] || break
	sleep 0.1
done
kill -9 %1
exec 7>&-
wait %1 2>/dev/null
like "$(flags broken.qcow2)" in-use "an inconsistent bitmap"
fails_with 1 "it is not copied" img convert --bitmaps -O qcow2 broken.qcow2 x
like "$output" "'one' is inconsistent" "that is said"
[ ! -e x ] && ok "nothing is left behind" || not_ok "nothing is left behind"
t "--skip-broken-bitmaps" img convert --bitmaps --skip-broken-bitmaps \
	-O qcow2 broken.qcow2 copy.qcow2
qemu-img convert --bitmaps --skip-broken-bitmaps -O qcow2 broken.qcow2 \
	theirs.qcow2 2>/dev/null
is "$(flags copy.qcow2)" "$(flags theirs.qcow2)" "as with qemu-img"

qemu-img create -q -f raw disk.raw 4M
qemu-io -f raw -c 'write -P 1 0 100k' -c 'write -P 2 3M 1M' disk.raw >/dev/null
fails_with 1 "--bitmaps of a raw image" img convert --bitmaps -O qcow2 disk.raw x
fails_with 1 "--bitmaps to raw" img convert --bitmaps -O raw source.qcow2 x
fails_with 1 "--bitmaps to version 2" \
	img convert --bitmaps -O qcow2 -o compat=0.10 source.qcow2 x
fails_with 1 "--skip-broken-bitmaps alone" \
	img convert --skip-broken-bitmaps -O qcow2 source.qcow2 x
[ ! -e x ] && ok "nothing is left behind" || not_ok "nothing is left behind"

# --- what cannot be read --------------------------------------------------------------

qemu-img convert -O qcow2 source.qcow2 damaged.qcow2
l2=$((16#$(xxd -s $((16#30000)) -l 8 -p damaged.qcow2) & ~(1 << 63)))
# The entry of the cluster at 5M refers to somewhere within a cluster.
printf '\x80\0\0\0\0\1\2\0' |
	dd of=damaged.qcow2 bs=1 seek=$((l2 + 80 * 8)) conv=notrunc status=none
fails_with 1 "a damaged source" img convert -O raw damaged.qcow2 x
[ ! -e x ] && ok "nothing is left behind" || not_ok "nothing is left behind"
t "--salvage" img convert --salvage -O raw damaged.qcow2 saved.raw
like "$output" "65536 bytes at 5242880 are lost" "what is lost is said"
qemu-img convert --salvage -O raw damaged.qcow2 theirs.raw 2>/dev/null
is "$(sha saved.raw)" "$(sha theirs.raw)" "the same as qemu-img's"
t "--salvage to qcow2" img convert --salvage -O qcow2 damaged.qcow2 saved.qcow2
t "the same" same -f raw -F qcow2 saved.raw saved.qcow2
# Its table is somewhere else: all of the disk is lost.
cp damaged.qcow2 worse.qcow2
printf '\x80\0\0\0\0\1\2\0' |
	dd of=worse.qcow2 bs=1 seek=$((16#30000)) conv=notrunc status=none
t "--salvage without a table" img convert --salvage -O raw worse.qcow2 lost.raw
is "$(tr -d '\0' <lost.raw | wc -c)" 0 "nothing is left"
is "$(stat -c %s lost.raw)" $((8 << 20)) "of its size"

# --- targets that are there -------------------------------------------------------------

qemu-img create -q -f qcow2 there.qcow2 4M
t "--target-image-opts" img convert -n --target-image-opts disk.raw \
	driver=qcow2,file.filename=there.qcow2
t "the same disk" same -f raw -F qcow2 disk.raw there.qcow2
object=(--object "secret,id=s,data=a-passphrase")
qemu-img create -q "${object[@]}" -f qcow2 -o \
	encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 4M
t "an encrypted one" img convert "${object[@]}" -n --target-image-opts disk.raw \
	driver=qcow2,encrypt.key-secret=s,file.filename=luks.qcow2
t "QEMU reads it" qemu-img compare -q "${object[@]}" --image-opts \
	driver=raw,file.filename=disk.raw \
	driver=qcow2,encrypt.key-secret=s,file.filename=luks.qcow2
truncate -s 4M raw.raw
t "a raw one, which is zero" img convert -n --target-image-opts \
	--target-is-zero disk.raw driver=raw,file.filename=raw.raw
is "$(sha raw.raw)" "$(sha disk.raw)" "the same bytes"
is "$(stat -c %b raw.raw)" "$(stat -c %b disk.raw)" "and as many blocks"
head -c 4M /dev/zero | tr '\0' x >full.raw
t "--target-is-zero is believed" img convert -n --target-is-zero -O raw \
	disk.raw full.raw
is "$(tr -dc x <full.raw | wc -c)" $(((4 << 20) - (1 << 20) - (100 << 10))) \
	"what should be zero is left alone"
fails_with 1 "--target-image-opts without -n" img convert \
	--target-image-opts disk.raw driver=qcow2,file.filename=x
fails_with 1 "--target-image-opts and -O" img convert -n -O qcow2 \
	--target-image-opts disk.raw driver=qcow2,file.filename=there.qcow2
fails_with 1 "--target-is-zero without -n" img convert --target-is-zero \
	-O raw disk.raw x
qemu-img create -q -f qcow2 -b disk.raw -F raw over.qcow2
fails_with 1 "--target-is-zero over an image" img convert -n --target-is-zero \
	-O qcow2 disk.raw over.qcow2

# --- by the host ------------------------------------------------------------------------

head -c 5M /dev/urandom >whole.raw && truncate -s 8000000 whole.raw
for f in raw qcow2; do
	rm -f copy
	t "-C to $f" img convert -C -f raw -O $f whole.raw copy
	t "the same disk" same -f raw -F $f whole.raw copy
	[ $f = raw ] || t "clean" clean copy
done
t "-C from qcow2" img convert -C -O raw copy again.raw
is "$(cmp -n 8000000 again.raw whole.raw)" '' "the same bytes"
# Not between these file systems
if [ -w /dev/shm ]; then
	shm=$(mktemp /dev/shm/convert.XXXXXX)
	t "-C where it is not possible" img convert -C -f raw -O qcow2 whole.raw "$shm"
	t "the same disk" same -f raw -F qcow2 whole.raw "$shm"
	t "clean" clean "$shm"
	rm -f "$shm"
fi
fails_with 1 "-C and -S" img convert -C -S 4k -O raw whole.raw x
fails_with 1 "-C and -c" img convert -C -c -O qcow2 whole.raw x
fails_with 1 "-C and --salvage" img convert -C --salvage -O raw whole.raw x

# --- a limit ------------------------------------------------------------------------------

start=$(date +%s%N)
t "-r" img convert -r 4M -f raw -O raw whole.raw slow.raw
took=$((($(date +%s%N) - start) / 1000000))
[ $took -ge 900 ] && ok "it takes its time" || not_ok "it takes its time: $took ms"
is "$(sha slow.raw)" "$(sha whole.raw)" "the same bytes"
start=$(date +%s%N)
timeout -s INT 0.5 "$BIN/blkctl" image convert -r 1k -f raw -O raw whole.raw x >/dev/null 2>&1
is "$?" 124 "interrupted"
took=$((($(date +%s%N) - start) / 1000000))
[ $took -lt 10000 ] && ok "at once" || not_ok "at once: $took ms"
[ ! -e x ] && ok "the target is gone" || not_ok "the target is gone"

done_testing
