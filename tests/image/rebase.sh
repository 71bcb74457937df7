#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# rebase: the disk stays what it was, above another image; -u changes the
# header alone.
#
# requires: qemu-img qemu-io qemu-nbd jq
. "$(dirname "$0")/lib.sh"

qemu-img create -q -f raw one 4M
qemu-img create -q -f raw two 3M
qemu-io -f raw -c 'write -P 1 0 2M' -c 'write -P 2 3M 512k' one >/dev/null
qemu-io -f raw -c 'write -P 1 0 1M' -c 'write -P 9 1M 64k' -c 'write -P 7 2M 1M' two >/dev/null

# make OPTIONS: an image above "one"
make() {
	rm -f a.qcow2
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 -b one -F raw $1 a.qcow2 5M &&
		qemu-io -f qcow2 -c 'write -P 3 64k 100k' -c 'write -z 3M 64k' \
			a.qcow2 >/dev/null &&
		qemu-img convert -f qcow2 -O raw a.qcow2 want.raw
}
backing() {
	qemu-img info --output=json a.qcow2 |
		jq -c '[."backing-filename", ."backing-filename-format"]'
}
mapped() {
	qemu-img map --output=json "$1" | jq '[.[] | select(.depth == 0).length] | add'
}

for opts in "" "-o cluster_size=4k" "-o extended_l2=on" "-o compat=0.10"; do
	make "$opts"
	cp a.qcow2 b.qcow2
	t "another one: $opts" img rebase -q -b two -F raw a.qcow2
	qemu-img rebase -q -b two -F raw b.qcow2
	t "the same disk" same -f qcow2 -F raw a.qcow2 want.raw
	t "clean" clean a.qcow2
	is "$(backing)" '["two","raw"]' "says the header"
	t "none: $opts" img rebase -q -b "" a.qcow2
	t "the same disk" same -f qcow2 -F raw a.qcow2 want.raw
	is "$(backing)" '[null,null]' "says the header"
	t "clean" clean a.qcow2
	rm -f a.qcow2
	# shellcheck disable=SC2086
	qemu-img create -q -f qcow2 $opts a.qcow2 5M
	qemu-io -f qcow2 -c 'write -P 3 64k 100k' a.qcow2 >/dev/null
	qemu-img convert -f qcow2 -O raw a.qcow2 want.raw
	t "the first one: $opts" img rebase -q -b two -F raw a.qcow2
	t "zeroes stay zeroes" same -f qcow2 -F raw a.qcow2 want.raw
	t "clean" clean a.qcow2
done

for opts in "" "-o cluster_size=4k" "-o extended_l2=on" "-o compat=0.10" \
	"-o refcount_bits=1" "-o compression_type=zstd"; do
	make "$opts"
	t "compressed: $opts" img rebase -q -c -b "" a.qcow2
	t "the same disk" same -f qcow2 -F raw a.qcow2 want.raw
	t "clean" clean a.qcow2
	t "there are compressed clusters" [ "$(qemu-img check --output=json a.qcow2 |
		jq '."compressed-clusters"')" -gt 30 ]
done
make ""
img rebase -q -c -b "" a.qcow2
t "much smaller" [ "$(stat -c %s a.qcow2)" -lt 1000000 ]
make "-o data_file=a.data"
fails_with 1 "-c with a data file" img rebase -c -b "" a.qcow2
t "the same disk" same -f qcow2 -F raw a.qcow2 want.raw

make ""
# a bitmap that records: the disk does not change, so neither does it
make "-o extended_l2=on"
qemu-img bitmap --add -g 4k a.qcow2 kept
qemu-io -f qcow2 -c 'write -P 5 4M 5k' a.qcow2 >/dev/null
qemu-img convert -f qcow2 -O raw a.qcow2 want.raw
t "with a bitmap that records" img rebase -q -b two -F raw a.qcow2
t "the same disk" same -f qcow2 -F raw a.qcow2 want.raw
is "$(bits a.qcow2 kept)" "[[4194304,8192]]" "it knows of the write before, alone"
t "clean" clean a.qcow2
make ""
cp one moved
t "unsafe" img rebase -q -u -b moved -F raw a.qcow2
t "the same disk" same -f qcow2 -F raw a.qcow2 want.raw
is "$(backing)" '["moved","raw"]' "says the header"
t "no copy was made" [ "$(mapped a.qcow2)" -lt 1300000 ]
sum=$(sha a.qcow2)
fails_with 1 "no format" img rebase -u -b one a.qcow2
fails_with 1 "no file" img rebase -b none -F raw a.qcow2
fails_with 1 "below itself" img rebase -b a.qcow2 -F qcow2 a.qcow2
fails_with 1 "no -b" img rebase a.qcow2
is "$(sha a.qcow2)" "$sum" "nothing has changed"
done_testing
