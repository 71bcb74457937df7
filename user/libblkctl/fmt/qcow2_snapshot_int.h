/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the two files that change snapshots share.
 */
#ifndef BLK_FMT_QCOW2_SNAPSHOT_INT_H
#define BLK_FMT_QCOW2_SNAPSHOT_INT_H

#include "fmt/qcow2_shadow_int.h"
#include "qcow2/snapshot.h"

/**
 * struct snap_edit - one change
 * @table, @table_len: the snapshot table, @at: an entry of it
 * @l1: the active L1, in the end the new one, @l1_n entries
 * @other: the L1 of the snapshot, @other_n entries
 * @l2: an L2 table in memory; @changed: differs from the disk
 * @gap_lo, @gap_hi: bytes that were found to be no metadata
 */
struct snap_edit {
	struct blk_qcow2 *q;
	struct blk_error *e;
	struct blk_shadow s;
	uint8_t *table;
	uint64_t table_len;
	uint64_t old_len;
	uint64_t at, at_len;
	struct blk_snap found;
	uint64_t *l1;
	uint64_t l1_n;
	uint64_t *other;
	uint64_t other_n;
	uint8_t *l2;
	bool changed;
	uint64_t file_size;
	uint64_t gap_lo, gap_hi;
};

static inline uint64_t snap_cluster(const struct snap_edit *x, uint64_t off)
{
	return off >> x->q->h.cluster_bits;
}

/*
 * qcow2_snapshot_tables.c: references to L2 tables.  -EUCLEAN: damaged;
 * -EOVERFLOW: a refcount cannot count that
 */

/* The active table of *@entry becomes the snapshot's, too. */
int blk_snap_l2_share(struct snap_edit *x, uint64_t *entry);
/* The snapshot's table at @off becomes the active one, too: *@entry */
int blk_snap_l2_adopt(struct snap_edit *x, uint64_t off, uint64_t *entry);
/* One that refers to the table at @off does so no longer. */
int blk_snap_l2_drop(struct snap_edit *x, uint64_t off);
/* Where nobody shares the table any more, its COPIED bits may be set. */
int blk_snap_l2_refresh(struct snap_edit *x, uint64_t *entry);

#endif
