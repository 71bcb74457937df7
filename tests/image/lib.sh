# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What tests of "blkctl image" share. A test is tests/image/NAME.sh:
#
#	#!/bin/bash
#	# SPDX-License-Identifier: GPL-2.0-or-later
#	#
#	# What it tries, in a sentence.
#	#
#	# requires: qemu-img jq          skipped where one is missing
#	. "$(dirname "$0")/lib.sh"
#
#	t "create" img create -f qcow2 a.qcow2 1G
#	t "it is clean" qemu-img check a.qcow2
#	is "$(json info a.qcow2 | jq -r .format)" qcow2 "info knows it"
#	fails_with 2 "damage is found" img check damaged.qcow2
#	done_testing
#
# It runs on the host, needs no root and no daemon, prints KTAP, and works in
# a folder of its own, which is gone at the end. The programs are in $BIN, or in
# build/user/gcc.

set -u

TESTS=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
NAME=$(basename "$0" .sh)
BIN=${BIN:-$(dirname "$TESTS")/build/user/gcc}

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

# t NAME COMMAND...: ok if the command succeeds; its output only if not
t() {
	local name=$1
	shift
	fails_with 0 "$name" "$@"
}

# fails_with CODE NAME COMMAND...: ok if it exits with CODE, and then $output
# has what it printed, standard error included
fails_with() {
	local want=$1 name=$2 rc
	shift 2
	"$@" >"$tmp/output" 2>&1 </dev/null
	rc=$?
	output=$(tr -d '\0' <"$tmp/output")
	if [ $rc = "$want" ]; then
		ok "$name"
		return 0
	fi
	not_ok "$name"
	note "$* : exit code $rc, not $want"
	tail -n 40 <<<"$output" | note
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

# like GOT REGEX NAME
like() {
	[[ $1 =~ $2 ]] && { ok "$3"; return; }
	not_ok "$3"
	note "got:      $1"
	note "no match: $2"
	return 1
}

# requires COMMAND...: skip the script where one is missing
requires() {
	local c
	for c in "$@"; do
		command -v "$c" >/dev/null || skip_all "no $c"
	done
}

# --- images -----------------------------------------------------------------------

# make_sources: disk.raw, with data that compresses and data that does not, and
# top.qcow2 over below.raw; each of $SIZE
make_sources() {
	SIZE=20M
	qemu-img create -q -f raw disk.raw $SIZE
	qemu-io -f raw -c 'write -P 1 0 64k' -c 'write -P 2 100k 300k' \
		-c 'write -P 3 5M 1M' -c 'write -P 4 10000k 7k' -c 'write -P 5 19M 1M' \
		disk.raw >/dev/null
	{ seq 200000; head -c 300000 /dev/urandom; } |
		dd of=disk.raw bs=64k seek=100 conv=notrunc status=none
	qemu-img create -q -f raw below.raw $SIZE
	qemu-io -f raw -c 'write -P 0x77 1M 15M' below.raw >/dev/null
	qemu-img create -q -f qcow2 -b below.raw -F raw top.qcow2
	qemu-io -f qcow2 -c 'write -P 8 3M 100k' -c 'write -z 6M 1M' -c 'write -P 9 12M 5k' \
		top.qcow2 >/dev/null
}

# img VERB ...: the program under test
img() { "$BIN/blkctl" image "$@"; }

# has_verb VERB: is it there?
has_verb() { img "$1" --help >/dev/null 2>&1; }

# json VERB ...: what is in the document of --json, without what is around it
json() {
	img "$@" --json | jq 'del(."schema-version", .warnings) |
		to_entries | .[0].value'
}

# patient COMMAND...: again if it fails: on a busy machine QEMU's LUKS finds now and
# then that a hash takes no time, and gives up
patient() {
	for _ in $(seq 20); do
		"$@" 2>/dev/null && return
	done
	"$@"
}

# clean IMAGE [OPTION]...: no errors, no leaks, says QEMU
clean() { qemu-img check -q "$@"; }

# leaks_only IMAGE: what a crash may leave
leaks_only() {
	local rc=0
	qemu-img check -q "$1" || rc=$?
	[ $rc = 0 ] || [ $rc = 3 ]
}

# same A B [OPTION of qemu-img compare]...: the same disk is in both
same() { qemu-img compare -q "$@"; }

# sha FILE: of its bytes
sha() { sha256sum <"$1" | cut -d' ' -f1; }

# --- begin ----------------------------------------------------------------------------

run_cleanup() {
	local rc=$?
	trap - EXIT
	[ -n "${ktap_finished-}" ] || [ $rc = 4 ] || {
		not_ok "runs to its end"
		note "exit code $rc"
		rc=1
	}
	cd / && rm -rf "$tmp"
	exit $rc
}

# Not in a file system in memory: some of these have no O_DIRECT.
tmp=$(mktemp -d "${TEST_TMPDIR:-/var/tmp}/blkctl-$NAME.XXXXXX") || exit 1
trap run_cleanup EXIT
trap 'exit 143' TERM INT
echo "KTAP version 1"
[ -x "$BIN/blkctl" ] || skip_all "no $BIN/blkctl: make user"
# shellcheck disable=SC2046
requires $(sed -n 's/^# requires: *//p' "$0")
# $output is for the tests
export output=
mkdir "$tmp/dir" && cd "$tmp/dir" || exit 1

# bits FILE BITMAP: what is dirty, as QEMU's NBD server says
bits() {
	local sock=$PWD/nbd.sock pid i
	qemu-nbd -r -f qcow2 -B "$2" -k "$sock" "$1" 2>/dev/null &
	pid=$!
	for ((i = 0; i < 100; i++)); do
		[ ! -S "$sock" ] || break
		sleep 0.05
	done
	qemu-img map --output json --image-opts \
		"driver=nbd,server.type=unix,server.path=$sock,x-dirty-bitmap=qemu:dirty-bitmap:$2" |
		jq -c '[.[] | select(.data == false) | [.start, .length]]'
	kill "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	rm -f "$sock"
}
