#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# resize does what qemu-img's does: the same disk, clean, of the same size.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

# make OPTIONS: two equal images, 16M with data at both ends
make() {
	rm -f a.qcow2 b.qcow2 data.raw
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $1 a.qcow2 16M &&
		qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 15M 1M' \
			a.qcow2 >/dev/null &&
		cp a.qcow2 b.qcow2
}

# step OPTIONS SIZE [OPTION]...: both are resized, and are the same then
step() {
	local size=$2 opts=$1
	shift 2
	img resize -q -f qcow2 "$@" a.qcow2 "$size" &&
		qemu-img resize -q -f qcow2 "$@" b.qcow2 "$size" &&
		clean a.qcow2 && same -f qcow2 -F qcow2 a.qcow2 b.qcow2 &&
		[ "$(virtual a.qcow2)" = "$(virtual b.qcow2)" ]
}

virtual() { qemu-img info --output=json "$1" | jq '."virtual-size"'; }
allocated() { qemu-img map --output=json "$1" | jq '[.[] | select(.data).length] | add'; }
blocks() { stat -c %b "$1"; }

for opts in "" "-o cluster_size=512" "-o extended_l2=on" "-o compat=0.10" \
	"-o refcount_bits=1,cluster_size=4k"; do
	make "$opts"
	t "grow: $opts" step "$opts" 64M
	t "shrink: $opts" step "$opts" 5M --shrink
	t "by some: $opts" step "$opts" +150M
	t "whole sectors: $opts" step "$opts" 20000256 --shrink
	t "less some: $opts" step "$opts" -1M --shrink
done

truncate -s 8M base.raw && qemu-io -f raw -c 'write -P 9 0 8M' base.raw >/dev/null
qemu-img create -q -f qcow2 -b base.raw -F raw a.qcow2 1M
img resize -q a.qcow2 6M
cp base.raw want.raw; truncate -s 1M want.raw; truncate -s 6M want.raw
t "a longer backing file does not show" same -f qcow2 -F raw a.qcow2 want.raw
t "and it is clean" clean a.qcow2

for mode in metadata falloc full; do
	make ""
	t "preallocation $mode" step "" 40M --preallocation=$mode
	is "$(allocated a.qcow2)" "$(allocated b.qcow2)" "maps as much: $mode"
done
[ "$(blocks a.qcow2)" -gt 40000 ]
is $? 0 "full has space of the host's"

# The cluster with the old end shows what is below.
head -c 3M /dev/urandom >below.raw
for o in cluster_size=2M extended_l2=on,cluster_size=2M data_file=end.data,cluster_size=2M; do
	rm -f end.data
	qemu-img create -q -f qcow2 -o "$o" -b below.raw -F raw end.qcow2 3M
	t "preallocation above another image: $o" \
		img resize -q --preallocation=falloc end.qcow2 9M
	t "clean" clean end.qcow2
	t "the disk reads as before" same -f raw -F qcow2 below.raw end.qcow2
done

rm -f data.raw
qemu-img create -q -f qcow2 -o data_file=data.raw,data_file_raw=on d.qcow2 4M
t "a data file grows" img resize -q d.qcow2 9M
is "$(stat -c %s data.raw)" 9437184 "to the same size"
t "and shrinks" img resize -q --shrink d.qcow2 2M
is "$(stat -c %s data.raw)" 2097152 "to the same size"
t "it is clean" clean d.qcow2

rm -f r.raw q.raw
truncate -s 1M r.raw q.raw
for how in "q.raw 3M" "q.raw +512" "--shrink q.raw -1M" \
	"--preallocation=falloc q.raw 8M" "--preallocation=full q.raw 9M"; do
	# shellcheck disable=SC2086
	img resize -q -f raw ${how/q.raw/r.raw} && qemu-img resize -q -f raw $how
	is "$(stat -c %s r.raw)" "$(stat -c %s q.raw)" "raw: $how"
done

make ""
fails_with 1 "smaller needs --shrink" img resize a.qcow2 1M
like "$output" "--shrink" "which the hint says"
fails_with 1 "half a sector" img resize a.qcow2 20000001
fails_with 1 "no size" img resize a.qcow2 1x
fails_with 1 "no image" img resize none.qcow2 1M
fails_with 1 "preallocation when shrinking" \
	img resize --shrink --preallocation=full a.qcow2 1M
echo -n secret >key
patient qemu-img create -q -f qcow2 --object secret,id=k,file=key -o \
	encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10,compat=0.10 l.qcow2 1M
sum=$(sha l.qcow2)
fails_with 1 "preallocation that there is not" img resize --preallocation=full l.qcow2 2M
is "$(sha l.qcow2)" "$sum" "changes nothing"
is "$(json resize a.qcow2 32M | jq -c .)" \
	'{"filename":"a.qcow2","virtual-size":33554432}' "--json"
t "image-opts" img resize -q --image-opts driver=qcow2,file.filename=a.qcow2 33M
sum=$(sha a.qcow2)
fails_with 1 "a driver that is not here" img resize -q --image-opts \
	driver=vmdk,file.filename=a.qcow2 1G
fails_with 1 "an option that is not known" img resize -q --image-opts \
	driver=qcow2,file.filename=a.qcow2,foo=1 1G
fails_with 1 "two formats" img resize -q -f raw --image-opts \
	driver=qcow2,file.filename=a.qcow2 1G
is "$(sha a.qcow2)" "$sum" "nothing has changed"

mkfifo hold
qemu-io -f qcow2 a.qcow2 <hold >/dev/null &
exec 9>hold
for _ in $(seq 50); do
	img resize a.qcow2 34M >out 2>&1 || break
	sleep 0.1
done
like "$(cat out)" "in use|lock|holds" "an image in use is refused"
exec 9>&-
wait
done_testing
