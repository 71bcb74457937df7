#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Random verbs on random images: contents, snapshots and bitmaps are what a model
# says. IMAGE_PROP_SECONDS: how long it tries (20); IMAGE_PROP_SEED: from which
# seed on (1); IMAGE_PROP_KEEP: a folder for what has failed.
#
# requires: qemu-img qemu-io python3
. "$(dirname "$0")/lib.sh"

seed=${IMAGE_PROP_SEED:-1}
note "seed $seed"
if "$TESTS/image/property.py" --bin "$BIN" --seed "$seed" \
	--time "${IMAGE_PROP_SECONDS:-20}" --failures 3 \
	${IMAGE_PROP_KEEP:+--keep "$IMAGE_PROP_KEEP"} >out 2>&1; then
	ok "what a model says"
else
	not_ok "what a model says"
fi
note <out
done_testing
