/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing the active L1 and L2 tables of an image whose metadata is all the
 * daemon's: not attached, or suspended and handed over.
 */
#ifndef BLK_FMT_QCOW2_EDIT_INT_H
#define BLK_FMT_QCOW2_EDIT_INT_H

#include "fmt/qcow2_int.h"

#define BLK_EDIT_POOL	64U	/* runs of clusters in reserve */
#define BLK_EDIT_FREED	4096U	/* runs freed together, about */

/**
 * struct blk_edit - an editor
 * @l1, @l1_n: the active L1 as on disk, host order
 * @file_size: bytes, rounded up to clusters, when the table was loaded
 * @want: clusters that will be needed still, about
 * @pool, @n_pool: clusters in reserve: refcount 1, claimed
 * @l2, @entries: the L2 table in memory, and how many entries it has
 * @index: its L1 index
 * @at: where it is, 0: none is in memory
 * @is_new: it is not on disk yet, and will replace what the L1 entry says
 * @lo, @hi: bytes of it that differ from the disk
 * @freed, @n_freed: references to drop when the tables are durable
 */
struct blk_edit {
	struct blk_qcow2 *q;
	uint64_t *l1;
	uint32_t l1_n;
	uint64_t file_size;
	uint64_t want;
	struct dm_qcow_run pool[BLK_EDIT_POOL];
	size_t n_pool;
	uint8_t *l2;
	uint64_t entries;
	uint32_t index;
	uint64_t at;
	bool is_new;
	uint64_t lo, hi;
	struct dm_qcow_run *freed;
	size_t n_freed;
};

/*
 * All return -errno; -EUCLEAN: the tables are damaged.  The image is prepared
 * (blk_alloc_prepare) and no slots are dirty.
 */
int blk_edit_open(struct blk_edit *d, struct blk_qcow2 *q);
/* Gives the reserve back. */
void blk_edit_close(struct blk_edit *d);
/* One new cluster: counted, durably, and claimed; what it reads as is open */
int blk_edit_alloc(struct blk_edit *d, uint64_t *off);
/*
 * Takes the table of that L1 entry into memory, to be read or changed.  0 with
 * @at == 0: there is none, and @create is false.
 */
int blk_edit_load(struct blk_edit *d, uint32_t index, bool create);
/* Entry @i of the table in memory; the bitmap is 0 without extended L2 */
uint64_t blk_edit_entry(const struct blk_edit *d, uint64_t i,
			uint64_t *bitmap);
/* -EUCLEAN: the entry is not valid */
int blk_edit_check(const struct blk_edit *d, uint64_t entry, uint64_t bitmap);
/* Changes it; a table that is shared with snapshots is copied first. */
int blk_edit_set(struct blk_edit *d, uint64_t i, uint64_t entry,
		 uint64_t bitmap);
/* The clusters of an entry that was, or will be, replaced by blk_edit_set */
void blk_edit_free(struct blk_edit *d, uint64_t entry);
/* The table becomes durable, then what was freed is. */
int blk_edit_store(struct blk_edit *d);
/*
 * Unmaps all guest clusters from @guest (cluster aligned) on, also behind the
 * disk's end; *@bad: some references could not be dropped: they leak.
 */
int blk_edit_cut(struct blk_edit *d, uint64_t guest, bool *bad);

#endif
