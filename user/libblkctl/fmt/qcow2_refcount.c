// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The refcount table in memory, and a few refcount blocks in slots.
 *
 * Owns q->rt and q->slot.  Blocks are read on demand; slots with changes are
 * never reused before a commit, so memory is bounded and allocated once.  Must
 * not decide what is allocated.  Locking: the caller holds q->lock.
 *
 * Order of a commit: blocks (also new ones), flush, table entries of new
 * blocks, flush.  A crash in between leaves refcounts that are too high, or a
 * new block that nothing points to, never a pointer to an unwritten block.
 */
#include <errno.h>
#include <string.h>

#include "base/stop_int.h"
#include "fmt/qcow2_int.h"

#define SLOT_BYTES	(4U << 20)	/* of all slots together, about */
#define MIN_SLOTS	4U
#define MAX_SLOTS	256U

static int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a;
	uint64_t y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Two entries that name one block would count each cluster twice. */
static const char *check_unique(const struct blk_qcow2 *q)
{
	uint64_t *copy blk_auto_free = malloc(q->rt_n * sizeof(*copy));
	size_t n = 0;

	if (!copy)
		return "out of memory";
	for (size_t i = 0; i < q->rt_n; i++)
		if (q->rt[i])
			copy[n++] = q->rt[i];
	qsort(copy, n, sizeof(*copy), compare_u64);
	for (size_t i = 1; i < n; i++)
		if (copy[i] == copy[i - 1])
			return "two refcount table entries name the same block";
	return NULL;
}

static const char *check_table(const struct blk_qcow2 *q, uint64_t size)
{
	for (size_t i = 0; i < q->rt_n; i++) {
		uint64_t v = q->rt[i];

		if (v & ~QCOW2_REFTABLE_OFFSET_MASK)
			return "reserved bits of a refcount table entry are set";
		if (v & (q->cs - 1))
			return "a refcount block is not aligned";
		if (v >= size)
			return "a refcount block is outside the file";
	}
	return check_unique(q);
}

int blk_rt_load(struct blk_qcow2 *q, struct blk_error *e)
{
	size_t bytes = (size_t)q->h.refcount_table_clusters * q->cs;
	int64_t size = blk_q_rounded_size(q);
	int ret;

	if (size < 0)
		return blk_q_io_error(q, e, (int)size, "find the size");
	if (posix_memalign((void **)&q->rt, 4096, blk_align_up(bytes, 4096)))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = blk_file_read(q->f, q->rt, bytes, q->h.refcount_table_offset);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read the refcount table");
	q->rt_n = bytes / 8;
	for (size_t i = 0; i < q->rt_n; i++)
		q->rt[i] = be64toh(q->rt[i]);
	q->rt_why = check_table(q, size);
	return 0;
}

/* A small disk has few blocks; the daemon's memory is locked, so that counts. */
static size_t slots_wanted(const struct blk_qcow2 *q)
{
	uint64_t counted = q->cs << q->rb_bits;	/* bytes, by one block */
	uint64_t need = MIN_SLOTS + 2 * (q->h.size / counted);
	size_t n = BLK_MIN(SLOT_BYTES / q->cs, MAX_SLOTS);

	return BLK_MAX(BLK_MIN(need, n), MIN_SLOTS);
}

int blk_slots_alloc(struct blk_qcow2 *q)
{
	size_t n = slots_wanted(q);

	if (q->slot)
		return 0;
	if (posix_memalign((void **)&q->slot_mem, 4096,
			   blk_align_up(n * q->cs, 4096)))
		return -ENOMEM;
	q->slot = calloc(n, sizeof(*q->slot));
	if (!q->slot)
		return -ENOMEM;
	memset(q->slot_mem, 0, n * q->cs);	/* present from now on */
	for (size_t i = 0; i < n; i++) {
		q->slot[i].idx = BLK_NO_BLOCK;
		q->slot[i].buf = q->slot_mem + i * q->cs;
	}
	q->n_slots = n;
	return 0;
}

void blk_slots_free(struct blk_qcow2 *q)
{
	free(q->slot);
	free(q->slot_mem);
	q->slot = NULL;
	q->slot_mem = NULL;
	q->n_slots = 0;
}

static bool is_dirty(const struct blk_slot *s)
{
	return s->fresh || s->hi > s->lo;
}

static struct blk_slot *find_slot(struct blk_qcow2 *q, uint64_t idx)
{
	for (size_t i = 0; i < q->n_slots; i++)
		if (q->slot[i].idx == idx)
			return &q->slot[i];
	return NULL;
}

/* The clean slot that was used longest ago */
static struct blk_slot *take_slot(struct blk_qcow2 *q)
{
	struct blk_slot *best = NULL;

	for (size_t i = 0; i < q->n_slots; i++) {
		struct blk_slot *s = &q->slot[i];

		if (is_dirty(s))
			continue;
		if (s->idx == BLK_NO_BLOCK)
			return s;
		if (!best || s->used < best->used)
			best = s;
	}
	if (best)
		best->idx = BLK_NO_BLOCK;
	return best;
}

int blk_slot_get(struct blk_qcow2 *q, uint64_t idx, struct blk_slot **out)
{
	struct blk_slot *s;
	int ret;

	if (idx >= q->rt_n || !q->rt[idx])
		return -ENOENT;
	s = find_slot(q, idx);
	if (!s) {
		s = take_slot(q);
		if (!s)
			return -ENOBUFS;
		ret = blk_file_read(q->f, s->buf, q->cs, q->rt[idx]);
		if (ret < 0)
			return ret;
		s->idx = idx;
		s->lo = s->hi = 0;
	}
	s->used = ++q->clock;
	*out = s;
	return 0;
}

int blk_slot_new(struct blk_qcow2 *q, uint64_t idx, uint64_t off,
		 struct blk_slot **out)
{
	struct blk_slot *s = take_slot(q);
	int ret;

	if (!s)
		return -ENOBUFS;
	ret = blk_meta_add(&q->meta, off, q->cs, BLK_META_OWN);
	if (ret < 0)
		return ret;
	memset(s->buf, 0, q->cs);
	s->idx = idx;
	s->fresh = true;
	s->lo = 0;
	s->hi = (uint32_t)q->cs;
	s->used = ++q->clock;
	q->rt[idx] = off;
	*out = s;
	return 0;
}

int blk_refcount_read(struct blk_qcow2 *q, uint64_t cluster, uint64_t *rc)
{
	struct blk_slot *s;
	int ret = blk_slot_get(q, cluster >> q->rb_bits, &s);

	*rc = ret ? 0 : blk_refcount_get(s->buf, q->h.refcount_order,
					 cluster & ((1ULL << q->rb_bits) - 1));
	return ret == -ENOENT ? 0 : ret;
}

int blk_qcow2_shared(struct blk_qcow2 *q, uint64_t host, bool *shared)
{
	uint64_t rc = 0;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = q->rt_why ? -EUCLEAN : blk_slots_alloc(q);
	if (!ret)
		ret = blk_refcount_read(q, host >> q->h.cluster_bits, &rc);
	*shared = rc > 1;
	return ret;
}

void blk_slot_set(struct blk_qcow2 *q, struct blk_slot *s, uint64_t i,
		  uint64_t refcount)
{
	uint32_t lo = (uint32_t)((i << q->h.refcount_order) / 8);
	uint32_t hi = lo + BLK_MAX(1U, (1U << q->h.refcount_order) / 8);

	blk_refcount_set(s->buf, q->h.refcount_order, i, refcount);
	if (s->lo == s->hi) {
		s->lo = lo;
		s->hi = hi;
	}
	s->lo = BLK_MIN(s->lo, lo);
	s->hi = BLK_MAX(s->hi, hi);
}

static int write_slot(struct blk_qcow2 *q, struct blk_slot *s)
{
	return blk_q_write_table(q, s->buf, q->rt[s->idx], s->lo, s->hi);
}

int blk_rt_store(struct blk_qcow2 *q, uint64_t from, uint64_t to)
{
	uint64_t a = BLK_MIN(q->f->align, q->cs) / 8;
	uint64_t *sector = (uint64_t *)q->sector;

	for (uint64_t i = blk_align_down(from, a); i < to; i += a) {
		int ret;

		for (uint64_t j = 0; j < a; j++)
			sector[j] = htobe64(q->rt[i + j]);
		ret = blk_file_write(q->f, sector, a * 8,
				     q->h.refcount_table_offset + i * 8);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* New blocks are durable: their entries, each sector of the table once. */
static int link_fresh(struct blk_qcow2 *q)
{
	uint64_t per_sector = BLK_MIN(q->f->align, q->cs) / 8;
	uint64_t done = BLK_NO_BLOCK;
	int ret = 0;

	for (;;) {
		struct blk_slot *next = NULL;

		for (size_t i = 0; i < q->n_slots; i++) {
			struct blk_slot *s = &q->slot[i];

			if (s->fresh && (!next || s->idx < next->idx))
				next = s;
		}
		if (!next)
			break;
		if (next->idx / per_sector != done)
			ret = blk_rt_store(q, next->idx, next->idx + 1);
		if (ret < 0)
			break;
		done = next->idx / per_sector;
		next->fresh = false;
		blk_stop_point("block-linked");
	}
	if (!ret && done != BLK_NO_BLOCK)
		ret = blk_file_flush(q->f);
	if (ret < 0)
		q->stuck = true;	/* is the entry there or not? */
	return ret;
}

int blk_slots_commit(struct blk_qcow2 *q)
{
	bool wrote = false;
	int ret = 0;

	for (size_t i = 0; i < q->n_slots && !ret; i++) {
		struct blk_slot *s = &q->slot[i];

		if (s->hi == s->lo)
			continue;
		wrote = true;
		ret = write_slot(q, s);
	}
	blk_stop_point("blocks-written");
	if (!ret && wrote)
		ret = blk_file_flush(q->f);
	blk_stop_point("blocks-flushed");
	if (!ret)
		ret = link_fresh(q);
	if (ret < 0) {
		blk_slots_abort(q, wrote);
		return ret;
	}
	for (size_t i = 0; i < q->n_slots; i++)
		q->slot[i].lo = q->slot[i].hi = 0;
	return 0;
}

void blk_slots_abort(struct blk_qcow2 *q, bool written)
{
	for (size_t i = 0; i < q->n_slots; i++) {
		struct blk_slot *s = &q->slot[i];

		if (!is_dirty(s))
			continue;
		if (s->fresh) {
			blk_meta_del(&q->meta, q->rt[s->idx]);
			q->rt[s->idx] = 0;
		}
		s->fresh = false;
		s->lo = s->hi = 0;
		s->idx = BLK_NO_BLOCK;
	}
	if (written)
		q->leaked = true;
}
