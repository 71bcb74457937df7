#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Encrypted images: QEMU's data is read, and what is written here is read by
# QEMU; the image grows, also after the daemon was killed, and nobody is asked
# for the passphrase again; nothing is left when the device is gone.
#
# requires: qemu-img qemu-io jq dmsetup
# timeout: 400
# once: 6.1
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/luks.sh
. "$TESTS/lib/luks.sh"

keys() { grep -c 'logon.*blkctl:' /proc/keys; }
sectors() { blockdev --getsz "$1"; }
same() { cmp "$dir/ref" "/dev/mapper/$1"; }

# both OFFSET BYTES: the same random bytes to the device and to the reference
both() {
	head -c "$2" /dev/urandom >"$dir/bytes"
	dd if="$dir/bytes" of=/dev/mapper/disk bs=1M seek="$1" oflag=seek_bytes \
		conv=notrunc,fsync status=none &&
		dd if="$dir/bytes" of="$dir/ref" bs=1M seek="$1" \
			oflag=seek_bytes conv=notrunc status=none
}

# direct OFFSET BYTES: the same, past the page cache, in one request
direct() {
	head -c "$2" /dev/urandom >"$dir/bytes"
	dd if="$dir/bytes" of=/dev/mapper/disk bs="$2" seek="$1" \
		oflag=direct,seek_bytes iflag=fullblock conv=notrunc,fsync \
		status=none &&
		dd if="$dir/bytes" of="$dir/ref" bs="$2" seek="$1" \
			oflag=seek_bytes conv=notrunc status=none
}

# The image's and the crypt device's loop device are the same.
grown() {
	local loop
	loop=$(dmsetup deps -o blkdevname disk-crypt | sed 's/.*(\(.*\)).*/\1/')
	[ "$(sectors /dev/mapper/disk-crypt)" = "$(sectors "/dev/$loop")" ] &&
		[ "$(stat -c %s "$image")" -gt "$1" ]
}

nothing_left() {
	[ "$(keys)" = 0 ] && [ "$(dmsetup ls)" = "No devices found" ] &&
		[ -z "$(losetup --list --noheadings)" ]
}

gone_completely() { wait_for 10 nothing_left; }

# nodes_and_objects: none of either
tidy() { [ "$(blkctl qmp query-named-block-nodes)" = "[]" ]; }

refused() {
	local before
	before=$(sha256sum <"$image")
	printf 'not it' >"$dir/wrong"
	t_rc 1 "a wrong key" blkctl create disk "$image" --key-file "$dir/wrong"
	like "$output" "Invalid password" "is refused"
	t_rc 1 "no key, and no terminal" setsid blkctl create disk "$image"
	like "$output" "is encrypted.*hint: --key-file" "is refused, with a hint"
	printf '%s\n' "$LUKS_PASS" >"$dir/wrong"
	t_rc 1 "a key with a newline" \
		blkctl create disk "$image" --key-file "$dir/wrong"
	like "$output" "hint: the key ends with a newline" "has a hint"
	t_rc 2 "a key for an image without encryption" \
		blkctl create disk "$plain" --key-file "$key"
	t "nothing is left" gone_completely
	t "no node is left" tidy
	is "$(sha256sum <"$image")" "$before" "the image is as it was"
	t "QEMU can open it" luks_check "$image"
}

written() {
	local i
	t "attach by key file" attach disk "$image" --key-file "$key"
	t "it shows what QEMU has written" same disk
	like "$(dmsetup table --showkeys disk-crypt)" \
		' :64:logon:blkctl:[^ ]+ 0 ' "no key in the table"
	t_rc 1 "QEMU is locked out" luks_io "$image" -c 'read 0 512'
	t "overwrite" both 65536 262144
	t "new clusters" both $((32 << 20)) $((3 << 20))
	# a part of a cluster that has data, of one without, over an edge, the end
	for i in 66048 $((40 << 20 | 512)) $((48 << 20 | 65024)) \
		$((SIZE - 512)); do
		t "512 bytes at $i" direct "$i" 512
	done
	t "4 KiB over the edge of two new clusters" \
		direct $((49 << 20 | 63488)) 4096
	t "70 KiB, unaligned" direct $((50 << 20 | 1536)) 71680
	t "all is there" same disk
}

# writing WHILE: in the background until the file is removed; then $dir/failed
# is there or not
writing() {
	local at=$((100 << 20))
	rm -f "$dir/failed"
	while [ -e "$dir/writing" ] && [ $at -lt $((180 << 20)) ]; do
		both $at $((1 << 20)) || touch "$dir/failed"
		at=$((at + (1 << 20)))
	done
}

killed() {
	local size pid i
	size=$(stat -c %s "$image")
	t "24 MiB more" both $((64 << 20)) $((24 << 20))
	t "the crypt device has grown with the file" grown "$size"
	touch "$dir/writing"
	writing &
	pid=$!
	for i in 1 2 3; do
		sleep 1
		kill_daemon
		sleep 1
		start_daemon
		is "$(blkctl list -n -o NAME,MODE | tr -s ' ')" "disk rw" \
			"daemon $i adopts the device"
	done
	size=$(stat -c %s "$image")
	rm "$dir/writing"
	wait $pid
	t "no write has failed" test ! -e "$dir/failed"
	t "32 MiB more, after adoption" both $((190 << 20)) $((32 << 20))
	t "the crypt device has grown with the file" grown "$size"
	echo 3 >/proc/sys/vm/drop_caches
	t "all is there" same disk
}

handed_back() {
	t "remove" detach disk
	t "neither device nor key is left" gone_completely
	t "no errors" leaks_only_luks
	t "QEMU reads the same" luks_compare "$image" "$dir/ref"
	# a killed daemon may leave leaks to the next attach's scan
	t "attach again" attach disk "$image" --key-file "$key"
	t "all is there" same disk
	sleep $((5 * VM_SLOW))
	t "remove" detach disk
	t "no errors, no leaks" luks_check "$image"
}

leaks_only_luks() {
	local rc=0
	luks_check "$image" || rc=$?
	[ "$rc" = 0 ] || [ "$rc" = 3 ]
}

readers() {
	t "read-only" attach one -r "$image" --key-file "$key"
	t "a second reader" attach two -r "$image" --key-file "$key"
	t "the first shows it" same one
	t "the second shows it" same two
	t_rc 1 "it cannot be written to" dd if=/dev/zero of=/dev/mapper/one \
		bs=4k count=1 oflag=direct
	t "remove the first" detach one
	echo 3 >/proc/sys/vm/drop_caches
	t "the second works on" same two
	t "remove the second" detach two
	t "nothing is left" gone_completely
}

# What a plain overlay over an encrypted base is for QEMU.
overlay_opts() {
	echo "driver=qcow2,file.filename=$1,backing.driver=qcow2,backing.encrypt.key-secret=s,backing.file.filename=$image"
}

overlay() {
	local top=$dir/top.qcow2 before
	before=$(sha256sum <"$image")
	qemu-img create -q -f qcow2 -u -b "$image" -F qcow2 "$top" $SIZE
	t_rc 1 "an overlay, without the key of its base" blkctl create disk "$top"
	like "$output" "$image" "the message names the base"
	qmp object-add '{"qom-type": "secret", "id": "pw",
		"file": "'"$key"'"}' >/dev/null
	t "a node with the base's key" qmp blockdev-add '{"driver": "qcow2",
		"node-name": "disk", "file": {"driver": "file",
			"filename": "'"$top"'"},
		"backing": {"driver": "qcow2", "read-only": true,
			"file": {"driver": "file", "filename": "'"$image"'"},
			"encrypt": {"format": "luks", "key-secret": "pw"}}}'
	t "the secret may go" qmp object-del '{"id": "pw"}'
	defer detach_quietly disk
	t "export" qmp block-export-add '{"type": "device-mapper", "id": "disk",
		"node-name": "disk", "name": "disk", "writable": true}'
	t "it shows the base" same disk
	t "a part of a cluster" direct 66048 512
	t "another, which is not in the base" direct $((250 << 20 | 512)) 512
	t "whole clusters" both $((96 << 20)) $((4 << 20))
	kill_daemon
	start_daemon
	t "after adoption" both $((128 << 20)) $((40 << 20))
	t "all is there" same disk
	t "remove" detach disk
	t "nothing is left" gone_completely
	is "$(sha256sum <"$image")" "$before" "the base is as it was"
	t "QEMU reads the same" qemu-img compare --object "$(luks_secret)" \
		--image-opts "$(overlay_opts "$top")" \
		"driver=raw,file.filename=$dir/ref"
}

on_a_disk() {
	local disk=${VM_DISKS%% *}
	[ -b "$disk" ] || { skip "an image on a block device" "no disk"; return; }
	dd if="$image" of="$disk" bs=1M oflag=direct conv=fsync status=none
	t "an image on a block device" attach disk "$disk" --key-file "$key"
	t "it shows the same" same disk
	t "it can be written to" direct $((77 << 20 | 512)) 4096
	t "all is there" same disk
	t "remove" detach disk
	t "nothing is left" gone_completely
}

SIZE=$((256 << 20))
key=$dir/key
printf '%s' "$LUKS_PASS" >"$key"
image=$(luks_image disk $SIZE) || bail "an encrypted image"
plain=$(mkimg plain 64M)
t "QEMU writes" luks_io "$image" -c 'write -P 0x5a 0 1M' \
	-c 'write -P 0xa5 20M 64k' -c 'write -P 0x33 21M 1000k'
qemu-img convert --object "$(luks_secret)" --image-opts \
	"$(luks_opts "$image")" -O raw "$dir/ref"
start_daemon
refused
written
killed
handed_back
readers
cp "$dir/ref" "$dir/ref.keep"
overlay
mv "$dir/ref.keep" "$dir/ref"
on_a_disk
done_testing
