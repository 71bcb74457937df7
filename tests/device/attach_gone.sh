#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The device is removed behind our back: it is noticed, the image keeps its
# data and its mark, and the next attachment gives the leaked clusters back.
# Devices that a dead daemon left half made are cleared away.
#
# requires: qemu-img gcc
# once: 6.12
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

build_tool
image=$(mkimg disk 256M)
t "removed by hand" steps "attach disk $image" \
	"sh dd if=/dev/urandom of=$dir/data bs=1M count=10 status=none" \
	"sh dd if=$dir/data of=/dev/mapper/disk bs=1M oflag=direct conv=fsync status=none" \
	"sh dmsetup remove disk" "wait gone" detach
t "the mark is there" marked "$image"
t "clusters have leaked, and nothing else" leaks_only "$image"
t "the next one scans" steps "attach disk $image" "wait scanned" \
	"sh cmp -n 10485760 /dev/mapper/disk $dir/data" detach
t "the image is clean" clean "$image"

t "removed and forgotten" steps "attach disk $image" "sh dmsetup remove disk" \
	"wait gone" forget
t "a detachment waits for a short scan" steps "attach disk $image" detach
t "the image is clean again" clean "$image"

t "a device without a table, of a dead daemon" dmsetup create --notable \
	-u BLKCTL-QCOW-99999999-0 disk
t "is replaced" steps "attach disk $image" detach
t "somebody else's" dmsetup create --notable -u OTHER-1 disk
t "is not" steps "fails attach disk $image"
like "$output" 'busy: a device-mapper device named "disk" exists already' "it says so"
dmsetup remove disk

loop=$(loop_of "$image")
sectors=$((256 * 2048))
t "a device without a live table" dmsetup create --notable -u BLKCTL-QCOW-99999999-0 disk
t "with one loaded" dmsetup load disk --table "0 $sectors qcow 1 qcow2 $loop -"
t "is cleared away by the next daemon" steps "fails adopt disk"
like "$output" "not-found: .*left half made" "it says so"
t "a device that was made by hand" dmsetup create disk --table "0 $sectors qcow 1 qcow2 $loop -"
t "is nobody's to adopt" steps "fails adopt disk"
dmsetup remove --retry disk
losetup -d "$loop"
t "nothing is left" nothing_left
done_testing
