// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * An image without zero flags, for version 2: what reads as zeroes becomes
 * unallocated, or where a backing file would show, clusters full of zeroes.
 *
 * Owns the order.  Changes L2 tables of snapshots in place: all that share a
 * table see the same disk as before.  Must not touch a host cluster that an
 * entry keeps in reserve: others may have data in it.  Locking: the caller
 * holds q->lock.
 *
 * For each table: new clusters, counted once for each reference of the table;
 * flush; zeroes; the table; flush.  What tables referred to is dropped when all
 * are done: a count of 1 asks for COPIED in a table that still refers to it.
 * A crash leaks.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_amend_int.h"

/**
 * struct expand - all L2 tables, and one in memory
 * @l2: their offsets, sorted, each once
 * @refs: of the table in memory
 * @freed: what tables referred to, once for each reference
 */
struct expand {
	struct blk_qcow2 *q;
	struct blk_error *e;
	uint64_t *l2;
	size_t n;
	uint64_t *table;
	uint64_t refs;
	struct dm_qcow_run *freed;
	size_t n_freed, room;
	bool changed;
	bool backed;
};

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static int add_l1(void *opaque, uint64_t off, uint64_t len)
{
	struct expand *x = opaque;
	uint64_t n = len / 8, *l1, *p;
	int ret = blk_walk_l1(x->q, off, (uint32_t)n, &l1, x->e);

	if (ret < 0)
		return ret;
	p = realloc(x->l2, (x->n + n + 1) * sizeof(*p));
	if (!p) {
		free(l1);
		return blk_error_set(x->e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	}
	x->l2 = p;
	for (uint64_t i = 0; i < n; i++)
		if (l1[i] & QCOW2_OFFSET_MASK)
			x->l2[x->n++] = l1[i] & QCOW2_OFFSET_MASK;
	free(l1);
	return 0;
}

static int list_tables(struct expand *x)
{
	struct blk_qcow2 *q = x->q;
	size_t n = 0;
	int ret = q->h.l1_size ? add_l1(x, q->h.l1_table_offset,
					q->h.l1_size * 8ULL) : 0;

	if (!ret)
		ret = blk_walk_snapshots(q, NULL, add_l1, x, x->e);
	if (ret < 0)
		return ret;
	if (x->n)
		qsort(x->l2, x->n, sizeof(*x->l2), compare);
	for (size_t i = 0; i < x->n; i++)
		if (!n || x->l2[n - 1] != x->l2[i])
			x->l2[n++] = x->l2[i];
	x->n = n;
	return 0;
}

/* Its count is 1, durably: now as many as there are references. */
static int set_count(struct blk_qcow2 *q, uint64_t cluster, uint64_t refs)
{
	struct blk_slot *s;
	int ret;

	if (refs == 1)
		return 0;
	if (refs > blk_refcount_max(q->h.refcount_order))
		return -EUCLEAN;
	ret = blk_slot_get(q, cluster >> q->rb_bits, &s);
	if (ret < 0)
		return ret;
	blk_slot_set(q, s, cluster & ((1ULL << q->rb_bits) - 1), refs);
	return blk_slots_commit(q);
}

/* Some allocators give what was used before: it is written in any case. */
static int new_zeroes(struct expand *x, uint64_t *off)
{
	struct blk_qcow2 *q = x->q;
	struct dm_qcow_run run;
	size_t n = 1;
	int ret = blk_alloc_runs(q, 1, &run, &n);

	if (ret < 0)
		return ret;
	*off = run.offset;
	ret = set_count(q, run.offset >> q->h.cluster_bits, x->refs);
	if (!ret && !(run.flags & DM_QCOW_RUN_ZEROED)) {
		void *buf;

		if (posix_memalign(&buf, 4096, BLK_MAX(q->cs, 4096U)))
			return -ENOMEM;
		memset(buf, 0, q->cs);
		ret = blk_file_write(q->f, buf, q->cs, run.offset);
		free(buf);
	}
	return ret;
}

static int note_freed(struct expand *x, uint64_t off)
{
	if (x->n_freed + x->refs > x->room) {
		size_t room = 2 * x->room + x->refs + 1024;
		void *p = realloc(x->freed, room * sizeof(*x->freed));

		if (!p)
			return -ENOMEM;
		x->freed = p;
		x->room = room;
	}
	for (uint64_t i = 0; i < x->refs; i++)
		x->freed[x->n_freed++] = (struct dm_qcow_run){
			.offset = off, .length = x->q->cs,
		};
	return 0;
}

static int expand_entry(struct expand *x, uint64_t i)
{
	uint64_t entry = be64toh(x->table[i]), off = 0;
	enum qcow2_cluster_type type = qcow2_l2_type(entry);
	int ret = 0;

	if (type != QCOW2_ZERO_PLAIN && type != QCOW2_ZERO_ALLOC)
		return 0;
	if (type == QCOW2_ZERO_ALLOC)
		ret = note_freed(x, entry & QCOW2_OFFSET_MASK);
	if (ret < 0)
		return ret;
	if (x->backed) {
		ret = new_zeroes(x, &off);
		if (ret < 0)
			return ret;
		if (x->refs == 1)
			off |= QCOW2_ENTRY_COPIED;
	}
	x->table[i] = htobe64(off);
	x->changed = true;
	return 0;
}

static int expand_table(struct expand *x, uint64_t at)
{
	struct blk_qcow2 *q = x->q;
	int ret = blk_file_read(q->f, x->table, q->cs, at);

	x->changed = false;
	if (!ret)
		ret = blk_refcount_read(q, at >> q->h.cluster_bits, &x->refs);
	if (!ret && !x->refs)
		ret = -EUCLEAN;
	for (uint64_t i = 0; i < q->cs / 8 && !ret; i++)
		ret = expand_entry(x, i);
	if (ret < 0 || !x->changed)
		return ret;
	if (x->backed)
		ret = blk_file_flush(q->f);
	if (!ret)
		ret = blk_file_write(q->f, x->table, q->cs, at);
	return ret ? ret : blk_file_flush(q->f);
}

int blk_amend_expand_zeroes(struct blk_qcow2 *q,
			    const struct blk_qcow2_amend *a,
			    struct blk_error *e)
{
	struct expand x = { .q = q, .e = e, .backed = q->backing_file };
	int ret = list_tables(&x);

	if (ret < 0) {
		free(x.l2);
		return ret;
	}
	if (posix_memalign((void **)&x.table, 4096, BLK_MAX(q->cs, 4096U)))
		ret = -ENOMEM;
	for (size_t i = 0; i < x.n && !ret; i++) {
		ret = expand_table(&x, x.l2[i]);
		blk_amend_progress(a, i + 1, x.n);
	}
	if (!ret)
		ret = blk_release_runs(q, x.freed, x.n_freed);
	free(x.l2);
	free(x.table);
	free(x.freed);
	if (ret == -EUCLEAN)
		return blk_q_corrupt(q, e, "its refcounts are not as they must be");
	if (ret < 0)
		q->leaked = true;
	return ret < 0 ? blk_q_io_error(q, e, ret, "expand the zeroes") : 0;
}
