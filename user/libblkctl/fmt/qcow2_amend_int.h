/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The long steps of an amend: fmt/qcow2_amend*.c.  All run under q->lock, of a
 * prepared image.
 */
#ifndef BLK_FMT_QCOW2_AMEND_INT_H
#define BLK_FMT_QCOW2_AMEND_INT_H

#include "fmt/qcow2_header_int.h"

/* Drops the reference of a table that nothing names any more. */
int blk_amend_drop(struct blk_qcow2 *q, uint64_t off, uint64_t len);
/* qcow2_amend_refs.c: all refcounts in blocks of another width */
int blk_amend_refcount_bits(struct blk_qcow2 *q,
			    const struct blk_qcow2_amend *a,
			    struct blk_error *e);
/* qcow2_amend_zero.c: no entry of any L2 table has the zero flag then */
int blk_amend_expand_zeroes(struct blk_qcow2 *q,
			    const struct blk_qcow2_amend *a,
			    struct blk_error *e);

static inline void blk_amend_progress(const struct blk_qcow2_amend *a,
				      uint64_t done, uint64_t all)
{
	if (a->progress)
		a->progress(a->opaque, done, all);
}

#endif
