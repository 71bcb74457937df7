// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Where the metadata is.
 *
 * Owns the sorted list of metadata clusters (struct blk_meta_list): collected
 * from the whole image, checked for overlaps, and kept up by the allocator,
 * which never gives out what is on it.  Must not write.  Locking: the caller
 * holds q->lock.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_int.h"

/* Beyond it (128 MiB of list) an image is refused rather than collected. */
#define MAX_RUNS	(8U << 20)

struct collector {
	struct blk_qcow2 *q;
	struct blk_meta_list *l;
	struct blk_error *e;
	uint64_t size;		/* of the file, rounded up */
	enum blk_meta_kind kind;
};

int blk_meta_reserve(struct blk_meta_list *l, size_t room)
{
	struct blk_meta_run *p;

	if (room <= l->room)
		return 0;
	p = realloc(l->run, room * sizeof(*p));
	if (!p)
		return -ENOMEM;
	l->run = p;
	l->room = room;
	return 0;
}

static size_t find_index(const struct blk_meta_list *l, uint64_t off)
{
	size_t lo = 0, hi = l->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (l->run[mid].off + l->run[mid].len <= off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct blk_meta_run *blk_meta_find(const struct blk_meta_list *l, uint64_t off)
{
	size_t i = find_index(l, off);

	return i < l->n ? &l->run[i] : NULL;
}

int blk_meta_add(struct blk_meta_list *l, uint64_t off, uint64_t len,
		 enum blk_meta_kind kind)
{
	size_t i = find_index(l, off);

	if (i < l->n && l->run[i].off < off + len)
		return -EUCLEAN;
	if (l->n == l->room && blk_meta_reserve(l, l->room + 256))
		return -ENOMEM;
	memmove(l->run + i + 1, l->run + i, (l->n - i) * sizeof(*l->run));
	l->run[i] = (struct blk_meta_run){
		.off = off, .len = len, .kind = kind,
	};
	l->n++;
	return 0;
}

void blk_meta_del(struct blk_meta_list *l, uint64_t off)
{
	size_t i = find_index(l, off);

	if (i == l->n || l->run[i].off != off)
		return;
	l->n--;
	memmove(l->run + i, l->run + i + 1, (l->n - i) * sizeof(*l->run));
}

uint64_t blk_meta_end(const struct blk_meta_list *l)
{
	return l->n ? l->run[l->n - 1].off + l->run[l->n - 1].len : 0;
}

/* Appends, unsorted; offsets were checked for alignment by the parsers. */
static int append(void *opaque, uint64_t off, uint64_t len)
{
	struct collector *c = opaque;
	struct blk_meta_list *l = c->l;

	if (off >= c->size)
		return blk_q_corrupt(c->q, c->e,
				     "a cluster of metadata is outside the file");
	if (l->n >= MAX_RUNS)
		return blk_error_set(c->e, BLK_ERR_FAILED, EFBIG,
				     "'%s' has too much metadata to be listed",
				     c->q->f->path);
	if (l->n == l->room &&
	    blk_meta_reserve(l, l->room ? l->room * 2 : 1024))
		return blk_error_set(c->e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	l->run[l->n++] = (struct blk_meta_run){
		.off = off,
		.len = blk_align_up(len, c->q->cs),
		.kind = c->kind,
	};
	return 0;
}

static int append_l2_tables(struct collector *c, uint64_t off, uint32_t n)
{
	uint64_t *l1;
	int ret = blk_walk_l1(c->q, off, n, &l1, c->e);

	if (ret < 0)
		return ret;
	for (uint32_t i = 0; i < n && !ret; i++) {
		uint64_t l2 = l1[i] & QCOW2_OFFSET_MASK;

		if (l2)
			ret = append(c, l2, c->q->cs);
	}
	free(l1);
	return ret;
}

/* An inactive L1, and its L2 tables */
static int append_snapshot_l1(void *opaque, uint64_t off, uint64_t len)
{
	struct collector *c = opaque;
	int ret;

	c->kind = BLK_META_OWN;
	ret = append(c, off, len);
	c->kind = BLK_META_INACTIVE_L2;
	if (!ret)
		ret = append_l2_tables(c, off, (uint32_t)(len / 8));
	c->kind = BLK_META_OWN;
	return ret;
}

static int append_active(struct collector *c)
{
	const struct qcow2_header *h = &c->q->h;
	int ret;

	c->kind = BLK_META_ACTIVE;
	ret = append(c, 0, c->q->cs);
	if (!ret && h->l1_size)
		ret = append(c, h->l1_table_offset, (uint64_t)h->l1_size * 8);
	c->kind = BLK_META_ACTIVE_L2;
	if (!ret && h->l1_size)
		ret = append_l2_tables(c, h->l1_table_offset, h->l1_size);
	return ret;
}

static int append_own(struct collector *c)
{
	struct blk_qcow2 *q = c->q;
	int ret;

	c->kind = BLK_META_OWN;
	ret = q->rt_n ? append(c, q->h.refcount_table_offset, q->rt_n * 8) : 0;
	for (size_t i = 0; i < q->rt_n && !ret; i++)
		if (q->rt[i])
			ret = append(c, q->rt[i], q->cs);
	if (!ret && q->ext.has_crypto)
		ret = append(c, q->ext.crypto_offset, q->ext.crypto_length);
	if (!ret)
		ret = blk_walk_snapshots(q, append, append_snapshot_l1, c,
					 c->e);
	if (!ret)
		ret = blk_walk_bitmaps(q, append, c, c->e);
	return ret;
}

static int compare_runs(const void *a, const void *b)
{
	const struct blk_meta_run *x = a, *y = b;

	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return (int)x->kind - (int)y->kind;
}

/* Snapshots share L2 tables with each other and with the active L1. */
static bool may_share(const struct blk_meta_run *a,
		      const struct blk_meta_run *b)
{
	return a->off == b->off && b->kind == BLK_META_INACTIVE_L2 &&
		(a->kind == BLK_META_ACTIVE_L2 ||
		 a->kind == BLK_META_INACTIVE_L2);
}

static int sort_and_check(struct collector *c)
{
	struct blk_meta_list *l = c->l;
	size_t n = 0;

	qsort(l->run, l->n, sizeof(*l->run), compare_runs);
	for (size_t i = 0; i < l->n; i++) {
		struct blk_meta_run *prev = n ? &l->run[n - 1] : NULL;

		if (prev && prev->off + prev->len > l->run[i].off) {
			if (may_share(prev, &l->run[i]))
				continue;
			return blk_q_corrupt(c->q, c->e,
					     "two structures of metadata share a cluster");
		}
		l->run[n++] = l->run[i];
	}
	l->n = n;
	return 0;
}

int blk_meta_collect(struct blk_qcow2 *q, struct blk_meta_list *out,
		     struct blk_error *e)
{
	int64_t size = blk_q_rounded_size(q);
	struct collector c = {
		.q = q, .l = out, .e = e, .size = (uint64_t)size,
	};
	int ret;

	memset(out, 0, sizeof(*out));
	if (size < 0)
		return blk_q_io_error(q, e, (int)size, "find the size");
	if (q->rt_why)
		return blk_q_corrupt(q, e, q->rt_why);
	ret = append_active(&c);
	if (!ret)
		ret = append_own(&c);
	if (!ret)
		ret = sort_and_check(&c);
	if (ret < 0) {
		free(out->run);
		memset(out, 0, sizeof(*out));
	}
	return ret;
}

static size_t merge_runs(const struct blk_meta_list *l,
			 struct dm_qcow_run *runs)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++) {
		const struct blk_meta_run *m = &l->run[i];

		if (m->kind != BLK_META_OWN && m->kind != BLK_META_INACTIVE_L2)
			continue;
		if (n && runs[n - 1].offset + runs[n - 1].length == m->off) {
			runs[n - 1].length += m->len;
			continue;
		}
		runs[n++] = (struct dm_qcow_run){
			.offset = m->off, .length = m->len,
		};
	}
	return n;
}

int blk_qcow2_metadata(struct blk_qcow2 *q, struct dm_qcow_run **runs,
		       size_t *n, struct blk_error *e)
{
	struct blk_meta_list l;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_meta_collect(q, &l, e);
	if (ret < 0)
		return ret;
	*runs = calloc(l.n + 1, sizeof(**runs));
	if (*runs)
		*n = merge_runs(&l, *runs);
	free(l.run);
	return *runs ? 0 : blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					 "out of memory");
}
