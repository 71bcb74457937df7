#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A disk that fails now and then, and one that loses power: what is read is what
# was acknowledged; what is read after the next attach is what was flushed, or
# newer; the image is whole. STRESS (1): how often; more than 1 tries everything.
#
# once: 6.1
# requires: qemu-img gcc dmsetup
# timeout: 300
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/faults.sh
. "$TESTS/lib/faults.sh"

seconds=4
MIB=$((1 << 20))
rounds=${STRESS:-1}
seed=$((0x$(head -c 2 /dev/urandom | od -A n -t x2 | tr -d ' ')))

io() { ./fault-io "$@" >io.log; }

# start OPTIONS of qemu-img: a new image, and a new model
start() {
	seed=$((seed + 1))
	rm -f state
	qemu-img create -q -f qcow2 -o "$1" /dev/mapper/low 64M &&
		attach disk /dev/mapper/low --no-space-timeout 1
}

nothing_lies() {
	t "nothing lies then" io check /dev/mapper/disk state || note <io.log
}

# fails_for KIND OPTIONS of qemu-img: random I/O while that happens
fails_for() {
	local mover=
	t "$1, $2, seed $((seed + 1)): attach" start "$2"
	# the header is checked elsewhere
	if [ "$1" = moving ]; then
		moving_fault &
		mover=$!
	else
		fault "$1" $CLUSTER
	fi
	t "nothing lies meanwhile" io run /dev/mapper/disk state $seconds $seed 4 ||
		note <io.log
	[ "$1" != moving ] || { kill "$mover"; wait "$mover"; } 2>/dev/null
	note "$(tail -n 1 io.log), then the mode is $(mode)"
	heal
	if mode_is ro; then
		t "it is removed, and attached again" after_failure
	else
		t "it writes when all is well" wait_for 10 mode_is rw
		t "and does" io run /dev/mapper/disk state 1 $seed 4
		t "attached again" again
	fi
	nothing_lies
	t "remove" detach disk
	t "no errors" leaks_only /dev/mapper/low
}

# moving_fault: another MiB of the disk is bad, and another one, but flushes end
# well, so that the device goes on writing until the L2 table is met
moving_fault() {
	while :; do
		fault error $((4 * MIB + RANDOM % 60 * MIB)) $MIB
		sleep 0.2
	done
}

# Everything that is written after some time is lost, what is flushed as well.
power_cut() {
	local io
	t "power cut, $1, seed $((seed + 1)): attach" start "$1"
	./fault-io run /dev/mapper/disk state $seconds $seed 4 >io.log 2>&1 &
	io=$!
	sleep $((seed % 3 + 1)).$((seed % 10))
	kill -USR1 $io
	fault drop
	wait $io || { not_ok "nothing lies before"; note <io.log; }
	kill_daemon
	t "the device is lost" wait_for 10 dmsetup remove disk
	heal
	t "the image has leaks at most" leaks_only /dev/mapper/low
	start_daemon
	t "attach again" attach disk /dev/mapper/low
	nothing_lies
	t "remove" detach disk
	t "no errors" leaks_only /dev/mapper/low
}

gcc -std=gnu11 -D_GNU_SOURCE -O2 -pthread -o fault-io \
	"$TESTS/device/fault-io.c" || bail "cannot build fault-io"
low_create
start_daemon
if [ "$rounds" = 1 ]; then
	fails_for moving cluster_size=65536
	fails_for writes-now-and-then cluster_size=4096
	power_cut extended_l2=on
	rounds=0
fi
while [ $((rounds--)) -gt 0 ]; do
	fails_for moving cluster_size=65536
	fails_for moving extended_l2=on
	fails_for now-and-then cluster_size=65536
	fails_for writes-now-and-then cluster_size=4096
	fails_for writes-now-and-then extended_l2=on
	power_cut cluster_size=65536
	power_cut cluster_size=4096
	power_cut extended_l2=on
done
t "the daemon is alive" kill -0 "$daemon_pid"
done_testing
