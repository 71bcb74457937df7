#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# "-": images that come from standard input, disks that go to standard output.
#
# requires: qemu-img qemu-io jq script
# a pipe is what is tested
# shellcheck disable=SC2002
. "$(dirname "$0")/lib.sh"

make_sources
qemu-img convert -O qcow2 disk.raw disk.qcow2
sum=$(sha disk.raw)

# out NAME COMMAND...: what it writes to a pipe is the disk
out() {
	local name=$1
	shift
	is "$(set -o pipefail; "$@" 2>err | cat >got.raw; echo $?)" 0 "$name"
	is "$(sha got.raw)" "$sum" "$name: the disk, no byte more"
}

out "convert to a pipe" img convert -O raw disk.qcow2 -
out "raw is the default" img convert disk.qcow2 -
out "progress is elsewhere" img convert -p disk.qcow2 -
like "$(tr '\r' '\n' <err)" "100.00/100%" "on standard error"
out "dd to a pipe" img dd -f qcow2 if=disk.qcow2 of=- bs=64k
img dd if=disk.qcow2 of=- bs=64k skip=3 count=2 2>/dev/null >part
t "a part of it" cmp part <(dd if=disk.raw bs=64k skip=3 count=2 status=none)
img convert disk.qcow2 - >file.raw
t "to a file of the shell" cmp file.raw disk.raw
img convert disk.qcow2 disk.qcow2 - >two.raw
t "two sources, one behind the other" cmp two.raw <(cat disk.raw disk.raw)
t "no file of that name" [ ! -e - ]

for f in raw qcow2; do
	t "from a pipe, $f" eval \
		"cat disk.$f | \"$BIN/blkctl\" image convert -f $f -O qcow2 - in.qcow2"
	t "the same disk" same -f raw -F qcow2 disk.raw in.qcow2
	t "clean" clean in.qcow2
	t "from a file of the shell, $f" eval \
		"\"$BIN/blkctl\" image convert -O qcow2 - in.qcow2 <disk.$f"
	t "the same disk" same -f raw -F qcow2 disk.raw in.qcow2
done
t "a pipe is compared" eval "cat disk.raw | \"$BIN/blkctl\" image compare -F raw disk.qcow2 -"
is "$(img measure -O qcow2 --output json disk.raw | jq .required)" \
	"$(cat disk.raw | img measure -O qcow2 --output json - | jq .required)" \
	"and measured"
t "and mapped" eval "cat disk.qcow2 | \"$BIN/blkctl\" image map -"
t "in and out" eval \
	"cat disk.qcow2 | \"$BIN/blkctl\" image convert - - | cmp - disk.raw"
: | img convert -f raw -O qcow2 - nothing.qcow2
is "$(qemu-img info --output json nothing.qcow2 | jq '."virtual-size"')" 0 \
	"an empty pipe is an empty disk"

t "TMPDIR says where it is kept" eval \
	"cat disk.raw | TMPDIR=$PWD \"$BIN/blkctl\" image convert -O qcow2 - in.qcow2"
is "$(cat disk.raw | TMPDIR=/none img convert -O qcow2 - x.qcow2 2>&1; echo $?)" \
	"blkctl: convert: cannot make a file for what comes from standard input: No such file or directory
hint: it is kept in '/none'; TMPDIR names another place
1" "and what is wrong with that"

fails_with 1 "a qcow2 image to a pipe" img convert -O qcow2 disk.raw -
fails_with 1 "dd, too" img dd -O qcow2 if=disk.raw of=-
fails_with 1 "-n" img convert -n disk.raw -
fails_with 1 "--json" img convert --json disk.raw -
fails_with 2 "twice the same input" eval "cat disk.raw | img compare - -"
fails_with 1 "a terminal" script -qec "'$BIN/blkctl' image convert disk.raw -" /dev/null
fails_with 1 "written to" eval "cat disk.qcow2 | img bench -w -"
is "$(img convert disk.raw - 2>err | head -c 1 | wc -c; cat err)" \
	"1
blkctl: convert: cannot write to standard output: Broken pipe" "who reads goes away"
done_testing
