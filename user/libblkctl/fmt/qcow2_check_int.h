/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Counting all references of an image, for those that compare them with the
 * refcounts: fmt/qcow2_check.c, fmt/qcow2_repair.c.
 */
#ifndef BLK_FMT_QCOW2_CHECK_INT_H
#define BLK_FMT_QCOW2_CHECK_INT_H

#include "fmt/qcow2_int.h"

/*
 * Counts by cluster, in pages that are there when something in them is counted
 * and whose numbers become wider when they must.
 */
#define BLK_REFS_PAGE_BITS	12U
#define BLK_REFS_PAGE	(1U << BLK_REFS_PAGE_BITS)	/* clusters */

struct blk_refs_page {
	union {
		void *mem;	/* NULL: all are 0 */
		uint8_t *u8;
		uint16_t *u16;
		uint32_t *u32;
		uint64_t *u64;
	};
	uint8_t order;		/* log2 of the bytes of a count */
};

struct blk_refs {
	uint64_t n;		/* clusters that can be counted: [0, n) */
	struct blk_refs_page *page;
	uint64_t bytes;		/* of all pages */
};

/* qcow2_refs.c */
/* -EFBIG: more clusters than can be counted */
int blk_refs_init(struct blk_refs *r, uint64_t n);
void blk_refs_free(struct blk_refs *r);
uint64_t blk_refs_get(const struct blk_refs *r, uint64_t cluster);
/* -ENOMEM also when the counts would need too much memory */
int blk_refs_add(struct blk_refs *r, uint64_t cluster, uint64_t by);
int blk_refs_add_run(struct blk_refs *r, uint64_t from, uint64_t n,
		     uint64_t by);
/* All of @from, which has the same clusters, and is empty then */
int blk_refs_merge(struct blk_refs *r, struct blk_refs *from);
/*
 * The counts of the page of @cluster, from its first on, where a byte is enough
 * for each; else NULL.
 */
const uint8_t *blk_refs_small(const struct blk_refs *r, uint64_t cluster);
/* One more than the last cluster that is counted */
uint64_t blk_refs_end(const struct blk_refs *r);
/* Is anything counted in [from, end)? */
bool blk_refs_any(const struct blk_refs *r, uint64_t from, uint64_t end);

/**
 * struct blk_check - the references of an image, and what is wrong
 * @meta: all metadata, by blk_meta_collect(), which the caller owns
 * @file_end: clusters of the file, rounded up
 * @l1: the active L1, host order
 * @l2: a buffer for one L2 table
 * @most: the largest count
 * @gap_lo, @gap_hi: bytes that were found to be no metadata
 * @too_high: clusters with a refcount larger than their references
 * @too_low: ... smaller
 * @copied: wrong COPIED bits
 */
struct blk_check {
	struct blk_qcow2 *q;
	struct blk_error *e;
	const struct blk_meta_list *meta;
	struct blk_refs refs;
	uint64_t file_end;
	uint64_t *l1;
	uint8_t *l2;
	uint64_t most;
	uint64_t gap_lo, gap_hi;
	uint64_t too_high;
	uint64_t too_low;
	uint64_t copied;
};

/**
 * struct blk_repair - what a repair of refcounts shall do
 * @leaks_only: only lower them
 * @no_copied: leave COPIED bits alone, and refcounts that these depend on
 * @keep_dirty: do not clear the dirty bit at the end
 */
struct blk_repair {
	bool leaks_only;
	bool no_copied;
	bool keep_dirty;
};

/* qcow2_repair.c */
/* Of an image that is sound but for its refcounts and COPIED bits */
int blk_repair_refcounts(struct blk_qcow2 *q, const struct blk_repair *how,
			 bool *touched, struct blk_error *e);

/* qcow2_check.c */
/*
 * Counts everything; q, e and meta are set, the rest is zeroes.  -EUCLEAN when
 * the structures are not to be trusted at all.
 */
int blk_check_collect(struct blk_check *c);
/* Counts what differs in refcounts; nothing is changed. */
int blk_check_compare(struct blk_check *c);
/* Counts wrong COPIED bits in the active tables and, with @fix, sets them. */
int blk_check_copied(struct blk_check *c, bool fix);
void blk_check_free(struct blk_check *c);

/* qcow2_repair.c: makes all refcounts right, dirty or not */
int blk_repair_now(struct blk_qcow2 *q, struct blk_error *e);

#endif
