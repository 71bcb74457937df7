#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Random input to the kernel: images that are damaged, netlink messages while the
# device is in use and being suspended, and table lines. FUZZ_TIME seconds of each
# (15); FUZZ_SEED says which (another for every kernel).
#
# once: 6.12
# requires: qemu-img python3 gcc dmsetup
# timeout: 600
# vm: --smp 2
. "$(dirname "$0")/../lib.sh"

time=${FUZZ_TIME:-15}
seed=${FUZZ_SEED:-$(uname -r | cksum | cut -c1-6)0}

images() {
	"$TESTS/fuzz/images" --time "$((time * VM_SLOW))" --seed "$seed" \
		--dir "$dir" --keep "$VM_SHARE" >images.log 2>&1
}

# --- netlink ---------------------------------------------------------------------

load_io() {
	local i
	for ((i = 0; ; i++)); do
		dd if=/dev/urandom of=/dev/mapper/fuzzed bs=64k count=4 \
			seek=$((RANDOM % 4000)) oflag=direct
		dd if=/dev/mapper/fuzzed of=/dev/null bs=1M count=4 iflag=direct \
			skip=$((RANDOM % 250))
		[ $((i % 8)) != 0 ] || blkdiscard -o $((RANDOM * 65536)) -l 1M \
			/dev/mapper/fuzzed
	done >/dev/null 2>&1
}

suspend_and_resume() {
	while :; do
		sleep 0.3
		dmsetup suspend --noflush fuzzed
		sleep 0.1
		dmsetup resume fuzzed
	done >/dev/null 2>&1
}

netlink() {
	local image loop numbers jobs=() senders=() i
	gcc -O1 -o netlink-fuzz "$TESTS/device/netlink-fuzz.c" || return
	image=$(mkimg netlink 256M) && truncate -s 64M "$image"
	loop=$(loop_of "$image")
	defer losetup -d "$loop"
	dmsetup create fuzzed --table "0 524288 qcow 1 qcow2 $loop - \
		4 no_space_timeout 1 commit_interval 50" || return
	defer dmsetup remove --retry fuzzed
	numbers=$(dmsetup info -c --noheadings --separator ' ' -o major,minor fuzzed)
	load_io & jobs+=($!)
	suspend_and_resume & jobs+=($!)
	for i in 1 2; do
		# shellcheck disable=SC2086
		./netlink-fuzz $numbers 67108864 $((seed + i)) \
			$((time * VM_SLOW)) >"netlink.log.$i" 2>&1 &
		senders+=($!)
	done
	wait "${senders[@]}"
	kill "${jobs[@]}"
	dmsetup resume fuzzed
	wait "${jobs[@]}" 2>/dev/null
	cat netlink.log.* && [ "$(cat netlink.log.* | grep -c messages)" = 2 ]
}

# --- table lines --------------------------------------------------------------------

tables() {
	"$TESTS/fuzz/tables" --time "$((time * VM_SLOW))" --seed "$seed" \
		--dir "$dir" >tables.log 2>&1
}

modprobe dm-qcow || bail "cannot load the module"
note "seed $seed"
t "damaged images do no harm" images
note < <(tail -n 12 images.log)
t "nor do netlink messages" netlink
note < <(cat netlink.log.*)
t "a device that met them goes away" wait_for 30 dmsetup remove --retry fuzzed
t "nor do table lines" tables
note <tables.log
done_testing
