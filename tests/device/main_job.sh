#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The main job, with the image in a file: Debian on a qcow2 image that qemu-img
# made, used, checked, and compared byte by byte.
#
# requires: qemu-img fio mkfs.ext4 python3 dpkg-deb
# timeout: 600
. "$(dirname "$0")/../lib.sh"
. "$TESTS/lib/main-job.sh"

start_daemon
job_all "$(mkimg disk 2G)"
job_same "$(mkimg same 512M)"
done_testing
