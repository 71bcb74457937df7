#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# convert -o preallocation: all of the copy has a place, and is the same disk.
#
# requires: qemu-img qemu-io jq
. "$(dirname "$0")/lib.sh"

make_sources

clusters() { qemu-img check --output json copy | jq '."allocated-clusters"'; }
for p in metadata falloc full; do
	for o in compat=0.10 cluster_size=4k; do
		rm -f copy
		t "$p: $o" img convert -q -O qcow2 -o preallocation=$p,$o disk.raw copy
		t "the same disk" same disk.raw copy
		t "clean" clean copy
		is "$(clusters)" "$([ $o = cluster_size=4k ] && echo 5120 || echo 320)" "all have a place"
	done
done
t "all of the file has, too" [ "$(du -k copy | cut -f1)" -ge 20480 ]
rm -f copy
t "above another" img convert -O qcow2 -B below.raw -F raw \
	-o preallocation=metadata,extended_l2=on top.qcow2 copy
t "the same disk" same top.qcow2 copy
is "$(clusters)" 320 "all have a place"
rm -f copy
t "with a data file" img convert -O qcow2 \
	-o preallocation=metadata,data_file=copy.data disk.raw copy
t "the same disk" same disk.raw copy
rm -f copy
fails_with 1 "compressed" img convert -c -O qcow2 -o preallocation=full disk.raw copy
object=(--object "secret,id=s,data=a-passphrase")
secret=encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10
t "encrypted" img convert "${object[@]}" -O qcow2 disk.raw copy \
	-o $secret,preallocation=full
t "the same disk" qemu-img compare -q "${object[@]}" --image-opts \
	driver=raw,file.filename=disk.raw \
	driver=qcow2,encrypt.key-secret=s,file.filename=copy
rm -f copy
fails_with 1 "encrypted, and compressed" img convert "${object[@]}" -c -O qcow2 disk.raw copy \
	-o $secret
[ ! -e copy ] && ok "nothing is left behind" || not_ok "nothing is left behind"

done_testing
