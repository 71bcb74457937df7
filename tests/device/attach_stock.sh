#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A daemon that takes stock: a cluster that a failed write gives back between its
# two looks is not taken by another write, which the leak scan would not know of.
#
# once: 6.1
# requires: qemu-img gcc dmsetup
# timeout: 300
# vm: --smp 2
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

disk=${VM_DISKS%% *}
sectors=2097152
low=/dev/mapper/low

# write SEEK [SIZE]: 64K in the background; its exit code is in rc.SEEK
write() {
	echo "(dd if=/dev/urandom of=/dev/mapper/disk bs=${2:-64k} count=1 seek=$1" \
		"oflag=direct status=none; echo \$? >$dir/rc.$1) >/dev/null 2>&1 &"
}

# ended SEEK: waits for it
ended() { echo "until [ -s $dir/rc.$1 ]; do sleep 0.1; done"; }

# One write has a cluster and waits below, however slow the machine is to begin it.
begun() {
	echo "until [ \$(awk '{ print \$2 }' /sys/block/\$(basename" \
		"\$(readlink -f /dev/mapper/disk))/inflight) -gt 0 ];" \
		"do sleep 0.1; done; sleep 1"
}

# The table below is another one when what waits there goes on.
below() { echo "dmsetup load low --table '0 $sectors $1' && dmsetup resume low"; }

hold="dmsetup suspend --noflush --nolockfs low"

build_tool
dmsetup create low --table "0 $sectors linear $disk 0" || bail "the disk below"
t "an image on it" qemu-img create -q -f qcow2 $low 512M
t "takes stock while a write fails" steps "attach disk $low" \
	"sh dd if=/dev/zero of=/dev/mapper/disk bs=64k count=1 oflag=direct conv=fsync status=none" \
	abandon "sh $hold" "sh $(write 1)" "sh $(begun)" take \
	"sh $(below error)" "sh $(ended 1)" \
	"sh $hold; $(below "linear $disk 0")" "sh $(write 2)" "sleep 1500" \
	"sh test ! -e $dir/rc.2 || echo it was written" take grant "sh $(ended 2)"
took=$(sed -n 's/^took //p' <<<"$output" | tr '\n' ' ')
like "$took" "^[1-9][0-9]* 1 $" "the second look finds the cluster"
is "$(grep -c 'it was written' <<<"$output")" 0 "which nobody has taken meanwhile"
is "$(cat rc.1 rc.2 | tr '\n' ' ')" "1 0 " "one write failed, the other waited"
t "adopted" steps "adopt disk" "wait scanned" detach
t "the image is clean" clean $low

# Two writes to one new cluster: the second would keep it pending beyond the
# barrier that only the first is waited for.
t "takes stock while another write could join" steps "attach disk $low" \
	"sh dd if=/dev/zero of=/dev/mapper/disk bs=64k count=1 oflag=direct conv=fsync status=none" \
	abandon "sh $hold" "sh $(write 160 4k)" "sh $(begun)" take \
	"sh $(write 161 4k)" "sleep 4000" "sh $(below error)" "sh $(ended 160)" \
	"sh $hold; $(below "linear $disk 0")" "sleep 1500" \
	"sh test ! -e $dir/rc.161 || echo it was written" take grant "sh $(ended 161)"
is "$(grep -c 'it was written' <<<"$output")" 0 "it does not"
is "$(cat rc.160 rc.161 | tr '\n' ' ')" "1 0 " "the first failed, the other waited"
t "adopted" steps "adopt disk" "wait scanned" detach
t "the image is clean" clean $low
t "nothing is left below" dmsetup remove --retry low
done_testing
