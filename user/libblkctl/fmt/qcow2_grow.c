// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Growing the file, and growing the refcount table.
 *
 * Owns the file's size while the image is open.  Must not run while slots are
 * dirty (the table: it commits on its own).  Locking: the caller holds q->lock.
 *
 * A larger table (QEMU: qcow2_refcount_area) is written, with new blocks that
 * describe it, behind everything in use; flush; then one sector of the header
 * changes; flush; only then the old table's clusters are freed.  They are not
 * given out again before the next attach, for the kernel has them claimed.
 */
#include <errno.h>
#include <string.h>

#include "base/stop_int.h"
#include "fmt/qcow2_int.h"

#define MIN_STEP	(1ULL << 20)
#define MAX_STEP	(256ULL << 20)
#define MAX_OFFSET	(1ULL << 56)

static bool is_full(int err)
{
	return err == -ENOSPC || err == -EDQUOT || err == -EFBIG;
}

uint64_t blk_grow_limit(const struct blk_qcow2 *q)
{
	int64_t size = q->f->is_bdev ? blk_file_size(q->f) : 0;

	if (size < 0)
		return 0;
	return (q->f->is_bdev ? (uint64_t)size : MAX_OFFSET) >>
		q->h.cluster_bits;
}

/* [from, target) is allocated; what lies between the file's end and it not. */
static int extend(struct blk_qcow2 *q, uint64_t size, uint64_t from,
		  uint64_t target)
{
	int ret = blk_file_zero(q->f, from, target - from);

	if (ret == -EOPNOTSUPP)		/* sparse is what there is */
		return blk_file_truncate(q->f, target);
	if (ret < 0)			/* nothing half-grown stays behind */
		blk_file_truncate(q->f, size);
	return ret;
}

/* QEMU may leave a file that ends within its last cluster, or sector. */
static int whole_units(struct blk_qcow2 *q, int64_t *size, uint64_t unit)
{
	uint64_t to = blk_align_up((uint64_t)*size, unit);
	int ret = to != (uint64_t)*size ? blk_file_truncate(q->f, to) : 0;

	if (!ret)
		*size = (int64_t)to;
	return ret;
}

int blk_grow_file(struct blk_qcow2 *q, uint64_t from, uint64_t need)
{
	uint64_t unit = BLK_MAX(q->cs, q->f->block);
	int64_t size = blk_file_size(q->f);
	uint64_t step, target;
	int ret = 0;

	if (size < 0)
		return (int)size;
	if (q->f->is_bdev)
		return need > (uint64_t)size ? -ENOSPC : 0;
	need = blk_align_up(need, unit);
	if (need > (uint64_t)size) {
		ret = whole_units(q, &size, unit);
		if (ret < 0)
			return is_full(ret) ? -ENOSPC : ret;
	}
	if (need > (uint64_t)size) {
		step = BLK_MIN(BLK_MAX((uint64_t)size / 16, MIN_STEP),
			       MAX_STEP);
		target = BLK_MAX(need, blk_align_up(size + step, unit));
		from = BLK_MAX(from, (uint64_t)size);
		ret = extend(q, size, from, target);
		if (is_full(ret) && target > need)
			ret = extend(q, size, from, need);
		if (ret < 0)
			return is_full(ret) ? -ENOSPC : ret;
		size = blk_file_size(q->f);
		if (size < 0)
			return (int)size;
	}
	if ((uint64_t)size > q->announced) {
		blk_stop_point("file-grown");
		if (q->ops && q->ops->grown)
			ret = q->ops->grown(q->opaque, size);
		blk_stop_point("file-announced");
		if (ret < 0)
			return ret;
		q->announced = size;
	}
	return 0;
}

/* A new table and the blocks that describe it: [first, first+blocks+table) */
struct area {
	uint64_t first;		/* cluster */
	uint64_t blocks;	/* clusters of new blocks, in front */
	uint64_t table;		/* clusters of the table, behind */
	uint64_t *rt;
	uint64_t rt_n;
};

static uint64_t area_end(const struct area *a)
{
	return a->first + a->blocks + a->table;
}

static bool has_block(const struct blk_qcow2 *q, uint64_t idx)
{
	return idx < q->rt_n && q->rt[idx];
}

/* How large it has to be: it must describe itself, which makes it larger. */
static int plan_area(struct blk_qcow2 *q, uint64_t n, struct area *a)
{
	uint64_t max = QCOW2_MAX_REFTABLE_BYTES / 8;
	uint64_t want = BLK_MAX(n, BLK_MIN(max, q->rt_n + q->rt_n / 2 + 1));
	uint64_t before;

	a->first = q->end;
	do {
		uint64_t last;

		before = a->blocks + a->table;
		a->table = blk_align_up(want * 8, q->cs) >> q->h.cluster_bits;
		last = (area_end(a) - 1) >> q->rb_bits;
		want = BLK_MAX(want, last + 1);
		if (want > max || area_end(a) > blk_grow_limit(q))
			return -ENOSPC;
		a->blocks = 0;
		for (uint64_t i = a->first >> q->rb_bits; i <= last; i++)
			a->blocks += !has_block(q, i);
	} while (a->blocks + a->table != before);
	a->rt_n = a->table * q->cs / 8;
	return 0;
}

int blk_grow_claim(struct blk_qcow2 *q, uint64_t off, uint64_t len)
{
	struct dm_qcow_run run = { .offset = off, .length = len };

	return q->ops && q->ops->claim ?
		q->ops->claim(q->opaque, &run, 1) : 0;
}

static int claim_area(struct blk_qcow2 *q, const struct area *a)
{
	return blk_grow_claim(q, a->first * q->cs, (a->blocks + a->table) * q->cs);
}

/* The block of @idx, a new empty one at cluster *next if there is none */
static int get_area_block(struct blk_qcow2 *q, uint64_t idx, uint64_t *next,
			  struct blk_slot **s)
{
	bool is_new = !has_block(q, idx);
	int ret;

	if (is_new)	/* the slots know blocks by the table only */
		q->rt[idx] = *next * q->cs;
	ret = blk_slot_get(q, idx, s);
	if (ret < 0) {
		if (is_new)
			q->rt[idx] = 0;
		return ret;
	}
	if (is_new) {
		memset((*s)->buf, 0, q->cs);
		(*s)->lo = 0;
		(*s)->hi = (uint32_t)q->cs;
		(*next)++;
	}
	return 0;
}

/* Counts the area's clusters in the blocks that cover it. */
static int write_area_blocks(struct blk_qcow2 *q, const struct area *a)
{
	uint64_t next = a->first;	/* where the next new block goes */
	uint64_t c = a->first;

	while (c < area_end(a)) {
		uint64_t idx = c >> q->rb_bits;
		uint64_t stop = BLK_MIN((idx + 1) << q->rb_bits, area_end(a));
		struct blk_slot *s;
		int ret = get_area_block(q, idx, &next, &s);

		if (ret == -ENOBUFS) {
			ret = blk_slots_commit(q);
			if (!ret)
				continue;
		}
		if (ret < 0)
			return ret;
		for (; c < stop; c++)
			blk_slot_set(q, s, c & ((1ULL << q->rb_bits) - 1), 1);
	}
	return blk_slots_commit(q);
}

static int switch_header(struct blk_qcow2 *q)
{
	int ret;

	blk_header_emit(&q->h, q->head);
	ret = blk_q_write_head(q, 48, 12);
	if (ret < 0)
		q->stuck = true;	/* which table is it now? */
	return ret;
}

/* q->rt and q->h already name the new table; on failure the caller undoes. */
static int write_area(struct blk_qcow2 *q, const struct area *a)
{
	int ret = write_area_blocks(q, a);

	blk_stop_point("table-blocks-written");
	if (!ret)
		ret = blk_rt_store(q, 0, q->rt_n);
	blk_stop_point("table-written");
	if (!ret)
		ret = blk_file_flush(q->f);
	return ret ? ret : switch_header(q);
}

static void retire_old_table(struct blk_qcow2 *q, uint64_t off, uint64_t len)
{
	struct dm_qcow_run run = { .offset = off, .length = len };
	struct blk_meta_run *m = blk_meta_find(&q->meta, off);

	if (m && m->off == off)
		m->kind = BLK_META_RETIRED;
	if (blk_release_runs(q, &run, 1) < 0)
		q->leaked = true;
}

static int record_area(struct blk_qcow2 *q, const struct area *a)
{
	uint64_t c = a->first;
	int ret = 0;

	for (uint64_t i = 0; i < a->blocks && !ret; i++, c++)
		ret = blk_meta_add(&q->meta, c * q->cs, q->cs, BLK_META_OWN);
	return ret ? ret : blk_meta_add(&q->meta, c * q->cs,
					a->table * q->cs, BLK_META_OWN);
}

static void forget_slots(struct blk_qcow2 *q)
{
	blk_slots_abort(q, true);
	for (size_t i = 0; i < q->n_slots; i++)
		q->slot[i].idx = BLK_NO_BLOCK;
}

static int install_area(struct blk_qcow2 *q, struct area *a)
{
	struct qcow2_header old = q->h;
	uint64_t *old_rt = q->rt;
	size_t old_n = q->rt_n;
	int ret;

	q->rt = a->rt;
	q->rt_n = a->rt_n;
	q->h.refcount_table_offset = (a->first + a->blocks) * q->cs;
	q->h.refcount_table_clusters = (uint32_t)a->table;
	ret = write_area(q, a);
	/* Claimed and perhaps counted: not to be used again either way. */
	q->end = area_end(a);
	q->fresh_from = BLK_MAX(q->fresh_from, q->end * q->cs);
	blk_scan_touch(q, a->first, a->blocks + a->table);
	if (ret < 0) {
		q->rt = old_rt;
		q->rt_n = old_n;
		q->h = old;
		blk_header_emit(&q->h, q->head);
		forget_slots(q);
		free(a->rt);
		return ret;
	}
	free(old_rt);
	blk_stop_point("table-switched");
	retire_old_table(q, old.refcount_table_offset,
			 (uint64_t)old.refcount_table_clusters * q->cs);
	blk_stop_point("table-retired");
	return 0;
}

int blk_grow_table(struct blk_qcow2 *q, uint64_t n)
{
	struct area a = { 0 };
	int ret;

	if (n <= q->rt_n)
		return 0;
	if (q->stuck)
		return -EIO;
	ret = plan_area(q, n, &a);
	if (!ret)
		ret = blk_grow_file(q, a.first * q->cs,
				    area_end(&a) * q->cs);
	if (!ret)
		ret = blk_meta_reserve(&q->meta, q->meta.n + a.rt_n + 256);
	if (ret < 0)
		return ret;
	if (posix_memalign((void **)&a.rt, 4096,
			   blk_align_up(a.rt_n * 8, 4096)))
		return -ENOMEM;
	memset(a.rt, 0, a.rt_n * 8);
	memcpy(a.rt, q->rt, q->rt_n * 8);
	ret = record_area(q, &a);
	if (!ret)
		ret = claim_area(q, &a);
	if (ret < 0) {
		free(a.rt);
		return ret;
	}
	return install_area(q, &a);
}

/* The block that counts cluster @c; a new one goes to cluster *next. */
static int get_or_add_block(struct blk_qcow2 *q, uint64_t c, uint64_t *next,
			    struct blk_slot **s)
{
	uint64_t idx = c >> q->rb_bits;
	int ret;

	if (has_block(q, idx))
		return blk_slot_get(q, idx, s);
	ret = blk_slot_new(q, idx, *next * q->cs, s);
	if (!ret)
		(*next)++;
	return ret;
}

/* As write_area_blocks(), for blocks that the table in use will name */
static int count_area(struct blk_qcow2 *q, const struct area *a)
{
	uint64_t next = a->first;
	uint64_t c = a->first;

	while (c < area_end(a)) {
		struct blk_slot *s;
		uint64_t stop = BLK_MIN(((c >> q->rb_bits) + 1) << q->rb_bits,
					area_end(a));
		int ret = get_or_add_block(q, c, &next, &s);

		if (ret == -ENOBUFS) {
			ret = blk_slots_commit(q);
			if (!ret)
				continue;
		}
		if (ret < 0)
			return ret;
		for (; c < stop; c++)
			blk_slot_set(q, s, c & ((1ULL << q->rb_bits) - 1), 1);
	}
	return blk_slots_commit(q);
}

/* Behind everything: new blocks in front, then @clusters in one piece. */
static int plan_table_area(struct blk_qcow2 *q, uint64_t clusters,
			   struct area *a)
{
	for (;;) {
		uint64_t blocks, last;
		int ret;

		*a = (struct area){ .first = q->end, .table = clusters };
		do {
			blocks = a->blocks;
			last = (area_end(a) - 1) >> q->rb_bits;
			a->blocks = 0;
			for (uint64_t i = a->first >> q->rb_bits; i <= last; i++)
				a->blocks += !has_block(q, i);
		} while (a->blocks != blocks);
		if (area_end(a) > blk_grow_limit(q))
			return -ENOSPC;
		if (last < q->rt_n)
			return 0;
		ret = blk_grow_table(q, last + 1);
		if (ret < 0)
			return ret;
	}
}

static int area_at_end(struct blk_qcow2 *q, uint64_t clusters, uint64_t *off)
{
	struct area a;
	int ret = plan_table_area(q, clusters, &a);

	if (!ret)
		ret = blk_grow_file(q, a.first * q->cs, area_end(&a) * q->cs);
	if (!ret)
		ret = claim_area(q, &a);
	if (ret < 0)
		return ret;
	q->end = area_end(&a);
	if (!q->f->is_bdev)
		q->fresh_from = BLK_MAX(q->fresh_from, q->end * q->cs);
	blk_scan_touch(q, a.first, a.blocks + a.table);
	*off = (a.first + a.blocks) * q->cs;
	ret = count_area(q, &a);
	if (ret < 0)
		blk_slots_abort(q, true);
	return ret;
}

int blk_grow_table_area(struct blk_qcow2 *q, uint64_t clusters, uint64_t *off)
{
	struct dm_qcow_run runs[16];
	size_t n = BLK_COUNT(runs);
	int ret;

	if (q->stuck)
		return -EIO;
	/* where there is room, if that is in one piece */
	ret = blk_alloc_runs(q, clusters, runs, &n);
	if (!ret && n == 1 && runs[0].length == clusters * q->cs) {
		*off = runs[0].offset;
		return blk_grow_claim(q, *off, runs[0].length);
	}
	if (!ret)
		ret = blk_release_runs(q, runs, n);
	else if (ret == -ENOSPC)
		ret = 0;
	return ret ? ret : area_at_end(q, clusters, off);
}
