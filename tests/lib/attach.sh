# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the tests of the library's attachments share: tests/device/attach-tool.c
# as $tool, which takes the place of the daemon.

tool=${dir:?}/attach-tool

build_tool() {
	# shellcheck disable=SC2046
	gcc -std=gnu11 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -pthread \
		-I/usr/include/libblkctl -o "$tool" \
		"$TESTS/device/attach-tool.c" -l:libblkctl.a \
		$(pkg-config --libs devmapper libnl-genl-3.0 libnl-3.0 \
			jansson liburing zlib libcryptsetup) || bail "cannot build attach-tool"
	modprobe dm-qcow || bail "cannot load the module"
	defer remove_leftovers
}

remove_leftovers() {
	dmsetup remove_all
	losetup -D
}

# steps STEP...: all of them must do what they should; $output
steps() {
	local rc=0
	output=$("$tool" "$@" 2>&1) || rc=$?
	printf '%s\n' "$output"
	return $rc
}

# orphan STEP...: and then it is killed
orphan() {
	{ "$tool" "$@" kill; } >/dev/null 2>&1
	true
}

# Neither a device nor a loop device is left (udev may look for a moment).
nothing_left() { wait_for 5 no_devices; }

no_devices() {
	[ "$(dmsetup ls)" = "No devices found" ] && [ -z "$(losetup -l)" ]
}

# In the header cluster alone: data may have any bytes.
marked() { head -c 4096 "$1" | grep -q DMQC; }
clean() { check_image "$1" && ! marked "$1"; }
