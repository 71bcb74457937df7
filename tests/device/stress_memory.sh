#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Memory is nearly used up: the guest swaps to one device, which grows, and
# writes to a file system on another. Nothing hangs, the daemon included, and
# nothing is lost. STRESS (1): how many times as long.
#
# once: 6.12
# requires: qemu-img gcc mkswap mkfs.ext4
# timeout: 480
. "$(dirname "$0")/../lib.sh"

disk=${VM_DISKS%% *}
[ -n "$disk" ] || skip_all "no disk to spare"
seconds=$((6 * ${STRESS:-1}))

swap_out() { awk '$1 == "pswpout" { print int($2 / 256) }' /proc/vmstat; }
no_swap() { ! grep -q dm- /proc/swaps || swapoff /dev/mapper/swap; }

lock_memory() {
	./hog lock 100 >locked &
	hog=$!
	defer kill "$hog"
	echo -1000 >/proc/"$hog"/oom_score_adj
	wait_for 60 grep -q ready locked
}

gcc -std=gnu11 -D_GNU_SOURCE -O1 -o hog "$TESTS/device/hog.c" ||
	bail "cannot build hog"
qemu-img create -q -f qcow2 "$disk" 1G
image=$(mkimg fs 1G -o cluster_size=4k)
start_daemon
t "attach what to swap to" attach swap "$disk"
t "attach what to write to" attach fs "$image"
mkfs.ext4 -q -F /dev/mapper/fs
mount_at /dev/mapper/fs "$dir/mnt"
mkswap /dev/mapper/swap >/dev/null
t "swap" swapon /dev/mapper/swap
defer no_swap
before=$(swap_out)
t "use up memory" lock_memory
./hog use 240 "$seconds" >used 2>&1 &
use=$!
n=0
end=$((SECONDS + seconds))
while [ $SECONDS -lt $end ]; do
	dd if=/dev/zero bs=1M count=48 status=none | tr '\0' "\\$((n % 8))" \
		>"mnt/$((n % 4))"
	sync -d "mnt/$((n % 4))"
	n=$((n + 1))
done
t "memory that was swapped out is what it was" wait $use
note "$(cat used); $(($(swap_out) - before)) MiB swapped out, $n files of 48 MiB written; blkctld has $(daemon_mib) MiB"
[ $(($(swap_out) - before)) -ge 50 ] && ok "it did swap" || not_ok "it did swap"
t "the daemon answers" timeout 60 blkctl list
kill "$hog"
wait "$hog" 2>/dev/null
is "$(tr -d "\\$(((n - 1) % 8))" <"mnt/$(((n - 1) % 4))" | wc -c)" 0 "the last file is whole"
t "no swap" no_swap
umount mnt
t "remove one" detach swap
t "and the other" detach fs
t "no errors, no leaks" check_image "$image"
t "nor here" check_image "$disk"
done_testing
