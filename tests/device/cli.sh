#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What blkctl promises: outputs, exit codes, one sentence for each thing that
# can go wrong, and nothing changed by what failed.
#
# requires: qemu-img qemu-io jq setpriv
# timeout: 300
# once: 6.1
. "$(dirname "$0")/../lib.sh"

sum_of() { sha256sum <"$1"; }
json() { jq -e "$1" <<<"$output"; }

# The last output is one sentence, with a hint perhaps.
sentence() {
	like "$output" "^blkctl: [^"$'\n'"]*($1)[^"$'\n'"]*("$'\n'"hint: .*)?$" \
		"the message says: $1"
}

without_daemon() {
	t_rc 3 "no daemon: list exits with 3" blkctl list
	sentence "blkctld is not running"
	t_rc 3 "no daemon: create exits with 3" blkctl create disk "$image"
	like "$output" "hint: systemctl start blkctld" "and hints"
	t_rc 3 "no daemon, in JSON" blkctl --json list
	t "an error document" json '.error.code == "unavailable"'
}

usage() {
	t_rc 2 "unknown verb" blkctl lst
	like "$output" "hint: did you mean 'list'" "has a suggestion"
	t_rc 2 "unknown option" blkctl list --frobnicate
	t_rc 2 "missing argument" blkctl create disk
	t_rc 2 "too many arguments" blkctl list disk
	t_rc 2 "unknown format" blkctl create -f vmdk disk "$image"
	t_rc 2 "unknown column" blkctl list -o NAME,NONE
	t_rc 2 "bad device name" blkctl create 'a/b' "$image"
	t_rc 2 "empty device name" blkctl create '' "$image"
	t_rc 2 "unknown QMP command" blkctl qmp no-such-command
	t_rc 2 "unknown QMP argument" blkctl qmp query-version '{"a": 1}'
	t_rc 2 "no JSON" blkctl qmp query-version '{'
	t_rc 0 "help" blkctl --help
	t_rc 0 "help of a verb" blkctl create --help
	t_rc 0 "version" blkctl --version
	t_rc 5 "remove what is not there" blkctl remove nothing
	sentence "no device 'nothing'"
	t_rc 5 "show what is not there" blkctl show nothing
	is "$(blkctl)" "" "bare blkctl lists nothing"
}

one_device() {
	t_rc 0 "create" blkctl create disk "$image"
	is "$output" /dev/mapper/disk "prints the path and nothing else"
	t "the device is there" test -b /dev/mapper/disk
	is "$(blkctl list -n -o NAME,SIZE,MODE,IMAGE | tr -s ' ')" \
		"disk 64M rw $image" "list shows it"
	is "$(blkctl list -n -b -o SIZE | tr -d ' ')" 67108864 "size in bytes"
	t_rc 0 "list in JSON" blkctl list --json
	t "is a document" json '."schema-version" == 1 and .warnings == [] and
		.devices[0].path == "/dev/mapper/disk" and
		.devices[0].image."virtual-size" == 67108864 and
		.devices[0].writable == true'
	t_rc 0 "show" blkctl show disk
	like "$output" "image +$image" "has the image"
	t_rc 0 "show in JSON" blkctl show --json disk
	t "has counters" json '.device.stats | length > 10'
}

name_taken() {
	local other before
	other=$(mkimg other 64M)
	before=$(sum_of "$other")
	t_rc 4 "name taken" blkctl create disk "$other"
	sentence "exists already"
	is "$(sum_of "$other")" "$before" "the other image is as it was"
	dmsetup create foreign --table "0 8 zero"
	defer dmsetup remove foreign
	t_rc 4 "name taken by somebody else's device" \
		blkctl create foreign "$other"
	sentence "foreign"
	is "$(sum_of "$other")" "$before" "the other image is as it was"
	is "$(blkctl qmp query-named-block-nodes | jq length)" 2 \
		"no node is left over"
}

busy_at_remove() {
	mkfs.ext4 -q /dev/mapper/disk
	mkdir -p "$dir/mnt"
	mount /dev/mapper/disk "$dir/mnt"
	t_rc 4 "remove a mounted device" blkctl remove disk
	sentence "$dir/mnt"
	t "it works as before" dd if=/dev/zero of="$dir/mnt/file" bs=1M count=8 \
		conv=fsync
	umount "$dir/mnt"
	sleep 600 </dev/mapper/disk &
	t_rc 4 "remove an open device" blkctl remove disk
	sentence "$!"
	kill $! && wait $! 2>/dev/null
	t_rc 0 "remove" blkctl remove disk
	is "$output" "" "is silent"
	t "the device is gone" test ! -e /dev/mapper/disk
	t "no loop device is left" no_loops
	t "the image is clean" check_image "$image"
}

no_loops() { [ -z "$(losetup --list --noheadings)" ]; }

locked() {
	local before pid
	before=$(sum_of "$image")
	stdbuf -oL qemu-io -f qcow2 -c 'read 0 512' -c 'sleep 600000' \
		"$image" >"$dir/qemu.out" 2>&1 &
	pid=$!
	wait_for 30 grep -q ops "$dir/qemu.out"
	t_rc 4 "image locked by QEMU" blkctl create disk "$image"
	sentence "in use by .*qemu-io"
	t_rc 4 "also for reading" blkctl create -r disk "$image"
	kill $pid
	wait $pid 2>/dev/null
	is "$(sum_of "$image")" "$before" "the image is as it was"
	t_rc 0 "attach" blkctl create disk "$image"
	t "QEMU is refused" fails qemu-img resize -f qcow2 "$image" 128M
	kill_daemon
	t "also while no daemon runs" fails qemu-img resize -f qcow2 "$image" 128M
	start_daemon
	t_rc 0 "remove" blkctl remove disk
	t "QEMU may again" qemu-img check -f qcow2 "$image"
}

fails() { ! "$@"; }

over_qmp() {
	local file='{"driver": "file", "filename": "'$image'"}'
	qmp blockdev-add \
		'{"driver": "qcow2", "node-name": "mine", "file": '"$file"'}'
	qmp block-export-add '{"type": "device-mapper", "id": "exp",
		"node-name": "mine", "name": "foreign-name", "writable": true}'
	t "a device made over QMP" test -b /dev/mapper/foreign-name
	t_rc 0 "is removed by name" blkctl remove foreign-name
	t "its node stays" grep -q '"mine"' <(qmp query-named-block-nodes)
	qmp blockdev-del '{"node-name": "mine"}'
	is "$(qmp query-named-block-nodes | jq length)" 0 "until it is deleted"
}

odd_names() {
	local name
	for name in 1st "with.dots-and_more" \
		"a-name-that-is-longer-than-QEMUs-node-names-may-be"; do
		t_rc 0 "create $name" blkctl create "$name" "$image"
		is "$output" "/dev/mapper/$name" "prints its path"
		t_rc 0 "remove $name" blkctl remove "$name"
	done
	cd / && ln -s "$image" "$dir/link" && cd "$dir" || return
	t "a relative name, a symbolic link" attach disk ./link
	t_rc 0 "remove" blkctl remove disk
	is "$(qmp query-named-block-nodes | jq length)" 0 "no node is left"
}

unprivileged() {
	t_rc 3 "not root: list" setpriv --reuid=65534 --clear-groups \
		--regid=65534 blkctl list
	sentence "no permission"
	t_rc 3 "not root: create" setpriv --reuid=65534 --clear-groups \
		--regid=65534 blkctl create disk "$image"
}

no_module() {
	local ko
	ko=/lib/modules/$(uname -r)/updates/dm-qcow.ko
	stop_daemon
	modprobe -r dm-qcow || { note "cannot unload"; return; }
	mv "$ko" "$ko.away"
	start_daemon
	t_rc 3 "no module: create" blkctl create disk "$image"
	sentence "module"
	t_rc 3 "no module: doctor" blkctl doctor
	like "$output" "module +BAD" "says so"
	mv "$ko.away" "$ko"
	t "the daemon loads the module" attach disk "$image"
	t_rc 0 "remove" blkctl remove disk
	t "doctor is content with it" grep -Eq "module +ok" <(blkctl doctor)
}

image=$(mkimg disk 64M)
without_daemon
start_daemon
usage
one_device
name_taken
busy_at_remove
locked
over_qmp
odd_names
unprivileged
no_module
done_testing
