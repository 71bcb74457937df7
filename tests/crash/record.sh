#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Records what reaches the disk: for each folder in $VM_SHARE/crash, puts its
# disk below dm-log-writes, does what its "steps" say with a device of the image
# there, and leaves "log" and "journal". tests/crash/run makes the folders, and
# judges afterwards, on the host.
#
# requires: dmsetup
# timeout: 3000
. "$(dirname "$0")/../lib.sh"

WRITER=/usr/lib/dm-qcow/writer
LOWER=crashlog
read -r -a disks <<<"$VM_DISKS"

cleanup_one() {
	! mountpoint -q "$dir/fs" || umount "$dir/fs"
	[ ! -e /dev/mapper/disk ] || detach disk
	! mountpoint -q "$dir/mnt" || umount "$dir/mnt"
	[ ! -e "/dev/mapper/$LOWER" ] || dmsetup remove --retry "$LOWER"
}

# What is in $work/disk, with the log under it; image= says where the image is.
set_up() {
	local sectors
	sectors=$(($(stat -c %s "$work/disk") / 512))
	dd if="$work/disk" of="${disks[0]}" bs=1M oflag=direct conv=fsync \
		status=none || return
	dmsetup create "$LOWER" --table \
		"0 $sectors log-writes ${disks[0]} ${disks[1]}" || return
	udevadm settle
	image=/dev/mapper/$LOWER
	[ ! -e "$work/base.raw" ] || cp --sparse=always "$work/base.raw" /scratch/
	[ ! -e "$work/file" ] || {
		mkdir -p mnt && mount "/dev/mapper/$LOWER" mnt || return
		image=$dir/mnt/$(cat "$work/file")
	}
}

# --- the steps ----------------------------------------------------------------

step_attach() {
	local key=()
	[ ! -e "$work/key" ] || key=(--key-file "$work/key")
	attach disk "$image" --allow-external "${key[@]}"
}

step_detach() { detach disk; }

step_write() { # SEED OPS OPTION...
	local seed=$1 ops=$2
	shift 2
	$WRITER --seed "$seed" --ops "$ops" --journal journal --log "$LOWER" "$@" \
		/dev/mapper/disk
}

# The same, and the daemon is killed several times meanwhile.
step_killed() { # SEED OPS OPTION...
	local pid i
	step_write "$@" &
	pid=$!
	for i in 1 2 3 4; do
		sleep 0.$((RANDOM % 9 + 1))
		kill_daemon
		sleep 0.$((RANDOM % 5))
		start_daemon
	done
	wait "$pid"
}

# Beside writes to what is there before and after.
step_resize() { # BYTES
	$WRITER --note "3:$(($1 / 512)):0" --journal journal || return
	blkctl resize disk "$1" --shrink &&
		$WRITER --note "done" --journal journal --log "$LOWER"
}

fs_mark() { dmsetup message "$LOWER" 0 mark "$1"; }

# A file system on the device, used and unmounted.
step_fs() { # SEED ROUNDS
	local i file size
	mkdir -p fs && mount -o discard /dev/mapper/disk fs || return
	for ((i = 0; i < $2; i++)); do
		file=fs/d$((i % 7))/f$i
		mkdir -p "${file%/*}"
		size=$((($1 + i * 7919) % 300000))
		fs_mark "r${file#fs}"
		rm -f "$file"
		# It ends early, and yes with it.
		yes "${file#fs}" 2>/dev/null | head -c "$size" >"$file"
		[ $((i % 3)) != 0 ] || {
			sync "$file" && fs_mark "s${file#fs}:$size" || return
		}
		[ $((i % 5)) != 4 ] || {
			file=fs/d$(((i - 3) % 7))/f$((i - 3))
			fs_mark "r${file#fs}"
			rm -f "$file"
		}
	done
	fio --name=x --filename=fs/fio --size=512k --direct=1 --rw=randwrite \
		--bssplit=4k/70:16k/30 --sync=1 --io_size=256k --randseed="$1" \
		--ioengine=psync --output=fio.log || { cat fio.log; umount fs; return 1; }
	sync -f fs
	umount fs
}

record() {
	local line name=${work##*/}
	: >journal
	set_up || return
	while read -r line; do
		# shellcheck disable=SC2086
		step_${line%% *} ${line#* } || { echo "step: $line"; return 1; }
	done <"$work/steps"
	cleanup_one
	[ ! -e "/dev/mapper/$LOWER" ] || return
	$WRITER --save-log "${disks[1]}" "$work/log" && cp journal "$work/journal"
	note "$name: log of $(($(stat -c %s "$work/log") >> 20)) MiB"
}

modprobe -a dm-log-writes dm-qcow || bail "cannot load the modules"
start_daemon
defer rm -f /scratch/base.raw
for work in "$VM_SHARE"/crash/*/; do
	work=${work%/}
	start=$SECONDS
	t "record ${work##*/}" record
	cleanup_one >/dev/null 2>&1
	note "${work##*/}: $((SECONDS - start)) s"
done
done_testing
