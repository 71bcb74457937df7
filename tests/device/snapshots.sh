#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Internal snapshots: writes, write zeroes and discards never reach them; they
# can be applied and deleted afterwards; one can be attached to be read.
#
# requires: qemu-img qemu-io cmp
# timeout: 300
# once: 6.12
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/features.sh"

seed=0

snapshot() { qemu-img snapshot "$@" "$image"; }
content() { # TARGET [OPTION]...
	local target=$1
	shift
	qemu-img convert "$@" -f qcow2 -O raw "$image" "$target"
}
same_as() { # RAW SNAPSHOT
	content found.raw -l "$2" && cmp "$1" found.raw
}

operations() {
	seed=$((seed + 1))
	"$PROP" --seed "$seed" --ops 300 --cluster "$cluster" /dev/mapper/disk model.raw
}

worked_on() {
	attach disk "$image" && operations && detach disk &&
		check_image "$image" &&
		qemu-img compare -f raw -F qcow2 model.raw "$image"
}

# life NAME: of an image with two snapshots
life() {
	t "$1: operations beside a snapshot" worked_on
	t "$1: the snapshot is as it was" same_as one.raw one
	cp --sparse=always model.raw two.raw
	snapshot -c two
	t "$1: operations beside two" worked_on
	t "$1: the first is as it was" same_as one.raw one
	t "$1: the second is as it was" same_as two.raw two
	t "$1: apply the first" snapshot -a one
	cp --sparse=always one.raw model.raw
	t "$1: operations on it" worked_on
	t "$1: it is as it was" same_as one.raw one
	t "$1: delete it" snapshot -d one
	t "$1: operations after that" worked_on
	t "$1: the second is as it was still" same_as two.raw two
	t "$1: delete the second" snapshot -d two
	t "$1: no errors, no leaks" check_image "$image"
}

# made OPTION of qemu-img create...: with data everywhere, and a snapshot
made() {
	image=$(mkimg disk 8M "$@")
	qemu-io -f qcow2 -c 'write -P 1 0 3M' -c 'write -P 2 3M 2M' \
		-c 'write -z 1M 300k' -c 'write -P 3 7M 1M' "$image" >/dev/null
	snapshot -c one
	content one.raw
	cp --sparse=always one.raw model.raw
}

standard() {
	cluster=65536
	made && life "64K"
}
small() {
	cluster=512
	made -o cluster_size=512,refcount_bits=8 && life "512, 8 bits"
}
large() {
	cluster=$((2 << 20))
	made -o cluster_size=2M && life "2M"
}
old() {
	cluster=65536
	made -o compat=0.10 && life "version 2"
}
extended() {
	cluster=65536
	made -o extended_l2=on && life "extended L2"
}

# Snapshots and the active state share compressed clusters.
compressed() {
	cluster=65536
	made && qemu-img convert -c -f raw -O qcow2 one.raw "$image" &&
		snapshot -c one && life "compressed"
}

over_base() {
	cluster=4096
	truncate -s 8M base.raw
	qemu-io -f raw -c 'write -P 9 0 8M' base.raw >/dev/null
	made -o cluster_size=4k -b "$dir/base.raw" -F raw && life "over a base"
}

attached() {
	cluster=65536
	made && worked_on >/dev/null && snapshot -c two
	cp --sparse=always model.raw two.raw
	worked_on >/dev/null
	t "attach the first snapshot" attach old "$image" --read-only --snapshot one
	t "it has what it had" cmp one.raw /dev/mapper/old
	t "attach the second beside it" \
		attach older "$image" --read-only --snapshot two
	t "it has what it had" cmp two.raw /dev/mapper/older
	t "remove both" detach old
	t "remove both" detach older
	t_rc 5 "one that is not there" \
		blkctl create no "$image" --read-only --snapshot three
	t "one of them, without a word on writing" \
		attach old "$image" --snapshot one
	is "$(blockdev --getro /dev/mapper/old)" 1 "can only be read"
	t "remove it" detach old
	t "the image is as it was" check_image "$image"
	t "the active state too" qemu-img compare -f raw -F qcow2 model.raw "$image"
}

start_daemon
feature snapshots standard
feature snapshots small
feature snapshots large
feature snapshots old
feature snapshots+extl2 extended
feature snapshots+compressed compressed
feature snapshots+backing over_base
feature snapshots attached
done_testing
