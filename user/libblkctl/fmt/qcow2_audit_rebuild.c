// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * New refcount structures for an image whose own cannot be used.
 *
 * Owns where they go: behind the file's end and all that is referred to.
 * Must not write into anything that exists, but for the two fields of the
 * header.  Locking: the caller holds q->lock.
 *
 * Blocks and table first, a flush, then the header, which is one sector.  A
 * crash leaves the old structures in force, or the new ones.  The old ones are
 * free space then.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_audit_int.h"

#define HEADER_TABLE_AT	48U

/**
 * struct rebuild - the new structures
 * @end: the first cluster of the new table, which the blocks follow
 * @table: clusters of the table
 * @blocks: how many there are
 * @rt: new table, disk order
 */
struct rebuild {
	struct blk_qcow2 *q;
	struct blk_check c;
	struct blk_meta_list meta;
	uint64_t end, table, blocks;
	uint64_t *rt;
};

/* Does a range need a block: for what is there, or for the new structures? */
static bool needed(const struct rebuild *r, uint64_t idx)
{
	uint64_t lo = idx << r->q->rb_bits, hi = (idx + 1) << r->q->rb_bits;

	return (lo < r->end + r->table + r->blocks && hi > r->end) ||
		blk_refs_any(&r->c.refs, lo, hi);
}

static uint64_t ranges(const struct rebuild *r)
{
	return ((r->end + r->table + r->blocks - 1) >> r->q->rb_bits) + 1;
}

/* More blocks need a longer table, and the other way round. */
static int plan(struct rebuild *r)
{
	struct blk_qcow2 *q = r->q;
	uint64_t before;

	r->table = r->blocks = 1;
	do {
		uint64_t n = 0;

		before = r->table + r->blocks;
		for (uint64_t i = 0; i < ranges(r); i++)
			n += needed(r, i);
		r->blocks = BLK_MAX(r->blocks, n);
		r->table = BLK_MAX(r->table, blk_align_up(ranges(r) * 8,
							  q->cs) / q->cs);
	} while (r->table + r->blocks != before);
	if (r->table * q->cs > QCOW2_MAX_REFTABLE_BYTES ||
	    r->end + r->table + r->blocks > blk_grow_limit(q))
		return -ENOSPC;
	return 0;
}

static int write_block(struct rebuild *r, uint64_t idx, uint64_t at,
		       uint8_t *buf)
{
	struct blk_qcow2 *q = r->q;
	uint64_t first = idx << q->rb_bits;

	memset(buf, 0, q->cs);
	for (uint64_t i = 0; i < 1ULL << q->rb_bits; i++) {
		uint64_t refs = blk_refs_get(&r->c.refs, first + i);

		if (refs)
			blk_refcount_set(buf, q->h.refcount_order, i, refs);
	}
	r->rt[idx] = htobe64(at);
	return blk_file_write(q->f, buf, q->cs, at);
}

/* A block that was planned for and is not needed is a reference less. */
static int write_blocks(struct rebuild *r)
{
	struct blk_qcow2 *q = r->q;
	uint64_t at = r->end + r->table, n = ranges(r);
	uint8_t *buf blk_auto_free = NULL;
	int ret = 0;

	if (posix_memalign((void **)&buf, 4096, BLK_MAX(q->cs, 4096U)))
		return -ENOMEM;
	for (uint64_t i = 0; i < n && !ret; i++)
		if (needed(r, i))
			ret = write_block(r, i, at++ * q->cs, buf);
	return ret;
}

static int write_structures(struct rebuild *r)
{
	struct blk_qcow2 *q = r->q;
	uint64_t len = r->table * q->cs;
	int ret = blk_refs_add_run(&r->c.refs, r->end, r->table + r->blocks, 1);

	if (ret < 0)
		return ret;
	if (posix_memalign((void **)&r->rt, 4096, blk_align_up(len, 4096)))
		return -ENOMEM;
	memset(r->rt, 0, len);
	ret = blk_grow_file(q, r->end * q->cs,
			    (r->end + r->table + r->blocks) * q->cs);
	if (!ret)
		ret = write_blocks(r);
	if (!ret)
		ret = blk_file_write(q->f, r->rt, len, r->end * q->cs);
	return ret ? ret : blk_file_flush(q->f);
}

static int put_in_force(struct rebuild *r)
{
	struct blk_qcow2 *q = r->q;
	int ret;

	q->h.refcount_table_offset = r->end * q->cs;
	q->h.refcount_table_clusters = (uint32_t)r->table;
	blk_header_emit(&q->h, q->head);
	ret = blk_q_write_head(q, HEADER_TABLE_AT, 12);
	if (ret < 0)
		blk_q_reread_head(q);
	return ret;
}

/* Everything but the refcount structures is counted. */
static int count(struct rebuild *r)
{
	struct blk_qcow2 *q = r->q;
	size_t n = q->rt_n;
	int ret;

	q->rt_n = 0;
	q->rt_why = NULL;
	ret = blk_meta_collect(q, &r->meta, r->c.e);
	if (!ret) {
		r->c.meta = &r->meta;
		ret = blk_check_collect(&r->c);
	}
	q->rt_n = n;
	return ret;
}

static int rebuild(struct rebuild *r)
{
	int ret = count(r);

	if (ret < 0)
		return ret;
	r->end = BLK_MAX(blk_refs_end(&r->c.refs), r->c.file_end);
	if (r->q->f->is_bdev)
		r->end = blk_refs_end(&r->c.refs);
	ret = plan(r);
	if (!ret)
		ret = write_structures(r);
	if (!ret)
		ret = put_in_force(r);
	return ret < 0 ? blk_q_io_error(r->q, r->c.e, ret,
					"write new refcounts") : 0;
}

int audit_rebuild(struct blk_qcow2 *q, struct blk_error *e)
{
	struct rebuild r = { .q = q, .c = { .q = q, .e = e } };
	int ret, rc;

	blk_alloc_forget(q);
	ret = rebuild(&r);
	blk_check_free(&r.c);
	free(r.meta.run);
	free(r.rt);
	free(blk_take(q->rt));
	q->rt_n = 0;
	rc = blk_rt_load(q, ret ? NULL : e);
	blk_slots_free(q);	/* blocks of the old table */
	blk_alloc_forget(q);
	return ret ? ret : rc;
}
