#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The main job with small clusters, and the same operations with every cluster
# size and both versions of the format.
#
# once: 6.12
# requires: qemu-img fio mkfs.ext4 python3 dpkg-deb
# timeout: 1200
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/main-job.sh"

start_daemon
job_all "$(mkimg disk 2G -o cluster_size=4K)"
rm -f "$dir"/disk.qcow2
for size in 512 1K 2K 4K 32K 1M 2M; do
	job_same "$(mkimg "same-$size" 256M -o cluster_size=$size)" 500
	rm -f "$dir"/same-*
done
job_same "$(mkimg old 256M -o compat=0.10)" 500
done_testing
