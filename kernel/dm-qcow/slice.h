/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Slices of L2 tables in memory: the unit of caching, dirtying and write-back.
 */
#ifndef QCOW_SLICE_H
#define QCOW_SLICE_H

#include <linux/bio.h>
#include <linux/bitmap.h>
#include <linux/completion.h>
#include <linux/list.h>
#include <linux/seqlock.h>
#include <linux/spinlock.h>
#include <linux/xarray.h>

#include "image.h"

#define QCOW_SLICE_WRITABLE	0x01	/* its L2 table is nobody else's */
#define QCOW_SLICE_DIRTY	0x02	/* on the dirty list, unfrozen changes */
#define QCOW_SLICE_COMMIT	0x04	/* a copy is on its way to the disk */
#define QCOW_SLICE_DATA_FLUSH	0x08	/* data must be durable before it */
#define QCOW_SLICE_DEAD		0x10	/* reclaimed: look it up again */

/* Somebody in process context who waits for a load; lives on the stack. */
struct qcow_slice_wait {
	struct qcow_slice_wait *next;
	struct completion done;
	blk_status_t status;
};

/**
 * struct qcow_slice - up to 512 entries of one L2 table
 * @img: whose
 * @nr: guest offset >> img->slice_span_bits
 * @disk_off: where it is in the image
 * @ent: the entries in host order, one page; an extended entry is two words,
 *       entry and bitmap.  Read without a lock; written under @lock.  See
 *       pending.h for what they hold.
 * @seq: extended entries: around changes of both words
 * @lock: irq-safe: guards @state, @pins, @waiters and writes to @ent
 * @state: QCOW_SLICE_*
 * @pins: writes in flight that will set entries
 * @shared: it was loaded from an L2 table that snapshots share
 * @used: set by look-ups, cleared by the reclaiming clock
 * @busy: compressed entries that are being replaced
 * @waiters: bios that wait for the load, or for a pending cluster
 * @sleepers: threads that wait for the load
 * @lru: img->lru, under img->lru_lock
 * @dirty: img->commit.dirty, under img->commit.lock
 * @copied: the slices of the commit that runs; the commit's own
 */
struct qcow_slice {
	struct qcow_image *img;
	u64 nr;
	u64 disk_off;
	u64 *ent;
	spinlock_t lock;
	u32 state;
	u32 pins;
	bool used;
	bool shared;
	seqcount_t seq;
	DECLARE_BITMAP(busy, 512);
	struct bio_list waiters;
	struct qcow_slice_wait *sleepers;
	struct list_head lru;
	struct list_head dirty;
	struct list_head copied;
	struct work_struct loaded;
	blk_status_t status;
	struct rcu_head rcu;
};

int qcow_slices_init(void);
void qcow_slices_exit(void);

/* 0 or -ENOMEM; qcow_slice_cache_exit() in either case. */
int qcow_slice_cache_init(struct qcow_image *img);
void qcow_slice_cache_exit(struct qcow_image *img);
/* Slices are clean now: those beyond the limit go. */
void qcow_slice_cache_trim(struct qcow_image *img);
/* Frees every slice.  None may be pinned or loading. */
void qcow_slice_cache_drop(struct qcow_image *img);

/* Called inside rcu_read_lock(); NULL: not in memory. */
static inline struct qcow_slice *qcow_slice_find(struct qcow_image *img,
						 u64 guest)
{
	struct qcow_slice *s = xa_load(&img->slices,
				       guest >> img->slice_span_bits);

	if (s && !READ_ONCE(s->used))
		WRITE_ONCE(s->used, true);
	return s;
}

static inline u32 qcow_slice_index(const struct qcow_image *img, u64 guest)
{
	return (guest >> img->cluster_bits) & ((1U << img->entry_bits) - 1);
}

static inline u32 qcow_slice_entries(const struct qcow_image *img)
{
	return 1U << img->entry_bits;
}

/* Words of 8 bytes on disk; also what a unit of the L1 table has. */
static inline u32 qcow_slice_words(const struct qcow_image *img)
{
	return img->slice_bytes / 8;
}

/* Where the entry of a cluster is; its bitmap, if it has one, is behind it. */
static inline u64 *qcow_ent(struct qcow_slice *s, u32 idx)
{
	return &s->ent[idx << s->img->ext];
}

/* What L1 says of a guest offset; only the owner's worker changes it. */
u64 qcow_l1_entry(struct qcow_image *img, u64 guest);

/**
 * qcow_slice_load - get the slice of a guest offset into memory
 * @bio: deferred again when the slice is there, ended with the error
 *       otherwise; NULL if @w is given
 * @w: completed instead
 *
 * Called from process context.
 * Return: 0: the bio was taken, or @w will be completed; -EAGAIN: the slice is
 * there, or there is no table: look again; -ENOMEM: no memory now; -EFBIG.
 */
int qcow_slice_load(struct qcow_image *img, u64 guest, struct bio *bio,
		    struct qcow_slice_wait *w);
/* Sleeps until it is there.  0: look again; -errno. */
int qcow_slice_load_wait(struct qcow_image *img, u64 guest);

/*
 * A shared L2 table was copied to @table: its slices are there now, and may
 * be written.  From the owner's worker.
 */
void qcow_slices_move(struct qcow_image *img, u64 guest, u64 table);

#endif
