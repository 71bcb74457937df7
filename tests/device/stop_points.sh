#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The daemon dies at each step of granting, taking back, freeing, growing,
# scanning, resizing, attaching and detaching (user/libblkctl/base/stop_int.h), under
# load where there can be load. The next one takes over: no I/O fails, nothing is
# lost, and nothing stays leaked.
#
# STOP_EVERY=1 in the environment tries all places; otherwise each kernel tries
# others, one in that many.
#
# once: 6.12
# requires: qemu-img cmp
# timeout: 600
. "$(dirname "$0")/../lib.sh"

EVERY=${STOP_EVERY:-5}
STOPPING=/usr/lib/dm-qcow/blkctld-stop

under_load=(adopt-session adopt-barrier adopt-grants-taken adopt-second-barrier
	adopt-freed-taken adopt-claimed adopt-served drop dropped drop:3
	dropped:3 list-taken list-taken:2 alloc-grown alloc-zeroed alloc-claimed
	alloc-committed blocks-written blocks-flushed blocks-written:3
	release-committed release-committed:2 release-discarded
	release-discarded:2 give-unsent give-sent scan-walked scan-barrier
	scan-ended reap-taken)
attaching=(marked file-grown file-announced alloc-grown alloc-committed block-linked
	table-blocks-written table-written table-switched table-retired
	blocks-written blocks-flushed:2 give-unsent give-sent)
detaching=(suspended handed-over list-taken list-taken:3 detach-removed drop
	dropped:2 release-committed release-discarded detach-grants-dropped
	detach-freed-dropped detach-scanned trim-cut detach-trimmed unmarked
	detach-unmarked)
resizing=(suspended handed-over resize-edited resize-claimed resize-loaded
	given-back resize-fed resize-resumed)

# pick NAME...: those that this kernel tries
pick() {
	local i=0 p offset
	offset=$(uname -r | cksum | cut -d' ' -f1)
	for p in "$@"; do
		[ $(((i++ + offset) % EVERY)) != 0 ] || echo "$p"
	done
}

# start_stopping PLACE: a daemon that will die there
start_stopping() {
	BLK_STOP_AT=$1 $STOPPING --foreground --socket $SOCKET \
		>>"$dir/blkctld.log" 2>&1 &
	daemon_pid=$!
}

# died: as it was to
died() {
	wait_for 30 gone "$daemon_pid" || { end_daemon KILL; return 1; }
	wait "$daemon_pid"
	[ $? = 137 ] && daemon_pid=
}

# Leaks that a death leaves are found by the next attachments, in the background.
clean_at_last() {
	local i
	for i in 1 2 3 4 5; do
		check_image "$image" >check.log && return
		attach disk "$image" || return
		sleep "$i"
		detach disk || return
	done
	cat check.log
	return 1
}

# --- under load ---------------------------------------------------------------------

load() {
	local i=0
	while [ ! -e enough ]; do
		i=$((i + 1))
		$PROP --seed $i --ops 300 --cluster 4096 --no-first \
			/dev/mapper/disk model.raw || return
	done
}

stops_under_load() {
	local places p pid
	mapfile -t places < <(pick "${under_load[@]}")
	image=$(mkimg load 16M -o cluster_size=4k)
	truncate -s 16M model.raw
	start_daemon
	attach disk "$image" || bail "create"
	load >load.log 2>&1 &
	pid=$!
	sleep 1
	kill_daemon
	for p in "${places[@]}"; do
		start_stopping "$p"
		t "a daemon dies at $p, under load" died
	done
	start_daemon
	touch enough
	wait "$pid" || note <load.log
	is "$(grep -c -E "FAILED|ERROR" load.log)" 0 "no I/O has failed, and nothing is lost"
	t "remove" detach disk
	t "the content" same_content -f raw -F qcow2 model.raw "$image"
	t "no leaks in the end" clean_at_last
	stop_daemon
}

# --- by itself ----------------------------------------------------------------------

# Small clusters: the refcount table grows with the first grants.
stop_attaching() { # PLACE
	image=$(mkimg attach 20M -o cluster_size=512)
	start_stopping "$1"
	wait_for 30 daemon_answers || return
	! blkctl create disk "$image" >create.log 2>&1 || return
	died || return
	start_daemon
	leaks_only "$image" && attach disk "$image" &&
		dd if=some of=/dev/mapper/disk bs=64k oflag=direct conv=fsync \
			status=none && detach disk || return
	qemu-img convert -f qcow2 -O raw "$image" found.raw &&
		cmp -n 300000 some found.raw && clean_at_last || return
	stop_daemon
}

stop_detaching() { # PLACE
	image=$(mkimg detach 20M -o cluster_size=16k)
	start_stopping "$1"
	wait_for 30 daemon_answers && attach disk "$image" || return
	dd if=some of=/dev/mapper/disk bs=64k oflag=direct conv=fsync \
		status=none || return
	blkdiscard -o 131072 -l 65536 /dev/mapper/disk || return
	dd if=some of=/dev/mapper/disk bs=64k oflag=direct status=none || return
	blkctl remove disk >remove.log 2>&1
	died || return
	start_daemon
	[ ! -e /dev/mapper/disk ] || detach disk || return
	leaks_only "$image" &&
		qemu-img convert -f qcow2 -O raw "$image" found.raw &&
		cmp -n 300000 some found.raw && clean_at_last || return
	stop_daemon
}

stop_resizing() { # PLACE
	local size
	image=$(mkimg resize 20M -o cluster_size=1k)
	start_stopping "$1"
	wait_for 30 daemon_answers && attach disk "$image" || return
	dd if=some of=/dev/mapper/disk bs=64k oflag=direct status=none || return
	! blkctl resize disk 200M >resize.log 2>&1 || return
	died || return
	start_daemon
	size=$(blockdev --getsize64 /dev/mapper/disk)
	case $size in 20971520 | 209715200) ;; *) echo "size: $size"; return 1 ;; esac
	cmp -n 300000 some /dev/mapper/disk || return
	dd if=some of=/dev/mapper/disk bs=64k seek=160 oflag=direct \
		status=none || return
	detach disk && leaks_only "$image" &&
		qemu-img convert -f qcow2 -O raw "$image" found.raw &&
		cmp -n 300000 some found.raw &&
		cmp -n 300000 -i 0:10485760 some found.raw &&
		clean_at_last || return
	stop_daemon
}

# each VERB PLACE...
each() {
	local verb=$1 p
	shift
	for p in $(pick "$@"); do
		t "a daemon dies at $p, $verb" "stop_$verb" "$p" && continue
		note <"$dir/blkctld.log"
		end_daemon KILL
		start_daemon
		detach_quietly disk
		stop_daemon
	done
}

[ -x $STOPPING ] || skip_all "no daemon with stop points"
head -c 327680 /dev/urandom >some
stops_under_load
each attaching "${attaching[@]}"
each detaching "${detaching[@]}"
each resizing "${resizing[@]}"
done_testing
