#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The property test for a while; tests/prop/run has it without limits.
#
# requires: qemu-img qemu-io python3 cmp
# timeout: 900
# vm: --smp 2
. "$(dirname "$0")/../lib.sh"

# Every kernel has rounds of its own.
seed=${PROP_SEED:-$(uname -r | cksum | cut -c1-6)0}
modprobe dm-qcow || bail "cannot load the module"
"$TESTS/prop/run" --time $((${PROP_SECONDS:-150} * VM_SLOW)) --seed "$seed" \
	--dir "$dir" --keep "$VM_SHARE" --max-failures 5
ktap_finished=1
exit
