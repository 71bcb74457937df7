#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The systemd units, under a systemd of their own: the daemon works with the
# privileges that its unit leaves it, comes back when it is killed, and devices
# with a file in /etc/blkctl come and go as services.
#
# requires: qemu-img systemctl unshare
# timeout: 300
# once: 6.12
. "$(dirname "$0")/../lib.sh"

units=/run/systemd/system

# A boot that ends when the service "inside" has ended.
write_units() {
	mkdir -p $units
	local target
	for target in sysinit basic local-fs shutdown; do
		printf '[Unit]\nDefaultDependencies=no\n' >$units/$target.target
	done
	# it empties /tmp, where this tree may be
	ln -s /dev/null $units/systemd-tmpfiles-setup.service
	cat >$units/inside.target <<-'UNIT'
		[Unit]
		DefaultDependencies=no
		Wants=blkctld.socket inside.service
	UNIT
	cat >$units/inside.service <<-UNIT
		[Unit]
		DefaultDependencies=no
		After=blkctld.socket
		[Service]
		Type=oneshot
		ExecStart=/bin/bash $dir/inside
		StandardOutput=file:$dir/out
		StandardError=inherit
		ExecStopPost=/bin/systemctl exit 0
	UNIT
}

# Prints a line for each thing that is as it should be.
write_inside() {
	cat >"$dir/inside" <<-INSIDE
		cd $dir
		systemctl start blkctl@disk && echo started
		test -b /dev/mapper/disk && echo device
		mkfs.ext4 -q /dev/mapper/disk && echo written
		exec 5</dev/mapper/disk
		blkctl remove disk 2>&1 | grep -o "bash" | sed q
		exec 5<&-
		systemctl kill --signal=KILL blkctld
		sleep 1
		blkctl list -n -o NAME,MODE
		systemctl stop blkctl@disk && echo stopped
		test ! -e /dev/mapper/disk && echo gone
		systemctl start blkctl@nothing || echo failed
		systemctl stop blkctld.socket blkctld && echo ended
	INSIDE
}

boot() {
	timeout -k 5 $((120 * VM_SLOW)) unshare --pid --fork --mount \
		--mount-proc --kill-child \
		env -i container=guest PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		/lib/systemd/systemd --system --unit=inside.target \
		--log-target=console --show-status=no </dev/null
}

[ -x /lib/systemd/systemd ] || skip_all "no systemd"
image=$(mkimg disk 256M)
mkdir -p /etc/blkctl
printf 'IMAGE=%s\nOPTIONS=--no-space-timeout 5\n' "$image" \
	>/etc/blkctl/disk.conf
echo "IMAGE=$dir/nothing" >/etc/blkctl/nothing.conf
defer rm -rf /etc/blkctl $units
write_units
write_inside
t "a system with the units comes up and goes down" boot
note <"$dir/out"
for what in started device written bash "disk rw" stopped gone failed ended; do
	t "units: $what" grep -qx "$what *" "$dir/out"
done
t "the image is clean" check_image "$image"
t "tmpfiles.d is understood" systemd-tmpfiles --cat-config blkctl.conf
done_testing
