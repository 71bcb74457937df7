#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# An attached image excludes others, also after its daemon has died; the next
# daemon gets the open file, and its locks, from the kernel.
#
# requires: qemu-img gcc
# once: 6.1
. "$(dirname "$0")/../lib.sh"
# shellcheck source=tests/lib/attach.sh
. "$TESTS/lib/attach.sh"

qemu_is_refused() {
	! output=$(qemu-img info "$image" 2>&1) &&
		[[ $output = *'Failed to get shared "write" lock'* ]]
}

build_tool
image=$(mkimg disk 64M)
t "a second attachment is refused" steps "attach disk $image" \
	"fails attach other $image" "fails attach other $image ro" \
	"sh ! qemu-img info $image" detach
like "$output" "busy: .*in use by.*attach-tool" "the holder is named"
t "the image is clean" clean "$image"

orphan "attach disk $image"
t "QEMU is refused while no daemon runs" qemu_is_refused
t "so are we" steps "fails attach other $image"
t "the next daemon adopts the device" steps "adopt disk" \
	"fails attach other $image" "sh ! qemu-img info $image" \
	"wait scanned" detach
like "$output" 'adopted disk \{"test":1\}' "with its label"
t "the image is clean and free" clean "$image"
t "nothing is left" nothing_left

t "two readers share a loop device" steps "attach one $image ro" \
	"sh $tool 'attach two $image ro' 'sh losetup -n -l | wc -l' detach" \
	"sh qemu-img info $image" "fails attach w $image" detach
like "$output" $'\n1\n' "there is one"
t "nothing is left of them" nothing_left
done_testing
