// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Another width of the refcounts.
 *
 * Owns the new refcount blocks and table until the header names them.  Must
 * not change a count.  Locking: the caller holds q->lock.
 *
 * Everything new is in one area, which the old refcounts count first, durably;
 * then it is written: the counts of all clusters, its own included; flush;
 * then one sector of the header names it, with the new width; only then the
 * old table and its blocks are freed, in the new ones.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_amend_int.h"

/**
 * struct wide - the new refcounts
 * @order, @bits: width, and how many clusters a block counts, as powers of two
 * @clusters: all that are counted: [0, clusters)
 * @blocks, @table: clusters of the area: table first
 */
struct wide {
	struct blk_qcow2 *q;
	uint32_t order;
	uint32_t bits;
	uint64_t off;
	uint64_t clusters;
	uint64_t blocks;
	uint64_t table;
	uint8_t *buf;
	uint64_t *rt;
};

static int all_counts_fit(struct wide *w)
{
	struct blk_qcow2 *q = w->q;
	uint64_t max = blk_refcount_max(w->order);

	for (uint64_t i = 0; i < q->rt_n; i++) {
		struct blk_slot *s;
		int ret = blk_slot_get(q, i, &s);

		if (ret == -ENOENT)
			continue;
		if (ret < 0)
			return ret;
		for (uint64_t c = 0; c < 1ULL << q->rb_bits; c++)
			if (blk_refcount_get(s->buf, q->h.refcount_order, c) >
			    max)
				return -ERANGE;
	}
	return 0;
}

/*
 * An area that is large enough for all clusters in use, itself included.  It
 * lies behind what is there, or in a gap: then nothing more has to be counted.
 */
static int find_area(struct wide *w)
{
	struct blk_qcow2 *q = w->q;

	for (uint64_t extra = 0;; extra += 1 + extra / 2) {
		bool exact;
		uint64_t want, need, end;
		int ret;

		want = q->end + extra;
		w->blocks = (want >> w->bits) + 1;
		w->table = ((w->blocks * 8 - 1) >> q->h.cluster_bits) + 1;
		if (w->table * q->cs > QCOW2_MAX_REFTABLE_BYTES)
			return -EFBIG;
		ret = blk_grow_table_area(q, w->table + w->blocks, &w->off);
		if (!ret)
			ret = blk_alloc_find_end(q, &end, &exact);
		if (ret < 0)
			return ret;
		need = BLK_MAX(end, (w->off >> q->h.cluster_bits) + w->table +
			       w->blocks);
		w->clusters = w->blocks << w->bits;
		if (need <= w->clusters)
			return 0;
		ret = blk_amend_drop(q, w->off,
				     (w->table + w->blocks) * q->cs);
		if (ret < 0)
			return ret;
		extra = BLK_MAX(extra, need - q->end + w->table + w->blocks);
	}
}

static int fill_block(struct wide *w, uint64_t i, bool *any)
{
	struct blk_qcow2 *q = w->q;
	uint64_t first = i << w->bits, c = first;
	uint64_t stop = (i + 1) << w->bits;

	memset(w->buf, 0, q->cs);
	*any = false;
	while (c < stop) {
		uint64_t idx = c >> q->rb_bits;
		uint64_t end = BLK_MIN((idx + 1) << q->rb_bits, stop);
		struct blk_slot *s;
		int ret = blk_slot_get(q, idx, &s);

		if (ret < 0 && ret != -ENOENT)
			return ret;
		for (; !ret && c < end; c++) {
			uint64_t rc = blk_refcount_get(s->buf,
					q->h.refcount_order,
					c & ((1ULL << q->rb_bits) - 1));

			if (!rc)
				continue;
			blk_refcount_set(w->buf, w->order, c - first, rc);
			*any = true;
		}
		c = end;
	}
	return 0;
}

static int write_all(struct wide *w, const struct blk_qcow2_amend *a)
{
	struct blk_qcow2 *q = w->q;
	uint64_t at = w->off + w->table * q->cs;
	int ret = 0;

	for (uint64_t i = 0; i < w->blocks && !ret; i++) {
		bool any;

		ret = fill_block(w, i, &any);
		if (!ret)	/* all of them: the area is counted as used */
			ret = blk_file_write(q->f, w->buf, q->cs,
					     at + i * q->cs);
		w->rt[i] = htobe64(at + i * q->cs);
		blk_amend_progress(a, i + 1, w->blocks);
	}
	if (!ret)
		ret = blk_file_write(q->f, w->rt, w->table * q->cs, w->off);
	return ret ? ret : blk_file_flush(q->f);
}

/* What the old refcounts were in: to be dropped in the new ones */
static struct dm_qcow_run *list_old(const struct blk_qcow2 *q, size_t *n)
{
	struct dm_qcow_run *runs = calloc(q->rt_n + 1, sizeof(*runs));

	*n = 0;
	if (!runs)
		return NULL;
	runs[(*n)++] = (struct dm_qcow_run){
		.offset = q->h.refcount_table_offset,
		.length = (uint64_t)q->h.refcount_table_clusters * q->cs,
	};
	for (size_t i = 0; i < q->rt_n; i++)
		if (q->rt[i])
			runs[(*n)++] = (struct dm_qcow_run){
				.offset = q->rt[i], .length = q->cs,
			};
	return runs;
}

/* The table in memory, slots and all, must be the disk's again. */
static int reload(struct blk_qcow2 *q, struct blk_error *e)
{
	blk_slots_free(q);
	free(q->rt);
	q->rt = NULL;
	q->rt_n = 0;
	q->rb_bits = blk_refcount_block_bits(q->h.cluster_bits,
					     q->h.refcount_order);
	blk_alloc_forget(q);
	q->stuck = blk_rt_load(q, e) < 0;
	if (q->stuck)
		return -EIO;
	return q->rt_why ? blk_q_corrupt(q, e, q->rt_why) :
		blk_alloc_prepare(q, e);
}

static int switch_to(struct wide *w, struct blk_error *e)
{
	struct blk_qcow2 *q = w->q;
	struct dm_qcow_run *old;
	struct blk_head_new n;
	size_t n_old;
	int ret;

	old = list_old(q, &n_old);
	if (!old)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	blk_head_keep(q, &n);
	n.h.refcount_order = w->order;
	n.h.refcount_table_offset = w->off;
	n.h.refcount_table_clusters = (uint32_t)w->table;
	ret = blk_head_put(q, &n, e);
	if (ret < 0)
		q->stuck = true;	/* which are they now? */
	if (!ret)
		ret = reload(q, e);
	if (!ret && blk_release_runs(q, old, n_old) < 0)
		q->leaked = true;
	free(old);
	return ret;
}

static int change_width(struct wide *w, const struct blk_qcow2_amend *a,
			struct blk_error *e)
{
	struct blk_qcow2 *q = w->q;
	int ret = all_counts_fit(w);

	if (ret == -ERANGE)
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' cannot be amended: a refcount is larger than %u bits can say (snapshots)",
				     q->f->path, 1U << w->order);
	if (!ret)
		ret = find_area(w);
	if (!ret && (posix_memalign((void **)&w->buf, 4096,
				    BLK_MAX(q->cs, 4096U)) ||
		     posix_memalign((void **)&w->rt, 4096,
				    blk_align_up(w->table * q->cs, 4096))))
		ret = -ENOMEM;
	if (!ret) {
		memset(w->rt, 0, w->table * q->cs);
		ret = write_all(w, a);
	}
	if (ret < 0) {
		q->leaked = true;
		return blk_q_io_error(q, e, ret, "write the refcounts");
	}
	return switch_to(w, e);
}

int blk_amend_refcount_bits(struct blk_qcow2 *q,
			    const struct blk_qcow2_amend *a,
			    struct blk_error *e)
{
	struct wide w = { .q = q };
	int ret;

	while (1U << w.order < a->refcount_bits)
		w.order++;
	if (w.order == q->h.refcount_order)
		return 0;
	w.bits = blk_refcount_block_bits(q->h.cluster_bits, w.order);
	ret = change_width(&w, a, e);
	free(w.buf);
	free(w.rt);
	return ret;
}
