#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Every ioctl and every netlink message of a change of size fails once: the
# device goes on with the size that it says it has, and what it holds. All fail
# from there on, or the program is killed there: another daemon goes on. STRESS
# (1): more than 1 tries all of it.
#
# requires: qemu-img gcc strace blockdev
# timeout: 200
# once: 6.12
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

MIB=$((1 << 20))
image=$dir/disk.qcow2

# calls CALL STEP...: how many the main thread makes
calls() {
	local call=$1
	shift
	cp base.qcow2 "$image"
	strace -qq -o trace -e signal=none -e "trace=$call" "$tool" "$@" kill >log 2>&1
	wc -l <trace
	"$tool" "adopt disk" detach >log 2>&1
}

write="dd if=noise of=/dev/mapper/disk bs=64k oflag=direct conv=fsync status=none"
# It works, and says its size.
goes_on="$write && cmp -n 65536 noise /dev/mapper/disk &&
	blockdev --getsize64 /dev/mapper/disk"

# inject CALL WHAT N[+] STEP...: at the N-th CALL; with + at all from there on
inject() {
	local call=$1 what=$2 n=$3
	shift 3
	cp base.qcow2 "$image"
	strace -qq -o trace -e signal=none -e "trace=$call" \
		-e "inject=$call:$what:when=$n" "$tool" \
		"attach disk $image" "sh $write" "$@" >log
	ended=$?
	grep -q INJECTED trace
} 2>/dev/null

# What the device said is what the image has.
sizes_agree() {
	local said size
	said=$(grep -E '^[0-9]+$' log)
	size=$(qemu-img info --output=json "$image" | jq '."virtual-size"')
	[ "$said" = "$size" ] && { [ "$said" = "${1% *}" ] ||
		{ [ "$said" = $((64 * MIB)) ] && ! grep -q ^done: log; }; }
}

# Nobody could go on: another daemon adopts the device, or there is none.
settled() {
	! dmsetup info disk >/dev/null 2>&1 || "$tool" "adopt disk" \
		"sh cmp -n 65536 noise /dev/mapper/disk" detach || return
	nothing_left || return
	clean "$image" || { "$tool" "attach disk $image" detach && clean "$image"; }
}

# fails_once CALL WHAT SIZE N
fails_once() {
	if t "$3: $1 $4 fails: the device goes on" inject "$1" "$2" "$4" \
		"try resize $3" "sh $goes_on" detach; then
		[ "$ended" = 0 ] || not_ok "exit code $ended"
		t "$3: with the size that it says" sizes_agree "$3"
	fi || note <log
	t "$3: all is well afterwards" settled || note <log
}

# It may wait suspended: nobody touches it before another daemon does.
fails_on() {
	inject "$1" "$2" "$4+" "try resize $3" kill
	t "$3: $1 fails from $4 on: all is well afterwards" settled
}

killed() {
	inject "$1" signal=KILL "$4" "resize $3"
	t "$3: killed at $1 $4: all is well afterwards" settled
}

# each HOW CALL WHAT SIZE: at each CALL of a change to that size
each() {
	local how=$1 n last
	shift
	n=$(calls "$1" "attach disk $image")
	last=$(calls "$1" "attach disk $image" "resize $3")
	note "resize $3: $((last - n)) times $1"
	while n=$((n + 1)); [ $n -le "$last" ]; do
		"$how" "$1" "$2" "$3" $n
	done
}

larger=$((96 * MIB))
smaller="$((32 * MIB)) shrink"
build_tool
head -c 65536 /dev/urandom >noise
mkimg base 64M >/dev/null
each fails_once ioctl error=EIO $larger
each fails_on ioctl error=EIO $larger
each killed ioctl error=EIO "$smaller"
if [ "${STRESS:-1}" -gt 1 ]; then
	each killed ioctl error=EIO $larger
	each fails_once ioctl error=EIO "$smaller"
	each fails_on ioctl error=EIO "$smaller"
	each fails_once sendto error=ENOMEM $larger
	each fails_once sendto error=ENOMEM "$smaller"
fi
done_testing
