#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Many devices at once, many clients that create and remove them, some of which
# want the same, and one that never reads what the daemon says. STRESS (1): how
# many times as many devices (16, at most 256) and rounds.
#
# once: 6.1
# requires: qemu-img jq python3 xargs
# timeout: 480
. "$(dirname "$0")/../lib.sh"

n=$((16 * ${STRESS:-1}))
[ $n -le 256 ] || n=256
rounds=$((2 * ${STRESS:-1}))
clients=()

kib() { awk -v f="^$1:" '$0 ~ f { print $2 }' "/proc/$daemon_pid/status"; }
all() { seq "$n" | xargs -P 8 -I % "$@"; }
count() { blkctl list --noheadings -o NAME | wc -l; }
remove_all() { dmsetup ls | awk '/^[dsx][0-9]/ { print $1 }' | xargs -r -n 1 blkctl remove; }

io_each() {
	all bash -c "head -c 65536 /dev/urandom >%.data &&
		dd if=%.data of=/dev/mapper/d% bs=64k oflag=direct conv=fsync status=none &&
		dd if=/dev/mapper/d% bs=64k count=1 iflag=direct status=none | cmp - %.data"
}

check_all() { all qemu-img check -q -f qcow2 d%.qcow2; }

# One client of several on four images, with two names for each: some fail.
client() {
	local i n=$(($1 % 4))
	for i in 1 2 3; do
		blkctl create s$n d$((n + 1)).qcow2 &&
			dd if=/dev/zero of=/dev/mapper/s$n bs=4k count=1 oflag=direct
		blkctl remove s$n
	done
}

storm() {
	local i
	for ((i = 0; i < rounds; i++)); do
		for c in 1 2 3 4 5 6; do client $c & clients+=($!); done
		wait "${clients[@]}"
		clients=()
	done >storm.log 2>&1
}

# A client that asks and asks, and never reads.
deaf_client() {
	python3 - "$SOCKET" <<'PYTHON' &
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"execute": "qmp_capabilities"}\n')
s.setblocking(False)
while True:
    try:
        s.send(b'{"execute": "query-block-exports"}\n' * 50)
    except BlockingIOError:
        time.sleep(0.1)
    except OSError:
        time.sleep(1)
PYTHON
	deaf=$!
	defer kill $deaf
}

start_daemon
defer remove_all
qemu-img create -q -f qcow2 d1.qcow2 1G
for ((i = 2; i <= n; i++)); do cp d1.qcow2 d$i.qcow2; done
empty=$(kib VmRSS)
deaf_client
t "create $n devices" all blkctl create d% "$dir/d%.qcow2"
is "$(count)" "$n" "all are there"
t "write and read each" io_each
full=$(kib VmRSS)
note "blkctld: $((empty / 1024)) MiB, with $n devices $((full / 1024)), $(((full - empty) / n)) KiB each; $(kib Threads) threads"
[ $(((full - empty) / n)) -lt 2048 ] && ok "a device takes less than 2 MiB of it" ||
	not_ok "a device takes $(((full - empty) / n)) KiB of the daemon"
stop_daemon
start_daemon
is "$(count)" "$n" "a new daemon has them all"
deaf_client
t "write and read each again" io_each
t "remove them" all blkctl remove d%
is "$(count)" 0 "none is left"
t "the images are whole" check_all
before=$(kib VmRSS)
storm
is "$(count)" 0 "none is left"
grep -q /dev/mapper/s storm.log && ok "some had success" ||
	{ not_ok "some had success"; note <storm.log; }
note "blkctld: $((before / 1024)) MiB, then $(($(kib VmRSS) / 1024))"
[ $(($(kib VmRSS) - before)) -lt 8192 ] && ok "the daemon's memory stays" ||
	not_ok "the daemon's memory stays: $before KiB, then $(kib VmRSS)"
t "the images are whole" check_all
done_testing
