# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What the tests of failing disks share: an image on /dev/mapper/low, of which
# any part can be made to fail.

disk=${VM_DISKS%% *}
[ -n "$disk" ] || skip_all "no disk to spare"
modprobe dm-flakey || skip_all "no dm-flakey"
low_sectors=$((512 * 2048))
CLUSTER=65536

# part KIND FROM TO: a line of the table, in sectors
part() {
	local from=$2 n=$(($3 - $2))
	[ $n -gt 0 ] || return 0
	case $1 in
	linear) echo "$from $n linear $disk $from" ;;
	error) echo "$from $n error" ;;
	writes) echo "$from $n flakey $disk $from 0 60 1 error_writes" ;;
	drop) echo "$from $n flakey $disk $from 0 60 1 drop_writes" ;;
	# good for a second, then bad for one
	writes-now-and-then) echo "$from $n flakey $disk $from 1 1 1 error_writes" ;;
	now-and-then) echo "$from $n flakey $disk $from 1 1" ;;
	esac
}

# low_table [KIND [OFFSET [BYTES]]]: that part of it fails, without BYTES all of
# the rest
low_table() {
	local kind=${1-linear} from=$((${2-0} / 512)) to=$low_sectors
	[ $# -lt 3 ] || to=$((($2 + $3 + 511) / 512))
	part linear 0 $from
	part "$kind" $from $to
	part linear $to $low_sectors
}

low_create() {
	low_table | dmsetup create low || bail "the disk below"
	defer dmsetup remove --retry low
}

# fault KIND [OFFSET [BYTES]]: see part()
fault() {
	low_table "$@" >low.table &&
		dmsetup load low <low.table &&
		dmsetup suspend --nolockfs low && dmsetup resume low
}
heal() { fault linear; }

# be64 OFFSET: eight bytes of the image, as a signed number
be64() {
	local hex
	hex=$(dd if=/dev/mapper/low bs=512 skip=$(($1 / 512)) count=1 \
		iflag=direct status=none | od -A n -v -t x8 --endian=big \
		-j $(($1 % 512)) -N 8 | tr -d ' ')
	echo $((16#$hex))
}

OFFSET_MASK=$((0x00fffffffffffe00))
l1_offset() { be64 40; }
# l2_of GUEST: where its L2 table is
l2_of() {
	local i=$(($1 / CLUSTER / 8192))
	echo $(($(be64 $(($(l1_offset) + i * 8))) & OFFSET_MASK))
}
entry_of() { be64 $(($(l2_of "$1") + $1 / CLUSTER % 8192 * 8)); }
# host_of GUEST: where its cluster is
host_of() { echo $(($(entry_of "$1") & OFFSET_MASK)); }
refcount_block() { be64 "$(be64 48)"; }

# wr OFFSET BYTES [OPTION of dd]...: noise that begins with OFFSET
wr() {
	local at=$1 n=$2
	shift 2
	dd if=noise of=/dev/mapper/disk bs=4k count=$((n / 4096)) \
		seek=$((at / 4096)) oflag=direct status=none "$@"
}
# rd OFFSET BYTES: their checksum
rd() {
	dd if=/dev/mapper/disk bs=4k skip=$(($1 / 4096)) count=$(($2 / 4096)) \
		iflag=direct status=none >rd.out && sha256sum <rd.out
}

again() { detach disk && attach disk /dev/mapper/low "$@"; }

# after_failure: what the user does when the device is read-only
after_failure() {
	blkctl remove disk >removed 2>&1
	[ ! -e /dev/mapper/disk ] && leaks_only /dev/mapper/low &&
		attach disk /dev/mapper/low
}
