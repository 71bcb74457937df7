#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# blkctld is killed again and again under fio: no I/O fails, each new daemon
# adopts the device under its old names, and no leak outlives the next attach.
#
# requires: qemu-img fio jq
# timeout: 300
. "$(dirname "$0")/../lib.sh"

load() {
	fio --name=load --filename=/dev/mapper/disk --direct=1 --rw=randwrite \
		--ioengine=libaio --iodepth=8 --bssplit=4k/60:64k/30:256k/10 \
		--size=512M --io_size="$1" --verify=crc32c --do_verify=1 \
		--verify_fatal=1 --end_fsync=1 --randrepeat=0
}

names() { blkctl list --json | jq -c '.devices[] | [.name, .id, .mode]'; }

# The scan for leaks runs in the background: give it some attachments.
clean_at_last() {
	local i
	for i in 1 2 3 4 5; do
		check_image "$image" && return
		attach disk "$image" || return
		sleep $((i * VM_SLOW))
		detach disk || return
	done
	return 1
}

start_daemon
image=$(mkimg disk 1G)
t "create" attach disk "$image"
before=$(names)
load 256M >"$dir/fio" 2>&1 &
fio=$!
for i in 1 2 3 4 5; do
	sleep 2
	kill_daemon
	sleep 1
	start_daemon
	is "$(names)" "$before" "daemon $i adopts the device"
done
if wait $fio; then
	ok "fio has lost nothing"
else
	not_ok "fio has lost nothing"
	note <"$dir/fio"
fi
t "a read and a write after all that" load 8M
t "remove" detach disk
t "no errors" leaks_only "$image"
t "no leaks after the next attach" clean_at_last
done_testing
