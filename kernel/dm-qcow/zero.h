/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Discards and writes of zeroes.
 */
#ifndef QCOW_ZERO_H
#define QCOW_ZERO_H

#include <linux/types.h>

struct bio;
struct qcow_target;

#define QCOW_ZERO_MAX_SECTORS	(1U << 22)	/* in one bio: 2 GiB */

/* How many bytes from a bio's beginning can be done as one bio. */
u64 qcow_zero_cut(const struct qcow_target *t, const struct bio *bio,
		  u64 guest);

/* From the worker: takes the bio. */
void qcow_zero_process(struct qcow_target *t, struct bio *bio);

#endif
