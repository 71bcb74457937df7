/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an image's file smaller: fmt/qcow2_compact*.c.  All run under q->lock;
 * all refcounts are right when it begins.
 */
#ifndef BLK_FMT_QCOW2_COMPACT_INT_H
#define BLK_FMT_QCOW2_COMPACT_INT_H

#include "fmt/qcow2_check_int.h"

/**
 * struct blk_compact - one round
 * @c: all references, as they were when the round began; what was taken since
 *     is counted, too
 * @goal: clusters in use: if all were in front, the file would have so many
 * @end: one more than the last cluster in use
 * @to: of clusters [goal, end): where each goes, 0: nowhere
 * @next: no cluster below it is free
 * @moved: clusters, in all rounds
 * @unlinked: refcount blocks that counted nothing, in all rounds
 */
struct blk_compact {
	struct blk_qcow2 *q;
	struct blk_error *e;
	struct blk_check c;
	uint64_t goal;
	uint64_t end;
	uint64_t *to;
	uint64_t next;
	uint64_t moved;
	uint64_t unlinked;
	const struct blk_qcow2_compact *how;
};

static inline bool blk_compact_is_l2(const struct blk_meta_run *m)
{
	return m->kind == BLK_META_ACTIVE_L2 ||
		m->kind == BLK_META_INACTIVE_L2;
}

/* qcow2_compact.c */
/* Can it be taken?  Only clusters that a refcount block counts are. */
bool blk_compact_is_free(struct blk_compact *x, uint64_t c);
/* @n free clusters in one piece below the goal, now taken; 0: none */
uint64_t blk_compact_take(struct blk_compact *x, uint64_t n);
/* Refcount + @by, in a slot; commits when there is no room */
int blk_compact_count(struct blk_compact *x, uint64_t cluster, int64_t by);
/* Copies what @to says, and counts it there, durably. */
int blk_compact_copy(struct blk_compact *x);
/* Nothing refers to what @to says any more: it is free; forgets @to. */
int blk_compact_drop(struct blk_compact *x);
int blk_compact_copy_bytes(struct blk_qcow2 *q, uint64_t from, uint64_t to,
			   uint64_t len);

/* qcow2_compact_meta.c: all metadata */
int blk_compact_metadata(struct blk_compact *x);
/* Refcount blocks that count nothing */
int blk_compact_empty_blocks(struct blk_compact *x);

/* qcow2_compact_data.c: data, compressed or not */
int blk_compact_data(struct blk_compact *x);

#endif
