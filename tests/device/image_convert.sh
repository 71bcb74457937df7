#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Compressed images that "blkctl image convert" has made: what its compressors
# write, the kernel's decompressors read, as QEMU does.
#
# once: 6.12
# requires: qemu-img cmp tar
# timeout: 300
. "$(dirname "$0")/../lib.sh"

start_daemon
# real files, the beginning of them
tar -C / -cf "$dir/src.raw" usr/lib/x86_64-linux-gnu/perl-base usr/share/perl5 \
	2>/dev/null
truncate -s 24M "$dir/src.raw"
truncate -s 32M "$dir/src.raw"
for cs in 4k 64k 2M; do
	for type in zlib zstd; do
		what="$type, clusters of $cs"
		t "$what: convert" blkctl image convert -c -O qcow2 \
			-o "cluster_size=$cs,compression_type=$type" \
			"$dir/src.raw" "$dir/packed.qcow2"
		t "$what: attach" attach packed "$dir/packed.qcow2"
		t "$what: the device shows it" cmp "$dir/src.raw" /dev/mapper/packed
		t "$what: detach" detach packed
		t "$what: QEMU reads it" qemu-img compare -f raw -F qcow2 \
			"$dir/src.raw" "$dir/packed.qcow2"
		rm "$dir/packed.qcow2"
	done
done
done_testing
