#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# No daemon, and no granted cluster is left: writes wait, then fail with "no
# space left on device"; reads and writes in place go on; a daemon that comes
# back ends it.
#
# requires: qemu-img dd jq
# timeout: 300
# once: 6.1
. "$(dirname "$0")/../lib.sh"

fill() { # FIRST MIB
	dd if=/dev/urandom of=/dev/mapper/disk bs=1M seek="$1" count="$2" \
		oflag=direct conv=fsync status=none
}
read_first() {
	dd if=/dev/mapper/disk of=/dev/null bs=1M count=4 iflag=direct \
		status=none
}

start_daemon
image=$(mkimg disk 4G)
t "create" attach disk "$image" --no-space-timeout 10
t "write" fill 0 16
kill_daemon
fill 16 3000 >"$dir/fill" 2>&1 &
writer=$!
t "a write waits" wait_for 60 parked
t "reads go on" read_first
t "writes in place go on" fill 0 4
t "the device is in mode rw still" mode_is rw
wait $writer
is $? 1 "the write has failed"
like "$(cat "$dir/fill")" "No space left on device" "with ENOSPC"
t "the mode says so" mode_is out_of_space
SECONDS=0
t_rc 1 "the next one fails" fill 3500 1
[ $SECONDS -lt $((8 * VM_SLOW)) ] && ok "at once" || not_ok "at once"
t "reads go on" read_first
t "writes in place go on" fill 0 4
start_daemon
t "with a daemon the mode is rw again" wait_for 30 mode_is rw
t "and writes end well" fill 16 300
sum=$(dd if=/dev/mapper/disk bs=1M count=316 iflag=direct status=none | sha256sum)
t "remove" detach disk
t "no errors" leaks_only "$image"
t "create again" attach disk "$image"
is "$(dd if=/dev/mapper/disk bs=1M count=316 iflag=direct status=none | sha256sum)" \
	"$sum" "the data is there"
t "remove" detach disk
done_testing
