#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Suspended, resumed and reloaded in a loop under load: no I/O fails, no bit
# changes, and the table line round-trips.
#
# once: 6.12
# requires: qemu-img fio dmsetup
# timeout: 240
. "$(dirname "$0")/../lib.sh"

load() {
	fio --name=load --filename=/dev/mapper/disk --direct=1 --rw=randrw \
		--ioengine=libaio --iodepth=16 --bssplit=4k/60:64k/30:256k/10 \
		--size=256M --io_size=192M --verify=crc32c --do_verify=1 \
		--verify_fatal=1 --fsync=32 --randrepeat=0
}

reload() {
	dmsetup table disk | dmsetup load disk && dmsetup resume disk
}

cycle() {
	dmsetup suspend disk && dmsetup resume disk &&
		dmsetup suspend --noflush --nolockfs disk &&
		dmsetup resume disk && reload
}

start_daemon
image=$(mkimg disk 1G)
t "create" attach disk "$image"
table=$(dmsetup table disk)
t "a reload of its own table line" reload
is "$(dmsetup table disk)" "$table" "the table line round-trips"
load >"$dir/fio" 2>&1 &
fio=$!
cycles=0
while kill -0 $fio 2>/dev/null; do
	cycle >"$dir/cycle" 2>&1 || break
	cycles=$((cycles + 1))
	sleep 0.3
done
if wait $fio; then
	ok "fio has lost nothing in $cycles cycles"
else
	not_ok "fio has lost nothing in $cycles cycles"
	note <"$dir/fio"
fi
[ $cycles -gt 3 ] && ok "there were some" || { not_ok "there were some"; note <"$dir/cycle"; }
like "$(dmsetup status disk)" " rw live " "it writes, and the daemon has it still"
sum=$(sha256sum </dev/mapper/disk)
t "remove" detach disk
t "no errors, no leaks" check_image "$image"
qemu-img convert -f qcow2 -O raw "$image" raw
is "$(sha256sum <raw)" "$sum" "the image holds what the device did"
done_testing
