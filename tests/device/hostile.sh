#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images made by an enemy, beyond those of bad_header and bad_mapping: what they
# ask for is refused or fails, nothing hangs, and no write goes where it must not.
#
# requires: qemu-img qemu-io python3 dd mkfifo
# timeout: 300
# once: 6.1
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/features.sh"

disk=/dev/mapper/bad
copied='(1 << 63)'

set_field() { python3 "$TESTS/lib/qcow2-set.py" "$@"; }
sum_of() { sha256sum <"$1"; }
fails() { ! "$@"; }

# Nothing takes longer, unless it hangs.
limited() { timeout -k 5 $((20 * VM_SLOW)) "$@"; }

# io COMMAND of qemu-io...: on the device
io() {
	local c commands=()
	for c in "$@"; do commands+=(-c "$c"); done
	limited qemu-io -f raw -t none "${commands[@]}" "$disk"
}

# error COMMAND...: fails, and not by a time-out
error() {
	local rc=0
	"$@" || rc=$?
	echo "exit code $rc"
	[ "$rc" != 0 ] && [ "$rc" -lt 124 ]
}

# ends COMMAND...: well or badly, but not by a time-out
ends() {
	local rc=0
	"$@" || rc=$?
	[ "$rc" -lt 124 ]
}

# --- one image with damaged entries ------------------------------------------------

# What must be as it was in an image with 64K clusters: the L1 and the refcount
# table, whole; and no sector of the header, the L2 table and the refcount block
# has become data, which io below writes as one byte over and over.
protected() {
	python3 - "$1" <<'PY'
import hashlib
import sys

with open(sys.argv[1], "rb") as f:
    def cluster(at):
        f.seek(at)
        return f.read(65536)

    def number(at):
        f.seek(at)
        return int.from_bytes(f.read(8), "big") & 0xfffffffffffe00

    l1, table = number(40), number(48)
    print(hashlib.sha256(cluster(l1) + cluster(table)).hexdigest())
    for at in 0, number(l1), number(table):
        data = cluster(at)
        for i in range(0, len(data), 512):
            sector = data[i:i + 512]
            if sector[0] and sector == sector[:1] * 512:
                print("data in metadata: %#x" % (at + i))
PY
}

make_good() {
	good=$(mkimg good 1G) &&
		qemu-io -f qcow2 -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' \
			-c 'write -P 4 128k 64k' -c 'write -P 3 40M 64k' "$good" &&
		block=$(set_field "$good" --get \
			"@$(set_field "$good" --get refcount_table_offset)")
}

damaged() {
	image=$dir/bad.qcow2
	cp "$good" "$image"
	set_field "$image" "$@"
}

# What is bad spoils the slice of the table that it is in, and no other.
entry() { # NAME VALUE
	local before
	damaged 'l2[1]' "$2"
	before=$(protected "$image")
	t "$1: create" attach bad "$image" || return
	t "$1: a write fails" error io 'write -P 9 64k 64k'
	t "$1: a small write fails" error io 'write -P 9 66k 512'
	t "$1: another slice is read" io 'read -P 3 40M 64k'
	t "$1: remove" detach bad
	is "$(protected "$image")" "$before" "$1: metadata is as it was"
}

# Whether writes fail is not said; but they stay away from metadata.
careful() { # NAME FIELD VALUE...
	local name=$1 before
	shift
	damaged "$@"
	before=$(protected "$image")
	if ends attach bad "$image" >/dev/null 2>&1 && [ -b "$disk" ]; then
		t "$name: a write comes to an end" ends io 'write -P 9 64k 64k'
		t "$name: so does another" ends io 'write -P 8 0 4k'
		t "$name: and a read" ends io 'read 0 1M'
		t "$name: remove" detach bad
		is "$(protected "$image")" "$before" "$name: metadata is as it was"
	else
		ok "$name: refused"
		is "$(protected "$image")" "$before" "$name: nothing was written"
	fi
}

entries() {
	t "an image to damage" make_good || return
	entry "data inside the header" "0 | cluster * 0 | 1 << 9 | $copied"
	entry "data in the refcount block" "$block | $copied"
	entry "data in the table itself" \
		"$(($(set_field "$good" --get 'l1[0]') & 0xfffffffffffe00)) | $copied"
	entry "data in the L1 table" "l1_table_offset | $copied"
	careful "a table that is the L1 table" 'l1[0]' "l1_table_offset | $copied"
	careful "a table that is the header" 'l1[1]' "0 | $copied"
	careful "two tables in one" 'l1[1]' \
		"$(set_field "$good" --get 'l1[0]')"
	careful "two entries with one cluster" 'l2[1]' \
		"$(set_field "$good" --get 'l2[0]')"
	careful "a table that is data" 'l1[1]' "$(set_field "$good" --get 'l2[2]')"
	careful "data not allocated by its refcount" 'l2[1]' "eof | $copied"
}

# The largest L1 table that there may be.
large_l1() {
	image=$(mkimg l1 128G -o cluster_size=512)
	t "L1 of 32 MiB: create" attach bad "$image" || return
	t "L1 of 32 MiB: writes" io 'write -P 1 0 4k' 'write -P 2 127G 4k' \
		'read -P 1 0 4k' 'read -P 2 127G 4k' 'read -P 0 64G 64k'
	t "L1 of 32 MiB: remove" detach bad
	t "L1 of 32 MiB: no errors, no leaks" check_image "$image"
}

# --- compressed clusters --------------------------------------------------------------

# packed NAME VALUE [DATA]: entry 1 is a compressed cluster like this; DATA, a
# line of Python for bytes, is put at the end of the file
packed() {
	local name=$1 before
	cp "$packed" "$dir/bad.qcow2"
	image=$dir/bad.qcow2
	[ -z "${3-}" ] || python3 -c "
import sys, zlib
f = open(sys.argv[1], 'r+b')
f.seek(-(-f.seek(0, 2) // 65536) * 65536)
f.write(($3).ljust(65536, b'\\0'))" "$image"
	set_field "$image" 'l2[1]' "$2"
	before=$(protected "$image")
	t "$name: create" attach bad "$image" || return
	t "$name: reading comes to an end" ends io 'read 64k 64k'
	t "$name: others are read" io 'read -P 3 40M 64k'
	t "$name: so does a small write" ends io 'write -P 9 66k 512'
	t "$name: so does a large one" ends io 'write -P 9 64k 64k'
	t "$name: remove" detach bad
	is "$(protected "$image")" "$before" "$name: metadata is as it was"
}

# Bits 62 and 54 to 61 are those of a compressed entry of 64K clusters.
compressed() {
	local n='(127 << 54)' c='(1 << 62)'
	make_good >/dev/null
	packed=$dir/packed.qcow2
	qemu-img convert -c -f qcow2 -O qcow2 "$good" "$packed"
	block=$(set_field "$packed" --get \
		"@$(set_field "$packed" --get refcount_table_offset)")
	packed "compressed, beyond the end" "$c | $n | (eof + 64 * cluster)"
	packed "compressed, at the end" "$c | $n | (eof - 512)"
	packed "compressed, the header" "$c | $n | 1"
	packed "compressed, the table" "$c | $n | l1_table_offset"
	packed "compressed, the largest offset" "$c | $n | ((1 << 54) - 1)"
	packed "compressed, noise" "$c | $n | (eof - cluster)" \
		"bytes(range(1, 256)) * 200"
	packed "compressed, nothing" "$c | (eof - cluster)" "b'\\3\\0'"
	packed "compressed, a bomb" "$c | $n | (eof - cluster)" \
		"(lambda z: z.compress(bytes(40 << 20)) + z.flush())(zlib.compressobj(9, 8, -15))"
	packed "compressed, too little" "$c | $n | (eof - cluster)" \
		"(lambda z: z.compress(bytes(1000)) + z.flush())(zlib.compressobj(9, 8, -12))"
}

# --- extended L2 entries --------------------------------------------------------------

# Entry 1 is l2[2], its bitmap l2[3]: what is allocated below, zeroes above
bitmap() { # NAME FIELD VALUE...
	local name=$1 before
	shift
	damaged "$@"
	before=$(protected "$image")
	t "$name: create" attach bad "$image" || return
	t "$name: reading fails" error io 'read 64k 64k'
	t "$name: writing fails" error io 'write -P 9 64k 64k'
	t "$name: another slice is read" io 'read -P 3 40M 64k'
	t "$name: remove" detach bad
	is "$(protected "$image")" "$before" "$name: metadata is as it was"
}

bitmaps() {
	good=$(mkimg extended 1G -o extended_l2=on)
	qemu-io -f qcow2 -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' \
		-c 'write -P 4 128k 64k' -c 'write -P 3 40M 64k' "$good" \
		>/dev/null
	block=$(set_field "$good" --get \
		"@$(set_field "$good" --get refcount_table_offset)")
	bitmap "subclusters with data and zero" 'l2[3]' 0xffffffffffffffff
	bitmap "one subcluster with data and zero" 'l2[3]' 0x80000000ffffffff
	bitmap "subclusters of no cluster" 'l2[2]' 0 'l2[3]' 1
	bitmap "a zero flag of the other kind" 'l2[2]' 'old | 1'
	bitmap "a compressed entry with a bitmap" 'l2[2]' '(1 << 62) | (old & ~(1 << 63))'
}

# --- chains --------------------------------------------------------------------------

# refused NAME IMAGE [OPTION]...
refused() {
	local name=$1 image=$2 before rc=0
	shift 2
	before=$(sum_of "$image")
	output=$(limited blkctl create bad "$image" "$@" 2>&1) || rc=$?
	if [ "$rc" != 0 ] && [ "$rc" -lt 124 ] && [ ! -e "$disk" ] &&
		[[ $output =~ ^blkctl:\ create:\  ]]; then
		ok "$name: refused"
		note "$output"
	else
		not_ok "$name: refused"
		note "exit code $rc: $output"
		detach_quietly bad
	fi
	is "$(sum_of "$image")" "$before" "$name: the image is as it was"
}

# names BACKING [FORMAT]: an image with that backing file, whatever it is
names() {
	qemu-img create -q -u -f qcow2 -b "$1" -F "${2:-qcow2}" "$dir/chain.qcow2" 64M
}

named() { # NAME BACKING [FORMAT]
	names "${@:2}"
	refused "$1" "$dir/chain.qcow2"
}

loops() {
	named "its own backing file" chain.qcow2
	qemu-img create -q -u -f qcow2 -b chain.qcow2 -F qcow2 other.qcow2 64M
	named "a circle of two" other.qcow2
	ln -sf chain.qcow2 link.qcow2
	named "a circle by a symbolic link" link.qcow2
}

too_deep() {
	local i
	qemu-img create -q -f qcow2 deep0.qcow2 1M
	qemu-img create -q -u -f qcow2 -b deep0.qcow2 -F qcow2 deep1.qcow2 1M
	for ((i = 2; i <= 300; i++)); do
		# The name has the same length: no need for a fork of qemu-img.
		cp deep1.qcow2 "deep$i.qcow2"
	done
	python3 - <<'PY'
for i in range(2, 301):
    with open("deep%d.qcow2" % i, "r+b") as f:
        head = f.read(65536)
        at = int.from_bytes(head[8:16], "big")
        name = ("deep%d.qcow2" % (i - 1)).encode()
        f.seek(at)
        f.write(name)
        f.seek(16)
        f.write(len(name).to_bytes(4, "big"))
PY
	refused "a chain of 300" "$dir/deep300.qcow2"
	rm -f deep*.qcow2
}

outside() {
	mkdir -p inside
	qemu-img create -q -f qcow2 outside.qcow2 64M
	head -c 64M /dev/zero >outside.raw
	qemu-img create -q -u -f qcow2 -b ../outside.qcow2 -F qcow2 \
		inside/dots.qcow2 64M
	refused "a backing file outside" "$dir/inside/dots.qcow2"
	qemu-img create -q -u -f qcow2 -b /etc/passwd -F raw inside/abs.qcow2 64M
	refused "an absolute name" "$dir/inside/abs.qcow2"
	ln -sf ../outside.qcow2 inside/link.qcow2
	qemu-img create -q -u -f qcow2 -b link.qcow2 -F qcow2 inside/by.qcow2 64M
	refused "a symbolic link that leads outside" "$dir/inside/by.qcow2"
	t "with leave: create" attach good "$dir/inside/dots.qcow2" --allow-external
	t "with leave: remove" detach good
}

no_files() {
	named "a backing file that is missing" nothing.qcow2
	mkfifo pipe
	named "a pipe" pipe raw
	ln -sf /dev/zero zero
	named "a character device" zero raw
	mkdir -p folder
	named "a folder" folder raw
	named "a name with a protocol" nbd:localhost:10809 raw
	named "a name in JSON" 'json:{"driver":"null-co"}' raw
	named "a format of others" other.vmdk vmdk
	head -c 1M /dev/urandom >noise.raw
	named "noise said to be qcow2" noise.raw qcow2
	names noise.raw raw
	set_field chain.qcow2 extension_type 0x11111111
	refused "a format that is not said" "$dir/chain.qcow2"
}

data_files() {
	qemu-img create -q -f qcow2 -o data_file=data.raw data.qcow2 64M
	rm data.raw
	refused "a data file that is missing" "$dir/data.qcow2"
	ln -s data.qcow2 data.raw
	refused "a data file that is the image" "$dir/data.qcow2"
	ln -sf /etc/passwd data.raw
	refused "a data file that lies elsewhere" "$dir/data.qcow2"
	rm data.raw
	mkfifo data.raw
	refused "a data file that is a pipe" "$dir/data.qcow2"
	rm data.raw
	truncate -s 1M data.raw
	t "a data file that is too short: comes to an end" ends \
		limited blkctl create bad "$dir/data.qcow2"
	detach_quietly bad
}

start_daemon
feature errors entries
feature plain large_l1
feature compressed compressed
feature extl2 bitmaps
feature backing loops
feature backing too_deep
feature backing outside
feature backing no_files
feature datafile data_files
t "no device is left" fails test -e $disk
is "$(blkctl list --noheadings -o NAME)" "" "the daemon has none"
done_testing
