#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What power cuts have left is attached: for each disk in $VM_SHARE/crash/*/samples,
# the look for leaks finds all of them, and the guest finds the same as before.
#
# requires: qemu-img
# timeout: 9000
. "$(dirname "$0")/../lib.sh"

settles() { # FILE
	local i
	cp --sparse=always "$1" before && cp --sparse=always before after || return
	for i in 1 2 3 4 5; do
		attach disk "$dir/after" --allow-external || return
		sleep "$i"
		detach disk || return
		check_image after >check.log && break
	done
	cat check.log
	check_image after && same_content -f qcow2 -F qcow2 before after
}

start_daemon
defer rm -f /scratch/base.raw
for work in "$VM_SHARE"/crash/*/; do
	[ ! -e "$work/base.raw" ] || cp --sparse=always "$work/base.raw" /scratch/
	for sample in "$work"/samples/*; do
		[ ! -e "$sample" ] || t "$(basename "$work"): $(basename "$sample")" \
			settles "$sample"
	done
done
done_testing
