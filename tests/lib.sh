# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What device tests share. A test is tests/device/NAME.sh:
#
#	#!/bin/bash
#	# SPDX-License-Identifier: GPL-2.0-or-later
#	#
#	# What it tries, in a sentence.
#	#
#	# requires: fio qemu-img         skipped where one is missing
#	# timeout: 300                   seconds on a Debian kernel (120)
#	# kernels: 6.12                  only on these (all)
#	# once: 6.12                     on this one unless kernels are asked
#	                                 for: what hardly depends on the kernel's
#	# vm: --smp 2 --disk 8G          a guest of its own kind
#	. "$(dirname "$0")/../lib.sh"
#
#	start_daemon
#	image=$(mkimg disk 1G -o cluster_size=4k)
#	t "create makes the device" attach disk "$image"
#	is "$(blkctl list --noheadings -o NAME)" disk "list shows it"
#	t "remove" detach disk
#	t "the image is clean" check_image "$image"
#	done_testing
#
# It runs as root in a guest, prints KTAP, and leaves nothing behind: no device,
# no mount, no process, no line in the kernel log that log-patterns forbids.
#
# In the environment: VM_SCRATCH, an ext4 on a disk with O_DIRECT; VM_DISKS, raw
# disks; VM_SHARE, a folder that outlives the guest; VM_SLOW, a factor for
# time-outs, more than 1 on a debug kernel. $dir is the test's own folder in
# VM_SCRATCH, the current one at the start.

set -u

TESTS=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
NAME=$(basename "$0" .sh)
SOCKET=/run/blkctld.sock
PROP=/usr/lib/dm-qcow/prop	# tests/prop/prop.c: random operations
VM_SLOW=${VM_SLOW:-1}

# --- cleanup ------------------------------------------------------------------

cleanup_stack=()

# defer COMMAND...: run when the test ends, last in first out
defer() {
	local line
	printf -v line '%q ' "$@"
	cleanup_stack+=("$line")
}

run_cleanup() {
	local rc=$? i
	trap - EXIT
	set +e
	[ -n "${ktap_finished-}" ] || [ $rc = 4 ] || {
		not_ok "runs to its end"
		note "exit code $rc"
	}
	for ((i = ${#cleanup_stack[@]} - 1; i >= 0; i--)); do
		eval "${cleanup_stack[i]}" >/dev/null 2>&1
	done
	[ "$rc" = 0 ] && [ "$ktap_failed" -gt 0 ] && rc=1
	exit "$rc"
}

# --- KTAP -----------------------------------------------------------------------

ktap_number=0
ktap_failed=0

ok() { ktap_number=$((ktap_number + 1)); echo "ok $ktap_number $*"; }

not_ok() {
	ktap_number=$((ktap_number + 1))
	ktap_failed=$((ktap_failed + 1))
	echo "not ok $ktap_number $*"
}

# note TEXT: a line for people; without TEXT, standard input
note() {
	if [ $# -gt 0 ]; then
		printf '%s\n' "$*"
	else
		cat
	fi | sed 's/^/# /'
}

# skip NAME REASON: one test of several
skip() { ok "$1 # SKIP $2"; }

# skip_all REASON: the whole script
skip_all() {
	echo "1..0 # SKIP $*"
	exit 4
}

done_testing() {
	ktap_finished=1
	echo "1..$ktap_number"
	[ "$ktap_failed" = 0 ]
	exit
}

t_depth=0

# t NAME COMMAND...: ok if the command succeeds; its output only if not
t() {
	local name=$1 out=/run/$NAME.$$.$((t_depth++)) rc
	shift
	# Not in $(...): the command may set variables, or start a daemon.
	"$@" >"$out" 2>&1
	rc=$?
	if [ $rc = 0 ]; then
		ok "$name"
	else
		not_ok "$name"
		note "$* : exit code $rc"
		tail -n 40 "$out" | note
	fi
	t_depth=$((t_depth - 1))
	return $rc
}

# t_rc CODE NAME COMMAND...: ok if it exits with CODE, and then $output has
# what it printed, standard error included
t_rc() {
	local want=$1 name=$2 rc
	shift 2
	output=$("$@" 2>&1)
	rc=$?
	if [ $rc = "$want" ]; then
		ok "$name"
		return 0
	fi
	not_ok "$name"
	note "$* : exit code $rc, not $want"
	printf '%s\n' "$output" | tail -n 40 | note
	return 1
}

# is GOT WANTED NAME
is() {
	[ "$1" = "$2" ] && { ok "$3"; return; }
	not_ok "$3"
	note "got:    $1"
	note "wanted: $2"
	return 1
}

# at_most WHAT GOT MAX [UNIT]
at_most() {
	[ "$2" -le "$3" ] && ok "$1: $2${4:+ $4}, of $3 at most" ||
		not_ok "$1: $2${4:+ $4}, of $3 at most"
}

# like GOT REGEX NAME
like() {
	[[ $1 =~ $2 ]] && { ok "$3"; return; }
	not_ok "$3"
	note "got:      $1"
	note "no match: $2"
	return 1
}

# bail REASON: nothing that follows makes sense
bail() {
	not_ok "$*"
	ktap_finished=1
	echo "1..$ktap_number"
	exit 1
}

# requires COMMAND...: skip the script where one is missing
requires() {
	local c
	for c in "$@"; do
		command -v "$c" >/dev/null || skip_all "no $c"
	done
}

# --- waiting ----------------------------------------------------------------------

# wait_for SECONDS COMMAND...: until it succeeds
wait_for() {
	local end=$((SECONDS + $1 * VM_SLOW))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

# --- the daemon and its devices ---------------------------------------------------

daemon_pid=

# start_daemon [OPTION]...: blkctld in the foreground, its log in $dir
start_daemon() {
	blkctld --foreground --socket $SOCKET "$@" >>"$dir/blkctld.log" 2>&1 &
	daemon_pid=$!
	defer stop_daemon
	wait_for 30 daemon_answers ||
		{ note <"$dir/blkctld.log"; bail "blkctld answers"; }
}

daemon_answers() {
	kill -0 "$daemon_pid" && blkctl --socket $SOCKET list
}

stop_daemon() { end_daemon TERM; }
kill_daemon() { end_daemon KILL; }

end_daemon() {
	[ -n "$daemon_pid" ] || return 0
	kill -"$1" "$daemon_pid" 2>/dev/null
	wait_for 30 gone "$daemon_pid" || kill -KILL "$daemon_pid"
	wait "$daemon_pid" 2>/dev/null
	daemon_pid=
}

# attach NAME IMAGE [OPTION]...: /dev/mapper/NAME, removed when the test ends
attach() {
	defer detach_quietly "$1"
	[ "$(blkctl create "$@")" = "/dev/mapper/$1" ] && [ -b "/dev/mapper/$1" ]
}

detach() { blkctl remove "$1" && [ ! -e "/dev/mapper/$1" ]; }

detach_quietly() {
	[ -e "/dev/mapper/$1" ] || return 0
	[ -n "$daemon_pid" ] || start_daemon
	blkctl remove "$1"
}

# qmp COMMAND [JSON]: the answer's "return"
qmp() { blkctl --socket $SOCKET qmp "$@"; }

# --- images -----------------------------------------------------------------------

# status N: the N-th word that dmsetup has for the device "disk"
status() { dmsetup status disk | cut -d' ' -f"$1"; }
mode() { status 4; }
mode_is() { [ "$(mode)" = "$1" ]; }
parked() { [ "$(status 11)" != 0 ]; }

# no_timer: what is not flushed stays in memory, however slow the test is
no_timer() {
	dmsetup table disk | sed 's/$/ 2 commit_interval 600000/' |
		dmsetup load disk && dmsetup resume disk
}

# daemon_mib: what of the daemon is in memory
daemon_mib() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$daemon_pid/status"; }

# mkimg NAME SIZE [OPTION of qemu-img create]...: prints the path
mkimg() {
	local name=$1 size=$2
	shift 2
	qemu-img create -q -f qcow2 "$@" "$dir/$name.qcow2" "$size" &&
		echo "$dir/$name.qcow2"
}

# check_image IMAGE: no errors, no leaks
check_image() { qemu-img check -f qcow2 "$1"; }

# leaks_only IMAGE: what a crash may leave
leaks_only() {
	local rc=0
	qemu-img check -f qcow2 "$1" || rc=$?
	[ $rc = 0 ] || [ $rc = 3 ]
}

same_content() { qemu-img compare "$@"; }

mount_at() {
	mkdir -p "$2" && mount "$1" "$2" && defer umount "$2"
}

# loop_of FILE [OPTION of losetup]...: prints the loop device
loop_of() {
	losetup --find --show --direct-io=on "$@"
}

# --- the kernel log -----------------------------------------------------------------

# klog_since_start: the kernel's lines of this test
klog_since_start() {
	dmesg | sed "1,/test: start $NAME\$/d"
}

klog_has() { klog_since_start | grep -E -- "$1"; }

# --- begin ----------------------------------------------------------------------------

[ -n "${VM_GUEST-}" ] ||
	skip_all "runs in a guest: tests/run.sh --filter $NAME"
echo "KTAP version 1"
trap run_cleanup EXIT
trap 'exit 143' TERM INT
# shellcheck disable=SC2046
requires $(sed -n 's/^# requires: *//p' "$0")
dir=$VM_SCRATCH/$NAME
rm -rf "$dir"
mkdir -p "$dir"
defer rm -rf "$dir" "/run/$NAME.$$."*
cd "$dir" || exit 1
defer cd /
