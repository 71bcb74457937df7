#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The dm-crypt device of an encrypted image: it shows what QEMU has written and
# QEMU reads what is written to it, it grows with the file without anybody
# knowing the key, and nothing of it stays behind.
#
# requires: qemu-img qemu-io dmsetup losetup gcc python3
# timeout: 300
# once: 6.1
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/luks.sh"

tool=$dir/crypt-tool
dev=/dev/mapper/x-crypt

build() {
	# shellcheck disable=SC2046
	gcc -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -pthread \
		-I/usr/include/libblkctl -o "$tool" \
		"$TESTS/device/crypt-tool.c" -l:libblkctl.a \
		$(pkg-config --libs devmapper libnl-genl-3.0 libnl-3.0 \
			jansson liburing zlib libcryptsetup)
}

# host_of OFFSET: where a guest offset is in the image; qemu-img does not say
host_of() {
	python3 - "$image" "$1" <<-'EOF'
	import struct, sys
	f = open(sys.argv[1], "rb")
	guest = int(sys.argv[2])
	def number(at):
	    f.seek(at)
	    return struct.unpack(">Q", f.read(8))[0] & 0x00fffffffffffe00
	l2 = number(number(40) + guest // (1 << 29) * 8)
	print(number(l2 + guest // 65536 % 8192 * 8) + guest % 65536)
	EOF
}

# all_bytes DEVICE OFFSET OCTAL: 64 KiB of the same byte
all_bytes() {
	cmp <(dd if="$1" bs=512 skip=$(($2 / 512)) count=128 iflag=direct \
		status=none) <(head -c 65536 /dev/zero | tr '\0' "\\$3")
}

# write_bytes DEVICE OFFSET OCTAL
write_bytes() {
	head -c 65536 /dev/zero | tr '\0' "\\$3" |
		dd of="$1" bs=64k seek="$2" oflag=direct,seek_bytes \
			iflag=fullblock conv=fsync status=none
}

keys() { grep -c 'logon.*blkctl:' /proc/keys; }
sectors() { blockdev --getsz "$1"; }

# Reads and writes all the time; ends when it may no longer run.
load() {
	while [ -e "$dir/loading" ]; do
		write_bytes $dev "$at" 063 && all_bytes $dev "$at" 063 ||
			return 1
	done
}

grow() {
	truncate -s +16M "$image" && losetup -c "$loop" &&
		"$tool" resize x-crypt &&
		[ "$(sectors "$dev")" = "$(sectors "$loop")" ]
}

growing() {
	local i pid
	touch "$dir/loading"
	load &
	pid=$!
	t "grow under load, by a process that has no key" grow
	for i in 2 3 4; do
		t "grow again ($i)" grow
	done
	rm "$dir/loading"
	t "no I/O failed" wait $pid
	end=$(($(sectors "$dev") * 512 - 65536))
	t "write to the end" write_bytes $dev $end 123
	t "read it" all_bytes $dev $end 123
	t_rc 1 "it is encrypted below" all_bytes "$loop" $end 123
	t "nothing to do is no error" "$tool" resize x-crypt
}

lost_key() {
	t "the key is lost" "$tool" lose-key x-crypt
	truncate -s +16M "$image"
	losetup -c "$loop"
	t_rc 1 "it does not grow any more" "$tool" resize x-crypt
	like "$output" "^126: .*not in root's user keyring" "and says why"
	t "it is readable" all_bytes $dev $end 123
}

leftovers() {
	t "up" "$tool" up x-crypt "$loop" "$image" "$LUKS_PASS"
	t "another process replaces what is left and not in use" \
		"$tool" up x-crypt "$loop" "$image" "$LUKS_PASS"
	is "$(keys)" 1 "one key"
	dmsetup create user --table "0 8 linear $dev 0"
	defer dmsetup remove user
	t_rc 0 "what is in use is not replaced" \
		"$tool" up x-crypt "$loop" "$image" "$LUKS_PASS"
	is "$output" x-crypt.2 "but left alone"
	is "$(keys)" 2 "two keys"
	t "sweep" "$tool" sweep
	t "one is not in use, and goes" test ! -e $dev.2
	t "what is in use stays" test -b $dev
	is "$(keys)" 1 "with its key"
	dmsetup remove user
	t "sweep" "$tool" sweep
	t "what is not in use goes" test ! -e $dev
	is "$(keys)" 0 "with its key"
}

readers() {
	t_rc 0 "a reader" "$tool" reader y-crypt "$loop" "$image" "$LUKS_PASS"
	is "$output" y-crypt "has a device"
	dmsetup create user -r --table "0 8 linear /dev/mapper/y-crypt 0"
	defer dmsetup remove user
	t_rc 0 "another" "$tool" reader z-crypt "$loop" "$image" "$LUKS_PASS"
	is "$output" y-crypt "shares it"
	t "the first ends" "$tool" down y-crypt
	t "it stays for the other" all_bytes /dev/mapper/y-crypt "$at" 063
	dmsetup remove user
	t "the other ends" "$tool" down y-crypt
	t "it goes" test ! -e /dev/mapper/y-crypt
	is "$(keys)" 0 "with its key"
}

t "build the tool" build
modprobe -a loop dm-mod
image=$(luks_image disk 64M)
t "QEMU writes" luks_io "$image" -c 'write -P 0x5a 0 1M'
at=$(host_of 0)
loop=$(loop_of "$image")
defer losetup -d "$loop"
defer dmsetup remove x-crypt
t_rc 1 "a wrong passphrase" "$tool" up x-crypt "$loop" "$image" wrong
like "$output" "^129: Invalid password" "is refused"
t "up" "$tool" up x-crypt "$loop" "$image" "$LUKS_PASS"
is "$(sectors "$dev")" "$(sectors "$loop")" "as large as the device below"
t "it shows what QEMU has written" all_bytes $dev "$at" 132
like "$(dmsetup table --showkeys x-crypt)" ' :64:logon:blkctl:[^ ]+ 0 ' \
	"no key in the table"
is "$(keys)" 1 "one key in the keyring"
t "write" write_bytes $dev "$at" 063
t "QEMU reads it" luks_io "$image" -r -U -c 'read -P 0x33 0 64k' \
	-c 'read -P 0x5a 64k 960k'
growing
lost_key
t "down" "$tool" down x-crypt
is "$(keys)" 0 "no key is left"
t "the device is gone" test ! -e $dev
leftovers
readers
done_testing
