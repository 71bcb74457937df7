#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Each kind of request fails once: data, L2, L1, flush, FUA, discard, what is
# copied, what is decompressed, refcounts, and everything that attaching reads.
# The guest sees an error or nothing, and what heals works again.
#
# requires: qemu-img qemu-io dmsetup blkdiscard
# timeout: 300
# once: 6.1
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/faults.sh
. "$TESTS/lib/faults.sh"

MIB=$((1 << 20))
zero4k=$(head -c 4096 /dev/zero | sha256sum)
zero64k=$(head -c 65536 /dev/zero | sha256sum)

# image: with its first MiB, and something compressed at 100 MiB, where
# udev does not look
image() {
	qemu-img create -q -f qcow2 /dev/mapper/low 1G &&
		qemu-io -f qcow2 -c "write -P 1 0 1M" -c "write -c -P 2 100M 64k" \
			/dev/mapper/low
} >/dev/null

pattern() { head -c "$2" /dev/zero | tr '\0' "\\$1" | sha256sum; }

data_reads() {
	local at
	at=$(host_of 0)
	fault error "$at" $CLUSTER
	t_rc 1 "a read of a bad cluster fails" rd 0 4096
	is "$(rd $CLUSTER 4096)" "$(pattern 1 4096)" "its neighbour is read"
	heal
	is "$(rd 0 65536)" "$(pattern 1 65536)" "and later the cluster is"
}

data_writes() {
	local at
	at=$(host_of 0)
	fault error "$at" $CLUSTER
	t_rc 1 "a write in place fails" wr 0 4096
	t_rc 1 "so does one with FUA" wr 0 4096 oflag=direct,dsync
	t "others are written, and flushed" wr $CLUSTER 4096 conv=fsync,notrunc
	heal
	is "$(rd 4096 4096)" "$(pattern 1 4096)" "beside it nothing has changed"
	t "and later it is" wr 0 4096 oflag=direct,dsync
	is "$(rd 0 4096)" "$noise4k" "and read"
	is "$(mode)" rw "the device writes all the time"
}

# Not at the beginning: udev has looked there.
l2_reads() {
	wr $((320 * MIB)) 4096 conv=fsync
	t "attached again, nothing is in memory" again
	fault error "$(l2_of 0)" $CLUSTER
	t_rc 1 "a read fails whose L2 table is bad" rd $((320 * MIB)) 4096
	t_rc 1 "and a write" wr $((322 * MIB)) 4096
	t "where another table maps it goes well" wr $((600 * MIB)) 4096 conv=fsync
	heal
	is "$(rd $((320 * MIB)) 4096)" "$noise4k" "later the table is read"
	t "and written" wr $((322 * MIB)) 4096 conv=fsync
	is "$(mode)" rw "the device writes all the time"
}

# fails_for_good NAME KIND [OFFSET [BYTES]]: a commit meets this
new=$((8 * MIB))
fails_for_good() {
	local name=$1
	shift
	new=$((new + MIB))
	t "no commits by time" no_timer
	wr $new 4096 || not_ok "a write to a new cluster"
	[ -z "${new_table-}" ] || wr "$new_table" 4096
	fault "$@"
	t_rc 1 "$name fails: so does the flush" wr 0 4096 conv=fsync,notrunc
	is "$(mode)" ro "and the device is read-only"
	is "$(rd $new 4096)" "$noise4k" "what is in memory is read"
	heal
	t_rc 1 "no flush is a success later" wr 0 4096 conv=fsync,notrunc
	dmsetup suspend disk
	dmsetup resume disk
	is "$(mode)" ro "suspended and resumed it is so still"
	t "it can be removed, is whole, and attached again" after_failure
	like "$(rd $new 4096)" "^($zero4k|$noise4k)\$" \
		"a write that was not flushed is there or is not"
	t "it writes" wr $new 4096 conv=fsync
	is "$(rd 0 4096)" "$noise4k" "what was flushed is there"
}

commits() {
	local new_table=
	fails_for_good "an L2 write" error "$(l2_of 0)" $CLUSTER
	new_table=$((800 * MIB))
	# the second table exists since l2_reads(); a new image has none
	again && detach disk && image && attach disk /dev/mapper/low
	wr 0 4096 conv=fsync
	fails_for_good "an L1 write" error "$(l1_offset)" $CLUSTER
	new_table=
	# nothing is written there, but a flush comes to all parts
	fails_for_good "a flush" writes $((low_sectors * 512 - MIB))
}

discards() {
	local at
	at=$(host_of 0)
	fault error "$at" $MIB
	t "a discard changes the mapping" blkdiscard -f -o 0 -l $MIB /dev/mapper/disk
	t "it is durable" sync /dev/mapper/disk
	is "$(rd 0 65536)" "$zero64k" "and reads as zeroes"
	sleep 1
	is "$(mode)" rw "it does not matter that the host's discard fails"
	heal
	t "attached again" again
	is "$(rd 0 65536)" "$zero64k" "it still does"
}

compressed() {
	local e
	e=$(entry_of $((100 * MIB)))
	[ $((e >> 62 & 1)) = 1 ] || not_ok "it is compressed"
	fault error $((e & (1 << 54) - 4096)) $((2 * CLUSTER))
	t_rc 1 "a compressed cluster that is bad fails" rd $((100 * MIB)) 4096
	t_rc 1 "and a write to a part of it" wr $((100 * MIB)) 4096
	heal
	is "$(rd $((100 * MIB)) 65536)" "$(pattern 2 65536)" "later it is read"
	t "and written" wr $((100 * MIB)) 4096 conv=fsync
	is "$(rd $((100 * MIB + 4096)) 4096)" "$(pattern 2 4096)" "the rest is as it was"
}

copies() {
	t "remove" detach disk
	image
	t "an image with a snapshot" qemu-img snapshot -c s /dev/mapper/low
	t "attach one with a snapshot" attach disk /dev/mapper/low
	wr $((2 * MIB)) 4096 conv=fsync		# copies the L2 table
	fault error "$(host_of 0)" $CLUSTER
	t_rc 1 "copy-on-write from a bad cluster fails" wr 4096 4096
	heal
	is "$(rd 0 65536)" "$(pattern 1 65536)" "nothing has changed"
	fault error $(($(l2_of 0) + CLUSTER))
	t_rc 1 "so does a copy that cannot be written" wr 4096 4096
	is "$(rd 0 65536)" "$(pattern 1 65536)" "nothing has changed"
	heal
	t "later it is" wr 4096 4096 conv=fsync
	is "$(rd 4096 4096)" "$noise4k" "the data is there"
	is "$(rd 8192 4096)" "$(pattern 1 4096)" "and the rest"
	is "$(mode)" rw "the device writes all the time"
	t "remove" detach disk
	t "no errors, no leaks" check_image /dev/mapper/low
}

# More than the first grants: nobody can make new ones durable.
refcounts() {
	image
	t "attach a new image" attach disk /dev/mapper/low --no-space-timeout 2
	fault error "$(refcount_block)" $CLUSTER
	t_rc 1 "refcounts fail: new clusters run out" \
		dd if=/dev/zero of=/dev/mapper/disk bs=1M count=200 seek=16 \
		oflag=direct status=none
	is "$(mode)" out_of_space "the device says so"
	is "$(rd 0 65536)" "$(pattern 1 65536)" "reads go on"
	t "and writes in place, and flushes" wr 0 4096 conv=fsync
	heal
	t "the daemon brings new clusters" wait_for 20 mode_is rw
	t "writes go on" dd if=/dev/zero of=/dev/mapper/disk bs=1M count=100 \
		seek=16 oflag=direct status=none conv=fsync
	t "remove" detach disk
	t "no errors" leaks_only /dev/mapper/low
}

attaching() {
	local what
	image
	for what in 0 "$(be64 48)" "$(refcount_block)" "$(l1_offset)" "$(l2_of 0)"; do
		fault error "$what" $CLUSTER
		if blkctl create disk /dev/mapper/low >created 2>&1; then
			t_rc 1 "without cluster $what: reads fail" rd 0 4096
			heal
			blkctl remove disk
		else
			like "$(cat created)" "^blkctl: .*(cannot read|failed)" \
				"cannot attach without cluster $what" || note <created
			heal
		fi
		is "$(dmsetup ls | grep -c '^disk')" 0 "no device is left"
		t "later it can" attach disk /dev/mapper/low
		is "$(rd 0 65536)" "$(pattern 1 65536)" "and is read"
		t "remove" detach disk
		t "it is whole" check_image /dev/mapper/low
	done
}

detaching() {
	t "attach" attach disk /dev/mapper/low
	no_timer
	wr $((8 * MIB)) 4096
	fault writes
	t_rc 1 "removing it says that not all is written" blkctl remove disk
	heal
	[ ! -e /dev/mapper/disk ] || blkctl remove disk >removed 2>&1
	t "later there is none" test ! -e /dev/mapper/disk
	t "no errors" leaks_only /dev/mapper/low
	t "attach again" attach disk /dev/mapper/low
	t "it writes" wr 0 4096 conv=fsync
	t "remove" detach disk
}

head -c $MIB /dev/urandom >noise
noise4k=$(head -c 4096 noise | sha256sum)
low_create
image || bail "an image"
start_daemon
t "attach" attach disk /dev/mapper/low
data_reads
data_writes
l2_reads
commits
discards
compressed
copies
refcounts
attaching
detaching
t "the daemon is alive" kill -0 "$daemon_pid"
done_testing
