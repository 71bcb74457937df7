#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Who waits for a cluster: a daemon that takes stock is no lack of space, a
# cluster that comes back goes to who waits, and the clusters that a CPU has set
# aside are counted.
#
# once: 6.12
# requires: qemu-img gcc dmsetup
# timeout: 480
# vm: --smp 2
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

disk=${VM_DISKS%% *}
sectors=2097152
low=/dev/mapper/low
first="sh dd if=/dev/zero of=/dev/mapper/disk bs=64k count=1 oflag=direct conv=fsync status=none"
hold="dmsetup suspend --noflush --nolockfs low"

# write SEEK [SIZE]: in the background; its exit code is in rc.SEEK
write() {
	echo "(dd if=/dev/urandom of=/dev/mapper/disk bs=${2:-64k} count=1 seek=$1" \
		"oflag=direct status=none; echo \$? >$dir/rc.$1) >/dev/null 2>&1 &"
}
below() { echo "dmsetup load low --table '0 $sectors $1' && dmsetup resume low"; }
nobody_waits() { [ "$(status 11)" = 0 ]; }
none_left() { [ "$(status 7)" = 0 ]; }
# all but one of what is granted, so that a write takes the last
use_up() {
	local i=10
	while [ "$(status 7)" -gt 1 ]; do
		dd if=/dev/zero of=/dev/mapper/disk bs=2M count=1 seek=$((i++)) \
			oflag=direct conv=fsync status=none || return
	done
}

build_tool

image=$(mkimg counted 256M)
t "a write of 4K" steps "attach counted $image" get \
	"sh dd if=/dev/zero of=/dev/mapper/counted bs=4k count=1 oflag=direct status=none" \
	get detach
left=$(sed -n 's/.*granted=\([0-9]*\) zeroed=\([0-9]*\) .*/\1 \2/p' <<<"$output")
note "granted, zeroed: $left"
is "$(tail -n 1 <<<"$left" | cut -d' ' -f2)" "$(tail -n 1 <<<"$left" | cut -d' ' -f1)" \
	"  all that is left reads as zeroes"

for timeout in 0 2; do
	image=$(mkimg stock-$timeout 256M)
	rm -f rc.*
	t "no_space_timeout $timeout: a daemon takes stock for longer" \
		steps "attach disk $image rw $timeout" "$first" abandon take \
		"sh $(write 100)" "sleep 6000" \
		"sh test ! -e $dir/rc.100 || echo it has ended" grant \
		"sh until [ -s $dir/rc.100 ]; do sleep 0.1; done"
	is "$(grep -c 'it has ended' <<<"$output")" 0 "  a write waits"
	is "$(cat rc.100)" 0 "  and ends well"
	t "  adopted" steps "adopt disk" "wait scanned" detach
	t "  the image is clean" clean "$image"
done

# The window is short: a writer that never rests meets it.
image=$(mkimg again 1G)
orphan "attach disk $image rw 0"
(
	for ((i = 0; i < 200; i++)); do
		dd if=/dev/zero of=/dev/mapper/disk bs=64k count=10 \
			seek=$((i * 10)) oflag=direct status=none || exit
		[ ! -e stop ] || exit
	done
) >writer.log 2>&1 &
for ((i = 0; i < 5; i++)); do
	orphan "adopt disk" "sleep 300"
done
touch stop
wait
is "$(cat writer.log)" "" "no_space_timeout 0: no write fails while daemons come and go"
t "  adopted" steps "adopt disk" "wait scanned" detach
t "  the image is clean" clean "$image"

# No daemon, and one cluster: who has it can't write, who waits gets it.
rm -f rc.*
dmsetup create low --table "0 $sectors linear $disk 0" || bail "the disk below"
qemu-img create -q -f qcow2 -o cluster_size=2M $low 512M
orphan "attach disk $low rw 100" "$first"
t "all clusters but one are used" use_up
bash -c "$hold"
eval "$(write 200 2M)"
t "  a write takes it" wait_for 20 none_left
eval "$(write 201 2M)"
t "  another one waits" wait_for 20 parked
bash -c "$(below error)"
t "  the first fails, the other goes on" wait_for 30 nobody_waits
bash -c "$hold; $(below "linear $disk 0")"
wait_for 20 test -s rc.200
wait_for 20 test -s rc.201
is "$(cat rc.200)" 1 "  one has failed"
t "  adopted" steps "adopt disk" "wait scanned" detach
t "  the image is clean" clean $low
t "nothing is left below" dmsetup remove --retry low
done_testing
