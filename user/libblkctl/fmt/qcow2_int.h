/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside an open qcow2 image: shared by fmt/qcow2_*.c only.
 *
 * Words: a *block* is a refcount block, named by its index in the refcount
 * table; a *slot* is a place in memory for one block.  Clusters are counted
 * from 0; offsets are bytes.  Everything here runs under blk_qcow2.lock.
 */
#ifndef BLK_FMT_QCOW2_INT_H
#define BLK_FMT_QCOW2_INT_H

#include <pthread.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "fmt/qcow2.h"
#include "qcow2/ext.h"
#include "qcow2/refcount.h"

#define BLK_NO_BLOCK	UINT64_MAX
#define BLK_MAX_FREED	1024U	/* runs of freed space between two flushes */

/**
 * struct blk_slot - one refcount block in memory
 * @idx: index in the refcount table, BLK_NO_BLOCK: empty
 * @used: when it was used last
 * @lo, @hi: bytes that differ from the disk, none if equal
 * @fresh: a new block whose table entry is not on disk yet
 */
struct blk_slot {
	uint64_t idx;
	uint64_t used;
	uint32_t lo;
	uint32_t hi;
	bool fresh;
	uint8_t *buf;
};

/* What a cluster of metadata is */
enum blk_meta_kind {
	BLK_META_OWN,		/* the daemon's: refcounts, snapshots, ... */
	BLK_META_ACTIVE,	/* header and active L1: never change owner */
	BLK_META_ACTIVE_L2,	/* the kernel's; may be freed by it */
	BLK_META_INACTIVE_L2,	/* the daemon's; snapshots may share them */
	BLK_META_RETIRED,	/* an old table: free, but the kernel may have
				 * it claimed until the next attach */
};

struct blk_meta_run {
	uint64_t off;
	uint64_t len : 56;
	uint64_t kind : 8;
};

struct blk_meta_list {
	struct blk_meta_run *run;
	size_t n;
	size_t room;
};

struct blk_scan;

/**
 * struct blk_qcow2 - an open image
 * @cs: cluster size
 * @head: the header cluster as on disk
 * @rt: refcount table, host order, @rt_n entries
 * @rt_why: why the refcount structures can't be used, NULL: they can
 * @stuck: a change of table or header failed half-way; no more of them
 * @leaked: refcounts are known, or must be feared, to be too high on disk
 * @ready: the fields behind it are set up (blk_alloc_prepare)
 * @meta: sorted; never given out by the allocator
 * @end: one more than the last cluster in use
 * @hint: no cluster below it can be allocated
 * @as_they_are: this grant's clusters need not be zeroed
 * @fresh_from: offset from which the file is zeroes and was never given out
 * @announced: file size that ops->grown was told
 * @size_at_open: bytes
 * @verified: a finished leak scan has found no reference to a free cluster
 * @repairing: the dirty bit does not forbid changes of refcounts
 * @lenient: snapshots that make no sense are shown, too
 */
struct blk_qcow2 {
	struct blk_file *f;
	pthread_mutex_t lock;
	struct qcow2_header h;
	uint64_t cs;
	uint8_t *head;
	struct blk_ext_info ext;
	char *backing_file;
	char *backing_format;
	char *data_file;
	uint64_t size_at_open;

	uint64_t *rt;
	size_t rt_n;
	uint32_t rb_bits;
	const char *rt_why;
	bool stuck;
	bool as_they_are;
	bool leaked;

	const struct blk_qcow2_ops *ops;
	void *opaque;

	bool ready;
	struct blk_slot *slot;
	size_t n_slots;
	uint8_t *slot_mem;
	uint8_t *sector;	/* f->align bytes, for table and header */
	uint64_t clock;
	struct blk_meta_list meta;
	uint64_t end;
	uint64_t hint;
	uint64_t fresh_from;
	uint64_t announced;
	bool verified;
	bool repairing;
	bool lenient;
	struct blk_scan *scan;
	struct dm_qcow_run *freed;	/* of a release that is under way */
	size_t n_freed;
};

/* Data clusters are in another file: their offsets are no references here. */
static inline bool blk_q_has_data_file(const struct blk_qcow2 *q)
{
	return q->h.incompatible_features & QCOW2_INCOMPAT_DATA_FILE;
}

static inline bool blk_q_has_extl2(const struct blk_qcow2 *q)
{
	return q->h.incompatible_features & QCOW2_INCOMPAT_EXTL2;
}

/* Without its autoclear bit the extension is stale: nothing in it is used. */
static inline bool blk_q_has_bitmaps(const struct blk_qcow2 *q)
{
	return q->ext.has_bitmaps && q->h.version >= 3 &&
		q->h.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS;
}

/* qcow2_open.c */
int blk_q_corrupt(const struct blk_qcow2 *q, struct blk_error *e,
		  const char *why);
int blk_q_io_error(const struct blk_qcow2 *q, struct blk_error *e, int err,
		   const char *what);
/* Writes @len bytes of the header cluster in memory from @off, and flushes. */
int blk_q_write_head(struct blk_qcow2 *q, uint32_t off, uint32_t len);
/* Writes the sectors with bytes [lo, hi) of a table that is at @at, no flush. */
int blk_q_write_table(struct blk_qcow2 *q, const void *table, uint64_t at,
		      uint64_t lo, uint64_t hi);
/* After a failed write the header in memory must be the disk's again. */
int blk_q_reread_head(struct blk_qcow2 *q);
/* The file's size, rounded up to clusters; -errno */
int64_t blk_q_rounded_size(const struct blk_qcow2 *q);

/* qcow2_refcount.c: the table, and blocks in slots */
int blk_rt_load(struct blk_qcow2 *q, struct blk_error *e);
int blk_slots_alloc(struct blk_qcow2 *q);
void blk_slots_free(struct blk_qcow2 *q);
/*
 * The block of that index in memory.  -ENOENT: there is none; -ENOBUFS: all
 * slots are dirty, commit first.
 */
int blk_slot_get(struct blk_qcow2 *q, uint64_t idx, struct blk_slot **out);
/* The refcount of one cluster; no slots may be dirty */
int blk_refcount_read(struct blk_qcow2 *q, uint64_t cluster, uint64_t *rc);
/* A new empty block, to live at @off. */
int blk_slot_new(struct blk_qcow2 *q, uint64_t idx, uint64_t off,
		 struct blk_slot **out);
void blk_slot_set(struct blk_qcow2 *q, struct blk_slot *s, uint64_t i,
		  uint64_t refcount);
/* Dirty blocks, flush; then table entries of fresh ones, flush. */
int blk_slots_commit(struct blk_qcow2 *q);
/* Forgets what is not on disk; @written: some of it may be there */
void blk_slots_abort(struct blk_qcow2 *q, bool written);
/* Writes the table entries [from, to) (whole sectors), no flush. */
int blk_rt_store(struct blk_qcow2 *q, uint64_t from, uint64_t to);

/* qcow2_meta.c */
/* All metadata clusters, sorted, checked against each other. */
int blk_meta_collect(struct blk_qcow2 *q, struct blk_meta_list *out,
		     struct blk_error *e);
/* The run that contains @off or the first behind it; NULL: none */
struct blk_meta_run *blk_meta_find(const struct blk_meta_list *l,
				   uint64_t off);
int blk_meta_reserve(struct blk_meta_list *l, size_t room);
/* Inserts into reserved room. */
int blk_meta_add(struct blk_meta_list *l, uint64_t off, uint64_t len,
		 enum blk_meta_kind kind);
void blk_meta_del(struct blk_meta_list *l, uint64_t off);
uint64_t blk_meta_end(const struct blk_meta_list *l);

/* qcow2_walk.c: what the snapshot table and the bitmaps refer to */
typedef int (*blk_walk_fn)(void *opaque, uint64_t off, uint64_t len);
struct blk_snap;
/* @at: offset of the entry.  A positive result ends the walk, as an error does. */
typedef int (*blk_snap_fn)(void *opaque, const struct blk_snap *s);
struct blk_bitmap;
typedef int (*blk_bitmap_fn)(void *opaque, const struct blk_bitmap *b,
			     uint64_t at);
/* Calls fn for the table itself (len of the table), or @l1 for each L1. */
int blk_walk_snapshots(struct blk_qcow2 *q, blk_walk_fn table, blk_walk_fn l1,
		       void *opaque, struct blk_error *e);
int blk_walk_snapshot_table(struct blk_qcow2 *q, blk_snap_fn fn, void *opaque,
			    uint64_t *bytes, struct blk_error *e);
/* The entries of the bitmap directory */
int blk_walk_bitmap_dir(struct blk_qcow2 *q, blk_bitmap_fn fn, void *opaque,
			struct blk_error *e);
/* Directory, tables and data of the bitmaps */
int blk_walk_bitmaps(struct blk_qcow2 *q, blk_walk_fn fn, void *opaque,
		     struct blk_error *e);
/* Reads an L1 table of @n entries to host order; malloc'ed */
int blk_walk_l1(struct blk_qcow2 *q, uint64_t off, uint32_t n, uint64_t **out,
		struct blk_error *e);

/* qcow2_grow.c */
/*
 * Makes the file at least @need bytes long, with space allocated from @from
 * on, and tells the user.
 */
int blk_grow_file(struct blk_qcow2 *q, uint64_t from, uint64_t need);
/* Makes the refcount table at least @n entries long. */
int blk_grow_table(struct blk_qcow2 *q, uint64_t n);
/* Says that new clusters of metadata are about to be written. */
int blk_grow_claim(struct blk_qcow2 *q, uint64_t off, uint64_t len);
/*
 * Contiguous clusters of metadata in one piece, with refcounts that are 1,
 * durably, and claimed.  Commits on its own.
 */
int blk_grow_table_area(struct blk_qcow2 *q, uint64_t clusters, uint64_t *off);
/* The clusters that file or device can have */
uint64_t blk_grow_limit(const struct blk_qcow2 *q);

/* qcow2_alloc.c */
int blk_alloc_prepare(struct blk_qcow2 *q, struct blk_error *e);
/* As blk_qcow2_alloc() does it, of a prepared image that is not stuck */
int blk_alloc_runs(struct blk_qcow2 *q, uint64_t clusters,
		   struct dm_qcow_run *runs, size_t *n);
/* Forgets what is known of free space and metadata. */
void blk_alloc_forget(struct blk_qcow2 *q);
/* The last cluster in use, from the refcounts and the metadata */
int blk_alloc_find_end(struct blk_qcow2 *q, uint64_t *end, bool *exact);

/* qcow2_release.c */
/* Drops references without judging them; commits as needed. */
int blk_release_runs(struct blk_qcow2 *q, const struct dm_qcow_run *runs,
		     size_t n);
/* Is it no run of the daemon's own metadata? */
bool blk_release_may_drop(const struct blk_qcow2 *q,
			  const struct dm_qcow_run *r);
/* As blk_release_runs(), but judged: *refused: some were not dropped */
int blk_release_judged(struct blk_qcow2 *q, const struct dm_qcow_run *runs,
		       size_t n, bool *refused);
/* A refcount has become 0 in a slot; at most BLK_MAX_FREED until settled */
void blk_release_note(struct blk_qcow2 *q, uint64_t cluster);
/* Commits, then gives the noted space back to the host and the allocator. */
int blk_release_settle(struct blk_qcow2 *q);

/* qcow2_scan.c */
void blk_scan_touch(struct blk_qcow2 *q, uint64_t cluster, uint64_t n);
void blk_scan_free(struct blk_qcow2 *q);

#endif
