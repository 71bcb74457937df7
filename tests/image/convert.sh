#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# convert: copies are what qemu-img reads from the source, and clean; of all
# kinds of images, into all kinds.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

SIZE=20M

fill() {
	qemu-io -f "$1" -c 'write -P 1 0 64k' -c 'write -P 2 100k 300k' \
		-c 'write -P 3 5M 1M' -c 'write -z 5200k 128k' \
		-c 'write -P 4 10000k 7k' -c 'write -P 5 19M 1M' \
		-c 'write -z 12M 1M' "$2" >/dev/null
}

# copy NAME SOURCE ARGUMENT...: to "copy", which is the same disk
copy() {
	local name=$1 source=$2
	shift 2
	rm -f copy copy.data
	t "$name" img convert -q "$@" "$source" copy &&
		t "$name: the same disk" same "$source" copy &&
		[[ $(head -c 3 copy) != QFI ]] || t "$name: clean" clean copy
}

# Data that compresses, and data that does not.
qemu-img create -q -f raw disk.raw $SIZE && fill raw disk.raw
{ seq 200000; head -c 300000 /dev/urandom; } |
	dd of=disk.raw bs=64k seek=100 conv=notrunc status=none

# --- into ---------------------------------------------------------------------------

for o in cluster_size=512 cluster_size=2M compat=0.10 \
	extended_l2=on,cluster_size=32k refcount_bits=1 \
	refcount_bits=64,compression_type=zstd; do
	for c in '' -c; do
		# shellcheck disable=SC2086
		copy "into $o $c" disk.raw -f raw -O qcow2 $c -o $o
	done
done
copy "with defaults" disk.raw -O qcow2
copy "with one thread" disk.raw -O qcow2 -c -m 1
copy "in any order" disk.raw -O qcow2 -W -m 3
copy "all of it" disk.raw -O qcow2 -S 0
is "$(qemu-img check --output json copy | jq '."allocated-clusters"')" 320 \
	"-S 0 leaves nothing out"
copy "raw to raw" disk.raw -f raw -O raw
is "$(sha copy)" "$(sha disk.raw)" "the same bytes"
copy "a data file" disk.raw -O qcow2 -o data_file=copy.data,data_file_raw=on
is "$(sha copy.data)" "$(sha disk.raw)" "the data file is the disk"
qemu-img create -q -f raw odd.raw 1000000 && dd if=disk.raw of=odd.raw bs=1000 \
	count=1000 status=none
copy "an odd size" odd.raw -f raw -O qcow2

# --- from ---------------------------------------------------------------------------

qemu-img convert -O qcow2 -c disk.raw packed.qcow2
qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k sub.qcow2 $SIZE &&
	fill qcow2 sub.qcow2
qemu-img create -q -f qcow2 -b sub.qcow2 -F qcow2 top.qcow2 24M
qemu-io -c 'write -P 9 3M 5k' -c 'write -z 19M 64k' -c 'write -P 8 23M 100k' \
	top.qcow2 >/dev/null
for f in packed sub top; do
	copy "from $f to raw" $f.qcow2 -O raw
	copy "from $f to qcow2" $f.qcow2 -O qcow2
done

copy "with the same below" top.qcow2 -O qcow2 -B sub.qcow2 -F qcow2
is "$(qemu-img info --output json copy | jq -r '."backing-filename"')" \
	sub.qcow2 "it has the backing file"
like "$(qemu-img check --output json copy | jq '."allocated-clusters"')" \
	'^[1-5]$' "and only what differs"

qemu-img snapshot -c one packed.qcow2
qemu-io -c 'write -P 7 1M 1M' packed.qcow2 >/dev/null
t "a snapshot" img convert -q -O raw -l one packed.qcow2 snap.raw
is "$(sha snap.raw)" "$(sha disk.raw)" "what it had"

t "two sources" img convert -O qcow2 disk.raw odd.raw both.qcow2
cat disk.raw odd.raw >both.raw && truncate -s %512 both.raw
t "one behind the other" same -f raw -F qcow2 both.raw both.qcow2

object=(--object "secret,id=s,data=a-passphrase")
t "encrypted" img convert "${object[@]}" -O qcow2 disk.raw secret.qcow2 \
	-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
t "QEMU reads it" qemu-img compare -q "${object[@]}" --image-opts \
	driver=raw,file.filename=disk.raw \
	driver=qcow2,encrypt.key-secret=s,file.filename=secret.qcow2
t "and we do" img convert "${object[@]}" -O raw --image-opts \
	driver=qcow2,encrypt.key-secret=s,file.filename=secret.qcow2 plain.raw
is "$(sha plain.raw)" "$(sha disk.raw)" "the same bytes"

# --- targets ------------------------------------------------------------------------

qemu-img create -q -f qcow2 there.qcow2 $SIZE
t "-n" img convert -n -O qcow2 disk.raw there.qcow2
t "-n: the same disk" same disk.raw there.qcow2

qemu-img create -q -f qcow2 small.qcow2 1M
fails_with 1 "-n: too small" img convert -n -O qcow2 disk.raw small.qcow2
head -c $((20 << 20)) /dev/urandom >there.raw
t "-n: over something" img convert -n -O raw disk.raw there.raw
is "$(sha there.raw)" "$(sha disk.raw)" "zeroes are written there"

fails_with 1 "one file" img convert -O qcow2 disk.raw
fails_with 1 "an option that is unknown" img convert -O qcow2 -o foo=1 disk.raw x
fails_with 1 "-c to raw" img convert -c -O raw disk.raw x
fails_with 1 "no source" img convert -O qcow2 nothing x
fails_with 1 "a damaged source" img convert -f qcow2 -O raw disk.raw x
[ ! -e x ] && ok "nothing is left behind" || not_ok "nothing is left behind"

# A target that is not complete goes.
truncate -s 64G big.raw
dd if=/dev/urandom of=big.raw bs=1M count=64 conv=notrunc status=none
timeout -s INT 0.2 "$BIN/blkctl" image convert -c -S 0 -O qcow2 big.raw x >/dev/null 2>&1
is "$?" 124 "interrupted"
[ ! -e x ] && ok "the target is gone" || not_ok "the target is gone"
img convert -p --progress=json:3 -O qcow2 disk.raw x 3>progress >/dev/null
is "$(tail -n 1 progress | jq -c .)" \
	'{"done":20971520,"total":20971520,"percent":100}' "progress in JSON"

done_testing
