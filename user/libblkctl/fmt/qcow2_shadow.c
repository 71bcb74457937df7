// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * New refcounts beside the old ones.
 *
 * Owns struct blk_shadow.  Must not write to anything that the image refers to,
 * but for the first sector of its header.  Locking: the caller holds q->lock.
 *
 * COPIED bits must agree with refcounts at every moment, and both are spread
 * over the file; written in place, a crash leaves them different.  Here every
 * refcount block that changes, and the refcount table, is written to a new
 * place, as the L1 and L2 tables and the snapshot table are by the caller.  The
 * header names all of them within its first 72 bytes, one sector: before it is
 * written the new clusters are leaks, afterwards the old ones are free.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_shadow_int.h"

#define SLOT_BYTES	(16U << 20)
#define MIN_SLOTS	8U
#define MAX_SLOTS	4096U
#define MAX_FREED	(1U << 20)	/* runs; more are not given to the host */
#define POOL_RUNS	256U
#define SECTOR		512U

static uint64_t block_mask(const struct blk_qcow2 *q)
{
	return (1ULL << q->rb_bits) - 1;
}

static uint64_t count_blocks(const struct blk_qcow2 *q)
{
	uint64_t n = 0;

	for (size_t i = 0; i < q->rt_n; i++)
		n += q->rt[i] != 0;
	return n;
}

static int room_for(struct dm_qcow_run **run, size_t *room, size_t n)
{
	struct dm_qcow_run *p;

	if (n <= *room)
		return 0;
	n = BLK_MAX(n, *room * 2);
	p = realloc(*run, n * sizeof(*p));
	if (!p)
		return -ENOMEM;
	*run = p;
	*room = n;
	return 0;
}

/* Clusters one by one, until there are @want of them */
static int fill_pool(struct blk_shadow *s, uint64_t want, uint64_t *have)
{
	struct blk_qcow2 *q = s->q;

	while (*have < want) {
		size_t n = POOL_RUNS;
		int ret = room_for(&s->got, &s->got_room, s->n_got + n);

		if (!ret)
			ret = blk_alloc_runs(q, want - *have,
					     s->got + s->n_got, &n);
		if (ret < 0)
			return ret;
		for (size_t i = 0; i < n; i++)
			*have += s->got[s->n_got++].length >>
				q->h.cluster_bits;
	}
	return 0;
}

static int get_area(struct blk_shadow *s, uint64_t clusters, uint64_t *off)
{
	int ret = room_for(&s->got, &s->got_room, s->n_got + 1);

	if (!ret)
		ret = blk_grow_table_area(s->q, clusters, off);
	if (!ret)
		s->got[s->n_got++] = (struct dm_qcow_run){
			.offset = *off, .length = clusters * s->q->cs,
		};
	return ret;
}

/*
 * The areas come first, then the pool.  Each allocation may add refcount blocks,
 * or make their table larger: then once more.
 */
static int allocate(struct blk_shadow *s, uint64_t tables, uint64_t clusters)
{
	struct blk_qcow2 *q = s->q;
	uint64_t have = 0, rt_clusters;
	int ret = tables ? get_area(s, tables, &s->area) : 0;

	s->area_n = tables;
	s->pool = s->n_got;
	do {
		rt_clusters = q->h.refcount_table_clusters;
		if (!ret)
			ret = get_area(s, rt_clusters, &s->rt_off);
		if (!ret && s->n_got > s->pool + 1) {
			/* the area before was too small: it is pool now */
			have += s->got[s->pool].length >> q->h.cluster_bits;
		}
		if (!ret) {	/* the area stays in front of the pool */
			struct dm_qcow_run r = s->got[s->n_got - 1];

			memmove(s->got + s->pool + 1, s->got + s->pool,
				(s->n_got - 1 - s->pool) * sizeof(r));
			s->got[s->pool] = r;
		}
		while (!ret && have < clusters + count_blocks(q))
			ret = fill_pool(s, clusters + count_blocks(q), &have);
	} while (!ret && rt_clusters != q->h.refcount_table_clusters);
	s->pool++;
	return ret;
}

static int alloc_memory(struct blk_shadow *s)
{
	struct blk_qcow2 *q = s->q;
	size_t n = BLK_MIN(SLOT_BYTES / q->cs, MAX_SLOTS);

	n = BLK_MAX(BLK_MIN(n, q->rt_n), MIN_SLOTS);
	s->rt = malloc(q->rt_n * sizeof(*s->rt));
	s->where = calloc(q->rt_n, sizeof(*s->where));
	s->gone = calloc(q->rt_n, 1);
	s->slot = calloc(n, sizeof(*s->slot));
	if (!s->rt || !s->where || !s->gone || !s->slot ||
	    posix_memalign((void **)&s->mem, 4096,
			   blk_align_up(n * q->cs, 4096)))
		return -ENOMEM;
	memcpy(s->rt, q->rt, q->rt_n * sizeof(*s->rt));
	s->n_slots = n;
	for (size_t i = 0; i < n; i++) {
		s->slot[i].idx = BLK_NO_BLOCK;
		s->slot[i].buf = s->mem + i * q->cs;
	}
	return 0;
}

/* What is allocated is metadata: an L2 entry that names it is damaged. */
static int note_metadata(struct blk_shadow *s)
{
	int ret = 0;

	for (size_t i = 0; i < s->n_got && !ret; i++)
		ret = blk_meta_add(&s->q->meta, s->got[i].offset,
				   s->got[i].length, BLK_META_OWN);
	return ret;
}

int blk_shadow_begin(struct blk_shadow *s, struct blk_qcow2 *q,
		     uint64_t tables, uint64_t clusters)
{
	int ret;

	memset(s, 0, sizeof(*s));
	s->q = q;
	if (q->stuck)
		return -EIO;
	q->as_they_are = true;
	ret = allocate(s, tables, clusters);
	if (!ret)
		ret = alloc_memory(s);
	if (!ret)
		ret = note_metadata(s);
	s->h = q->h;
	return ret;
}

int blk_shadow_take(struct blk_shadow *s, uint64_t *off)
{
	const struct dm_qcow_run *r = &s->got[s->pool];

	if (s->pool >= s->n_got)
		return -EUCLEAN;
	*off = r->offset + s->pool_at * s->q->cs;
	s->pool_at++;
	if (s->pool_at * s->q->cs == r->length) {
		s->pool++;
		s->pool_at = 0;
	}
	return 0;
}

static int store_slot(struct blk_shadow *s, struct blk_shadow_slot *t)
{
	int ret = t->dirty ? blk_file_write(s->q->f, t->buf, s->q->cs,
					    s->rt[t->idx]) : 0;

	if (!ret)
		t->dirty = false;
	return ret;
}

static int evict(struct blk_shadow *s, struct blk_shadow_slot **out)
{
	struct blk_shadow_slot *t = &s->slot[0];
	int ret;

	for (size_t i = 0; i < s->n_slots && t->idx != BLK_NO_BLOCK; i++)
		if (s->slot[i].idx == BLK_NO_BLOCK ||
		    s->slot[i].used < t->used)
			t = &s->slot[i];
	if (t->idx != BLK_NO_BLOCK) {
		ret = store_slot(s, t);
		if (ret < 0)
			return ret;
		s->where[t->idx] = 0;
		t->idx = BLK_NO_BLOCK;
	}
	*out = t;
	return 0;
}

static int get_slot(struct blk_shadow *s, uint64_t idx,
		    struct blk_shadow_slot **out)
{
	struct blk_qcow2 *q = s->q;
	struct blk_shadow_slot *t;
	int ret;

	if (s->last && s->last->idx == idx) {
		*out = s->last;
		return 0;
	}
	if (idx >= q->rt_n || !s->rt[idx])
		return -EUCLEAN;
	if (s->where[idx]) {
		t = &s->slot[s->where[idx] - 1];
	} else {
		ret = evict(s, &t);
		if (!ret)
			ret = blk_file_read(q->f, t->buf, q->cs, s->rt[idx]);
		if (ret < 0)
			return ret;
		t->idx = idx;
		t->dirty = false;
		s->where[idx] = (uint16_t)(t - s->slot + 1);
	}
	t->used = ++s->clock;
	s->last = t;
	*out = t;
	return 0;
}

static int note_freed(struct blk_shadow *s, uint64_t cluster)
{
	uint64_t off = cluster << s->q->h.cluster_bits;
	struct dm_qcow_run *last = s->n_freed ?
		&s->freed[s->n_freed - 1] : NULL;
	int ret;

	if (last && last->offset + last->length == off) {
		last->length += s->q->cs;
		return 0;
	}
	if (s->n_freed == MAX_FREED)
		return 0;
	ret = room_for(&s->freed, &s->freed_room, s->n_freed + 1);
	if (!ret)
		s->freed[s->n_freed++] = (struct dm_qcow_run){
			.offset = off, .length = s->q->cs,
		};
	return ret;
}

/* Clusters of one block, which is at its new place */
static int add_in_block(struct blk_shadow *s, struct blk_shadow_slot *t,
			uint64_t cluster, uint64_t n, int by)
{
	uint32_t order = s->q->h.refcount_order;
	uint64_t max = blk_refcount_max(order), i = cluster & block_mask(s->q);
	int ret = 0;

	t->dirty = true;
	for (uint64_t k = 0; k < n && !ret; k++) {
		uint64_t v = blk_refcount_get(t->buf, order, i + k);

		if (!v)
			return -EUCLEAN;
		if (by > 0 && v >= max)
			return -EOVERFLOW;
		v = by > 0 ? v + 1 : v - 1;
		blk_refcount_set(t->buf, order, i + k, v);
		if (!v)
			ret = note_freed(s, cluster + k);
	}
	return ret;
}

int blk_shadow_add(struct blk_shadow *s, uint64_t cluster, uint64_t n, int by)
{
	struct blk_qcow2 *q = s->q;
	int ret = 0;

	while (n && !ret) {
		uint64_t idx = cluster >> q->rb_bits;
		uint64_t k = BLK_MIN(n, block_mask(q) + 1 -
				     (cluster & block_mask(q)));
		struct blk_shadow_slot *t;

		ret = get_slot(s, idx, &t);
		if (!ret && s->rt[idx] == q->rt[idx])
			ret = blk_shadow_take(s, &s->rt[idx]);
		if (!ret)
			ret = add_in_block(s, t, cluster, k, by);
		cluster += k;
		n -= k;
	}
	return ret;
}

int blk_shadow_drop(struct blk_shadow *s, uint64_t off, uint64_t bytes)
{
	uint32_t bits = s->q->h.cluster_bits;

	return blk_shadow_add(s, off >> bits,
			      blk_align_up(bytes, s->q->cs) >> bits, -1);
}

int blk_shadow_get(struct blk_shadow *s, uint64_t cluster, uint64_t *rc)
{
	struct blk_shadow_slot *t;
	int ret = get_slot(s, cluster >> s->q->rb_bits, &t);

	*rc = ret ? 0 : blk_refcount_get(t->buf, s->q->h.refcount_order,
					 cluster & block_mask(s->q));
	return ret;
}

/* The old blocks and their table are free, too; that changes blocks. */
static int drop_old(struct blk_shadow *s)
{
	struct blk_qcow2 *q = s->q;
	bool again = true;
	int ret = blk_shadow_drop(s, q->h.refcount_table_offset,
				  q->h.refcount_table_clusters * q->cs);

	while (again && !ret) {
		again = false;
		for (size_t i = 0; i < q->rt_n && !ret; i++) {
			if (s->rt[i] == q->rt[i] || s->gone[i])
				continue;
			s->gone[i] = 1;
			again = true;
			ret = blk_shadow_drop(s, q->rt[i], q->cs);
		}
	}
	return ret;
}

static int store_blocks(struct blk_shadow *s)
{
	struct blk_qcow2 *q = s->q;
	uint64_t *be = NULL;
	int ret = 0;

	for (size_t i = 0; i < s->n_slots && !ret; i++)
		ret = store_slot(s, &s->slot[i]);
	if (!ret && posix_memalign((void **)&be, 4096,
				   blk_align_up(q->rt_n * 8, 4096)))
		ret = -ENOMEM;
	if (ret < 0)
		return ret;
	for (size_t i = 0; i < q->rt_n; i++)
		be[i] = htobe64(s->rt[i]);
	ret = blk_file_write(q->f, be, q->rt_n * 8, s->rt_off);
	free(be);
	return ret ? ret : blk_file_flush(q->f);
}

int blk_shadow_publish(struct blk_shadow *s)
{
	struct blk_qcow2 *q = s->q;
	int ret = drop_old(s);

	if (!ret)
		ret = store_blocks(s);
	if (ret < 0)
		return ret;
	s->h.refcount_table_offset = s->rt_off;
	q->h = s->h;
	blk_header_emit(&q->h, q->head);
	s->published = true;
	ret = blk_q_write_head(q, 0, SECTOR);
	if (ret < 0) {
		blk_q_reread_head(q);
		q->stuck = true;	/* which tables are it now? */
	}
	return ret;
}

static void free_memory(struct blk_shadow *s)
{
	free(s->rt);
	free(s->where);
	free(s->gone);
	free(s->slot);
	free(s->mem);
	free(s->got);
	free(s->freed);
}

/* The refcounts on disk are others than those in memory. */
static int reload(struct blk_qcow2 *q)
{
	blk_alloc_forget(q);
	blk_slots_free(q);
	free(q->rt);
	q->rt = NULL;
	return blk_rt_load(q, NULL);
}

void blk_shadow_end(struct blk_shadow *s)
{
	struct blk_qcow2 *q = s->q;
	size_t from = s->published ? s->pool : 0;
	int ret;

	q->as_they_are = false;
	if (q->stuck) {
		q->leaked = true;
		free_memory(s);
		return;
	}
	if (s->published && s->pool < s->n_got) {
		s->got[s->pool].offset += s->pool_at * q->cs;
		s->got[s->pool].length -= s->pool_at * q->cs;
	}
	for (size_t i = 0; i < s->n_freed && s->published; i++)
		blk_file_discard(q->f, s->freed[i].offset,
				 s->freed[i].length);
	ret = reload(q);
	if (!ret)
		ret = blk_alloc_prepare(q, NULL);
	if (!ret && from < s->n_got)
		ret = blk_release_runs(q, s->got + from, s->n_got - from);
	q->leaked |= ret < 0;
	free_memory(s);
}
