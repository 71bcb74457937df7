#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Damaged images of every kind do no harm to any verb, and no verb makes them
# worse. HOSTILE_SECONDS: how long it tries (20); HOSTILE_SEED: from which seed
# on (1); HOSTILE_KEEP: a folder for what has failed.
#
# requires: qemu-img qemu-io python3
. "$(dirname "$0")/lib.sh"

images=$("$TESTS/lib/make-images") || exit 1
seed=${HOSTILE_SEED:-1}
note "seed $seed"
if "$TESTS/fuzz/verbs" --bin "$BIN" --images "$images" --seed "$seed" \
	--time "${HOSTILE_SECONDS:-20}" --failures 3 \
	${HOSTILE_KEEP:+--keep "$HOSTILE_KEEP"} >out 2>&1; then
	ok "damaged images do no harm"
else
	not_ok "damaged images do no harm"
fi
note <out
done_testing
