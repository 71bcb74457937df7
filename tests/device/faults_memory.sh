#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Many allocations of the module fail, and the submission of I/O, while a disk is
# in use; each fails once while a table is loaded: errors or nothing, nothing
# lies, nothing is left behind. STRESS (1): more than 1 tries each, not every
# seventh.
#
# requires: qemu-img gcc dmsetup
# timeout: 400
# kernels: kasan
. "$(dirname "$0")/../lib.sh"
[ -e /sys/kernel/debug/failslab ] || skip_all "no fault injection in this kernel"
# shellcheck source=tests/lib/faults.sh
. "$TESTS/lib/faults.sh"

step=$((${STRESS:-1} > 1 ? 1 : 7))
many_times=1000000
debug=/sys/kernel/debug

# Only what has the module on its stack fails.
only_ours() {
	local d text end
	text=$(cat /sys/module/dm_qcow/sections/.text)
	end=0x$(awk '$2 ~ /[tT]/ && /\[dm_qcow\]/ { print $1 }' /proc/kallsyms |
		sort | tail -n 1)
	for d in "$debug"/fail*/; do
		[ -e "$d/require-start" ] || continue
		echo 0 >"$d/probability"
		echo "$text" >"$d/require-start"
		echo "$end" >"$d/require-end"
		echo 32 >"$d/stacktrace-depth"
		echo 0 >"$d/verbose"
		echo $many_times >"$d/times"
		echo N >"$d/task-filter"
	done
	echo N >$debug/failslab/ignore-gfp-wait
	echo N >$debug/fail_page_alloc/ignore-gfp-wait
	echo 0 >$debug/fail_page_alloc/min-order
}

# how_many: failures so far, in $total; starts no program, which is slow here
how_many() {
	local d left
	total=0
	for d in failslab fail_page_alloc fail_make_request; do
		read -r left <$debug/$d/times
		total=$((total + many_times - left))
	done
}

# nth N COMMAND...: the N-th allocation of its main thread in the module fails
nth() {
	local before rc
	how_many
	before=$total
	# shellcheck disable=SC2016
	bash -c 'echo "$1" >/proc/thread-self/fail-nth; shift; exec "$@"' bash "$@" \
		>nth.log 2>&1
	rc=$?
	how_many
	[ "$total" -gt "$before" ] || return 99
	return $rc
}

# each NAME CHECK COMMAND...: with every step-th failure; CHECK must succeed
each() {
	local name=$1 check=$2 n=$((1 + RANDOM % step)) rc failed=0 times=0
	shift 2
	while nth $n "$@"; rc=$?; [ $rc != 99 ]; do
		times=$((times + 1))
		[ $rc = 0 ] || failed=$((failed + 1))
		eval "$check" >check.log 2>&1 || {
			not_ok "$name, allocation $n fails: all is well afterwards"
			note <nth.log
			note <check.log
			break
		}
		n=$((n + step))
	done
	[ $times -gt 0 ] && ok "$name: $times of $n allocations, $failed times it failed" ||
		not_ok "$name: some allocation"
	eval "$check" >check.log 2>&1
}

no_table() { dmsetup clear disk; }

table_loads() {
	local table="0 $((64 * 2048)) qcow 1 qcow2 /dev/mapper/low -"
	dmsetup create disk --notable
	each "table" no_table dmsetup load disk --table "$table"
	each "read-only table" no_table dmsetup load disk --readonly --table "$table"
	dmsetup remove disk
}

# fails PERCENT WHAT...: while I/O goes on
fails() {
	local percent=$1 d before
	shift
	how_many
	before=$total
	for d in "$@"; do echo "$percent" >"$debug/$d/probability"; done
	t "$*: nothing lies meanwhile" ./fault-io run /dev/mapper/disk state 8 \
		"$RANDOM" 4
	for d in "$@"; do echo 0 >"$debug/$d/probability"; done
	how_many
	note "$((total - before)) failures, then the mode is $(mode)"
	[ "$total" -gt "$before" ] || not_ok "some failed"
	if mode_is ro; then
		t "removed, and attached again" after_failure
	else
		t "and goes on" ./fault-io run /dev/mapper/disk state 2 "$RANDOM" 4
		t "attached again" again
	fi
	t "nothing lies then" ./fault-io check /dev/mapper/disk state
}

in_use() {
	t "attach" attach disk /dev/mapper/low
	fails 20 failslab
	fails 20 fail_page_alloc
	fails 10 failslab fail_page_alloc
	echo 1 >"/sys/block/$(basename "$(readlink -f /dev/mapper/low)")/make-it-fail"
	fails 2 fail_make_request
	t "remove" detach disk
	t "no errors" leaks_only /dev/mapper/low
}

modprobe dm-qcow || bail "cannot load the module"
gcc -std=gnu11 -D_GNU_SOURCE -O2 -pthread -o fault-io \
	"$TESTS/device/fault-io.c" || bail "cannot build fault-io"
low_create
only_ours
qemu-img create -q -f qcow2 -o cluster_size=4096 /dev/mapper/low 64M
start_daemon
in_use
stop_daemon
table_loads
done_testing
