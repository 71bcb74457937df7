// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The cluster allocator: durable grants.
 *
 * Owns the free-space state (q->hint, q->end, q->fresh_from).  Must not use a
 * cluster of metadata, whatever its refcount says, and must not allocate
 * memory once it is prepared.  Locking: the public functions take q->lock.
 *
 * A grant is: choose clusters (refcounts change in slots only), grow the file,
 * zero what was in use before, claim new refcount blocks, write the blocks,
 * flush.  Until that flush nobody has heard of the clusters, so that an error
 * anywhere forgets the slots, and a crash leaves at most leaks.
 */
#include <errno.h>
#include <string.h>

#include "base/stop.h"
#include "fmt/qcow2_int.h"

#define MAX_REUSED	64U	/* runs of reused space in one grant */
#define MAX_BARREN	64U	/* blocks read in one grant without a find */
#define MAX_END_BLOCKS	64U	/* blocks read to find the end */

static uint64_t block_mask(const struct blk_qcow2 *q)
{
	return (1ULL << q->rb_bits) - 1;
}

int blk_alloc_find_end(struct blk_qcow2 *q, uint64_t *end, bool *exact)
{
	uint64_t meta = (blk_meta_end(&q->meta) + q->cs - 1) >>
		q->h.cluster_bits;
	unsigned int reads = 0;
	uint64_t used = 0;

	*exact = true;
	for (uint64_t i = q->rt_n; i-- && !used;) {
		struct blk_slot *s;
		int ret;

		if (!q->rt[i])
			continue;
		if (reads++ == MAX_END_BLOCKS) {
			*exact = false;
			used = (i + 1) << q->rb_bits;
			break;
		}
		ret = blk_slot_get(q, i, &s);
		if (ret < 0)
			return ret;
		used = blk_refcount_used_end(s->buf, q->h.refcount_order,
					     1ULL << q->rb_bits);
		if (used)
			used += i << q->rb_bits;
	}
	*end = BLK_MAX(used, meta);
	return 0;
}

static int prepare_memory(struct blk_qcow2 *q)
{
	int ret = 0;

	if (!q->slot)
		ret = blk_slots_alloc(q);
	if (!ret && !q->freed) {
		q->freed = calloc(BLK_MAX_FREED, sizeof(*q->freed));
		ret = q->freed ? 0 : -ENOMEM;
	}
	if (!ret && !q->sector &&
	    posix_memalign((void **)&q->sector, 4096, 4096))
		ret = -ENOMEM;
	if (!ret)	/* each table entry may get a block */
		ret = blk_meta_reserve(&q->meta, q->meta.n + q->rt_n + 256);
	return ret;
}

int blk_alloc_prepare(struct blk_qcow2 *q, struct blk_error *e)
{
	int64_t size;
	bool exact;
	int ret;

	if (q->ready)
		return 0;
	if (!q->f->writable)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "'%s' is open for reading only",
				     q->f->path);
	if (q->cs < q->f->align)
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "the clusters of '%s' are smaller than the blocks of what it is on",
				     q->f->path);
	if (q->h.incompatible_features & QCOW2_INCOMPAT_DIRTY && !q->repairing)
		return blk_error_set(e, BLK_ERR_FAILED, EUCLEAN,
				     "the refcounts of '%s' are not up to date (dirty bit)",
				     q->f->path);
	if (!q->meta.run) {
		ret = blk_meta_collect(q, &q->meta, e);
		if (ret < 0)
			return ret;
	}
	ret = prepare_memory(q);
	if (!ret)
		ret = blk_alloc_find_end(q, &q->end, &exact);
	size = blk_q_rounded_size(q);
	if (!ret && size < 0)
		ret = (int)size;
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read the refcounts");
	q->hint = 0;
	q->fresh_from = q->f->is_bdev ? UINT64_MAX : (uint64_t)size;
	q->announced = 0;	/* a predecessor may have died before it told */
	q->ready = true;
	return 0;
}

void blk_alloc_forget(struct blk_qcow2 *q)
{
	free(q->meta.run);
	memset(&q->meta, 0, sizeof(q->meta));
	q->ready = false;
}

/* State of one attempt */
struct picker {
	struct blk_qcow2 *q;
	struct dm_qcow_run *runs;
	size_t n, max;
	uint64_t want;		/* clusters still wanted */
	uint64_t limit;		/* no cluster at or above it */
	uint64_t c;		/* where the search is */
	uint64_t top;		/* one more than the highest cluster taken */
	uint64_t old_end;	/* clusters of the file before */
	uint64_t low;		/* lowest cluster taken behind it */
	uint64_t hint;		/* the new q->hint */
	bool jumped;		/* c went over free clusters or unread blocks */
	bool patient;		/* search everything before giving up */
	unsigned int reused, barren;
	unsigned int new_blocks;
};

static void jump_to_end(struct picker *p)
{
	if (!p->jumped)
		p->hint = p->c;
	p->jumped = true;
	p->c = BLK_MAX(p->c, p->q->end);
}

/* Clusters [a, b) will be used. */
static void note_range(struct picker *p, uint64_t a, uint64_t b)
{
	p->top = BLK_MAX(p->top, b);
	if (b > p->old_end)
		p->low = BLK_MIN(p->low, BLK_MAX(a, p->old_end));
}

/* Adds free clusters [a, b) to the runs. */
static void take(struct picker *p, struct blk_slot *s, uint64_t a, uint64_t b)
{
	struct blk_qcow2 *q = p->q;
	bool fresh = a << q->h.cluster_bits >= q->fresh_from;
	uint32_t flags = fresh ? DM_QCOW_RUN_ZEROED : 0;
	uint64_t off = a << q->h.cluster_bits;
	struct dm_qcow_run *last = p->n ? &p->runs[p->n - 1] : NULL;

	for (uint64_t c = a; c < b; c++)
		blk_slot_set(q, s, c & block_mask(q), 1);
	if (last && last->offset + last->length == off &&
	    last->flags == flags) {
		last->length += (b - a) << q->h.cluster_bits;
	} else {
		p->runs[p->n++] = (struct dm_qcow_run){
			.offset = off,
			.length = (b - a) << q->h.cluster_bits,
			.flags = flags,
		};
		p->reused += !fresh;
	}
	p->want -= b - a;
	p->barren = 0;
	note_range(p, a, b);
	p->c = b;
}

/*
 * Cuts [a, b) at metadata and where fresh space begins.  Returns an empty
 * range (a == b, go on at b) where the first cluster can't be had.
 */
static int clip(struct picker *p, uint64_t *a, uint64_t *b)
{
	struct blk_qcow2 *q = p->q;
	uint64_t off = *a << q->h.cluster_bits;
	struct blk_meta_run *m = blk_meta_find(&q->meta, off);
	uint64_t fresh = q->fresh_from >> q->h.cluster_bits;

	if (m && m->off <= off) {
		if (m->kind != BLK_META_ACTIVE_L2 &&
		    m->kind != BLK_META_RETIRED)
			return -EUCLEAN;
		*a = *b = BLK_MIN(*b, (m->off + m->len) >> q->h.cluster_bits);
		return 0;
	}
	if (m)
		*b = BLK_MIN(*b, m->off >> q->h.cluster_bits);
	if (*a < fresh)
		*b = BLK_MIN(*b, fresh);
	return 0;
}

/* Takes what is free in one block's clusters [p->c, stop). */
static int pick_in_block(struct picker *p, struct blk_slot *s, uint64_t stop)
{
	struct blk_qcow2 *q = p->q;
	uint64_t base = p->c & ~block_mask(q);
	uint32_t order = q->h.refcount_order;

	while (p->want && p->c < stop) {
		uint64_t a, b;
		int ret;

		a = base + blk_refcount_find(s->buf, order, p->c - base,
					     stop - base, 0);
		if (a == stop) {
			p->c = stop;
			break;
		}
		b = base + blk_refcount_find(s->buf, order, a - base,
					     BLK_MIN(stop, a + p->want) - base,
					     1);
		ret = clip(p, &a, &b);
		if (ret < 0)
			return ret;
		p->c = a;
		if (a == b)
			continue;
		if (p->n == p->max)
			return 1;
		if (a << q->h.cluster_bits < q->fresh_from &&
		    p->reused >= MAX_REUSED && !p->jumped && a < q->end) {
			jump_to_end(p);
			return 0;
		}
		take(p, s, a, b);
	}
	return 0;
}

/* No block covers p->c: the first cluster of its range becomes one. */
static int add_block(struct picker *p, uint64_t idx, struct blk_slot **s)
{
	struct blk_qcow2 *q = p->q;
	uint64_t c = idx << q->rb_bits;
	uint64_t stop = BLK_MIN((idx + 1) << q->rb_bits, p->limit);
	int ret;

	while (c < stop) {
		uint64_t off = c << q->h.cluster_bits;
		struct blk_meta_run *m = blk_meta_find(&q->meta, off);

		if (!m || m->off > off)
			break;
		c = (m->off + m->len) >> q->h.cluster_bits;
	}
	if (c >= stop)
		return -ENOSPC;
	ret = blk_slot_new(q, idx, c << q->h.cluster_bits, s);
	if (ret < 0)
		return ret;
	blk_slot_set(q, *s, c & block_mask(q), 1);
	blk_scan_touch(q, c, 1);
	p->new_blocks++;
	note_range(p, c, c + 1);
	return 0;
}

static int get_block(struct picker *p, uint64_t idx, struct blk_slot **s)
{
	int ret = blk_slot_get(p->q, idx, s);

	if (ret == -ENOENT)
		ret = add_block(p, idx, s);
	return ret;
}

/* 0: go on; 1: enough for this time; negative: error */
static int pick_step(struct picker *p)
{
	struct blk_qcow2 *q = p->q;
	uint64_t idx = p->c >> q->rb_bits;
	uint64_t stop = BLK_MIN((idx + 1) << q->rb_bits, p->limit);
	struct blk_slot *s;
	int ret;

	if (idx >= q->rt_n) {
		if (p->n || p->new_blocks)
			return 1;
		ret = blk_grow_table(q, idx + 1);
		p->c = BLK_MAX(p->c, q->end);
		return ret;
	}
	if (!p->patient && !p->jumped && p->barren++ >= MAX_BARREN &&
	    p->c < q->end) {
		jump_to_end(p);
		return 0;
	}
	ret = get_block(p, idx, &s);
	if (ret == -ENOBUFS)
		return 1;
	if (ret == -ENOSPC) {
		p->c = stop;
		return 0;
	}
	return ret < 0 ? ret : pick_in_block(p, s, stop);
}

/* Chooses clusters; their refcounts are 1 in the slots. */
static int pick(struct picker *p)
{
	int ret = 0;

	p->c = p->hint = p->q->hint;
	while (!ret && p->want && p->c < p->limit)
		ret = pick_step(p);
	if (!ret && !p->n && p->jumped && !p->patient) {
		/* nothing behind the end: look at all that was passed by */
		p->patient = true;
		p->jumped = false;
		p->c = p->hint;
		while (!ret && p->want && p->c < p->limit)
			ret = pick_step(p);
	}
	if (!p->jumped)
		p->hint = p->c;
	return ret < 0 ? ret : 0;
}

static void untake(struct blk_qcow2 *q, const struct dm_qcow_run *r)
{
	uint64_t c = r->offset >> q->h.cluster_bits;
	uint64_t end = c + (r->length >> q->h.cluster_bits);

	for (; c < end; c++) {
		struct blk_slot *s;

		/* dirty, so it is in memory */
		if (!blk_slot_get(q, c >> q->rb_bits, &s))
			blk_slot_set(q, s, c & block_mask(q), 0);
	}
}

/* What is zeroes in the file is not zeroes to the guest. */
static bool is_encrypted(const struct blk_qcow2 *q)
{
	return q->h.crypt_method != QCOW2_CRYPT_NONE;
}

/* Reused space is zeroed; runs that the host has no room for are dropped. */
static int zero_reused(struct picker *p)
{
	struct blk_qcow2 *q = p->q;
	size_t kept = 0;

	for (size_t i = 0; i < p->n; i++) {
		struct dm_qcow_run *r = &p->runs[i];
		int ret = 0;

		if (!(r->flags & DM_QCOW_RUN_ZEROED) && !q->as_they_are &&
		    !(is_encrypted(q) && q->f->is_bdev)) {
			ret = blk_file_zero(q->f, r->offset, r->length);
			if (!ret)
				r->flags |= DM_QCOW_RUN_ZEROED;
		}
		if (ret == -ENOSPC || ret == -EDQUOT) {
			untake(q, r);
			p->hint = BLK_MIN(p->hint,
					  r->offset >> q->h.cluster_bits);
			continue;
		}
		if (ret < 0 && ret != -EOPNOTSUPP)
			return ret;
		p->runs[kept++] = *r;
	}
	p->n = kept;
	return kept ? 0 : -ENOSPC;
}

static int claim_blocks(struct picker *p)
{
	struct blk_qcow2 *q = p->q;

	if (!q->ops || !q->ops->claim || !p->new_blocks)
		return 0;
	for (size_t i = 0; i < q->n_slots; i++) {
		struct dm_qcow_run run = { .length = q->cs };
		int ret;

		if (!q->slot[i].fresh)
			continue;
		run.offset = q->rt[q->slot[i].idx];
		ret = q->ops->claim(q->opaque, &run, 1);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static void finish(struct picker *p)
{
	struct blk_qcow2 *q = p->q;

	q->hint = p->hint;
	q->end = BLK_MAX(q->end, p->top);
	if (!q->f->is_bdev)
		q->fresh_from = BLK_MAX(q->fresh_from,
					p->top << q->h.cluster_bits);
	for (size_t i = 0; i < p->n; i++)
		blk_scan_touch(q, p->runs[i].offset >> q->h.cluster_bits,
			       p->runs[i].length >> q->h.cluster_bits);
}

/* All or nothing; on failure nothing has changed but leaks on disk. */
static int attempt(struct picker *p)
{
	struct blk_qcow2 *q = p->q;
	int ret = pick(p);

	if (!ret && !p->n)
		ret = -ENOSPC;
	if (!ret)
		ret = blk_grow_file(q, p->low << q->h.cluster_bits,
				    p->top << q->h.cluster_bits);
	blk_stop_point("alloc-grown");
	if (!ret)
		ret = zero_reused(p);
	blk_stop_point("alloc-zeroed");
	if (!ret)
		ret = claim_blocks(p);
	blk_stop_point("alloc-claimed");
	if (ret < 0) {
		blk_slots_abort(q, false);
		return ret;
	}
	ret = blk_slots_commit(q);
	blk_stop_point("alloc-committed");
	if (!ret)
		finish(p);
	return ret;
}

/* Less and less, and in the end only what is inside the file already. */
int blk_alloc_runs(struct blk_qcow2 *q, uint64_t clusters,
		   struct dm_qcow_run *runs, size_t *n)
{
	uint64_t limit = blk_grow_limit(q);
	uint64_t want = clusters;

	for (;;) {
		int64_t size = blk_q_rounded_size(q);
		struct picker p = {
			.q = q, .runs = runs, .max = *n,
			.want = want ? want : clusters,
			.low = UINT64_MAX >> q->h.cluster_bits,
		};
		int ret;

		if (size < 0)
			return (int)size;
		p.old_end = (uint64_t)size >> q->h.cluster_bits;
		p.limit = want ? limit : BLK_MIN(p.old_end, limit);
		ret = attempt(&p);
		if (ret != -ENOSPC || !want) {
			*n = p.n;
			return ret;
		}
		want /= 8;
	}
}

static int alloc_error(const struct blk_qcow2 *q, int ret, struct blk_error *e)
{
	if (ret == -ENOSPC)
		return blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				     "no space left for '%s'", q->f->path);
	if (ret == -EUCLEAN)
		return blk_q_corrupt(q, e,
				     "a cluster that is in use has the refcount 0");
	return blk_q_io_error(q, e, ret, "allocate clusters");
}

static int alloc(struct blk_qcow2 *q, uint64_t bytes, bool as_they_are,
		 struct dm_qcow_run *runs, size_t *n, struct blk_error *e)
{
	uint64_t clusters;
	int ret;

	blk_guard_mutex(&q->lock);
	q->as_they_are = as_they_are;
	ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	if (!bytes || !*n)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "nothing to allocate");
	clusters = (bytes >> q->h.cluster_bits) + !!(bytes & (q->cs - 1));
	ret = q->stuck ? -EIO : blk_alloc_runs(q, clusters, runs, n);
	if (ret < 0) {
		*n = 0;
		return alloc_error(q, ret, e);
	}
	for (size_t i = 0; i < *n && is_encrypted(q); i++)
		runs[i].flags &= ~DM_QCOW_RUN_ZEROED;
	return 0;
}

int blk_qcow2_alloc(struct blk_qcow2 *q, uint64_t bytes,
		    struct dm_qcow_run *runs, size_t *n, struct blk_error *e)
{
	return alloc(q, bytes, false, runs, n, e);
}

int blk_qcow2_alloc_as_is(struct blk_qcow2 *q, uint64_t bytes,
			  struct dm_qcow_run *runs, size_t *n,
			  struct blk_error *e)
{
	return alloc(q, bytes, q->f->slow_zero, runs, n, e);
}

bool blk_qcow2_slow_zero(const struct blk_qcow2 *q)
{
	return q->f->slow_zero && !is_encrypted(q);
}
