// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Persistent bitmaps: which there are, and what is due before writes that they do
 * not record.
 *
 * Owns the flags in the bitmap directory.  Must not change tables or data of
 * bitmaps.  Locking: the public functions take q->lock.
 *
 * QEMU's order: the autoclear bit goes, durably; the directory changes in
 * place; the bit returns.  A crash in between leaves an extension that nobody
 * trusts.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/qcow2_int.h"
#include "qcow2/bitmap.h"

#define ENTRY_FLAGS_AT		12U
#define HEADER_AUTOCLEAR_AT	88U

/**
 * struct recorders - the consistent bitmaps that record
 * @set: mark them as in use; else they are only counted
 * @name: of the first one, for people
 */
struct recorders {
	struct blk_qcow2 *q;
	bool set;
	uint32_t n;
	char name[64];
	int err;
};

static void keep_name(struct recorders *r, const struct blk_bitmap *b)
{
	int len = BLK_MIN(b->name_len, (int)sizeof(r->name) - 1);

	snprintf(r->name, sizeof(r->name), "%.*s", len, b->name);
	for (char *c = r->name; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

static int visit(void *opaque, const struct blk_bitmap *b, uint64_t at)
{
	struct recorders *r = opaque;
	uint8_t flags[4];

	if ((b->flags & (BLK_BITMAP_AUTO | BLK_BITMAP_IN_USE)) !=
	    BLK_BITMAP_AUTO)
		return 0;
	if (!r->n++)
		keep_name(r, b);
	if (!r->set)
		return 0;
	blk_put_be32(flags, b->flags | BLK_BITMAP_IN_USE);
	r->err = blk_file_write(r->q->f, flags, sizeof(flags),
				at + ENTRY_FLAGS_AT);
	return r->err;
}

static int set_autoclear(struct blk_qcow2 *q, bool on)
{
	if (on)
		q->h.autoclear_features |= QCOW2_AUTOCLEAR_BITMAPS;
	else
		q->h.autoclear_features &= ~QCOW2_AUTOCLEAR_BITMAPS;
	blk_header_emit(&q->h, q->head);
	return blk_q_write_head(q, HEADER_AUTOCLEAR_AT, 8);
}

static int write_flags(struct blk_qcow2 *q, struct blk_error *e)
{
	struct recorders r = { .q = q, .set = true };
	struct qcow2_header trusted = q->h;
	int ret = set_autoclear(q, false);

	/* the walk trusts the extension; the disk says that nobody may */
	q->h = trusted;
	if (!ret)
		ret = blk_walk_bitmap_dir(q, visit, &r, e);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (!ret)
		ret = set_autoclear(q, true);
	return ret;
}

int blk_qcow2_bitmaps_begin(struct blk_qcow2 *q, bool invalidate,
			    struct blk_error *e)
{
	struct recorders r = { .q = q };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_walk_bitmap_dir(q, visit, &r, e);
	if (ret < 0 || !r.n)
		return ret;
	if (!invalidate) {
		blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			      "'%s' has persistent bitmaps that record writes (%s%s), which this version does not keep up",
			      q->f->path, r.name, r.n > 1 ? ", ..." : "");
		blk_error_hint(e, "attach it read-only, or invalidate the bitmaps");
		return -EOPNOTSUPP;
	}
	ret = write_flags(q, e);
	if (ret < 0) {
		blk_q_reread_head(q);
		return blk_q_io_error(q, e, ret, "mark the bitmaps as in use");
	}
	return 0;
}

/* Each cluster of each bitmap, its table, and the directory */
struct sizes {
	uint64_t bits_of;	/* bytes of the disk */
	uint64_t cluster;
	uint64_t bytes;
	uint64_t dir;
};

static uint64_t up_to(uint64_t n, uint64_t unit)
{
	return (n + unit - 1) / unit * unit;
}

static int add_size(void *opaque, const struct blk_bitmap *b, uint64_t at)
{
	struct sizes *s = opaque;
	uint64_t grain = 1ULL << b->granularity_bits;
	uint64_t bits = s->bits_of / grain + !!(s->bits_of % grain);
	uint64_t n = up_to((bits + 7) / 8, s->cluster) / s->cluster;

	s->bytes += n * s->cluster + up_to(n * 8, s->cluster);
	s->dir += up_to(BLK_BITMAP_FIXED_BYTES + b->name_len, 8);
	return 0;
}

int blk_qcow2_bitmaps_size(struct blk_qcow2 *q, uint64_t cluster_size,
			   uint64_t *bytes, struct blk_error *e)
{
	struct sizes s = { .bits_of = q->h.size, .cluster = cluster_size };
	int ret;

	pthread_mutex_lock(&q->lock);
	ret = blk_walk_bitmap_dir(q, add_size, &s, e);
	pthread_mutex_unlock(&q->lock);
	*bytes = s.bytes + up_to(s.dir, cluster_size);
	return ret;
}

struct lister {
	struct blk_qcow2_bitmap *b;
	size_t n;
};

static int list_one(void *opaque, const struct blk_bitmap *b, uint64_t at)
{
	struct lister *l = opaque;
	struct blk_qcow2_bitmap *p = realloc(l->b, (l->n + 1) * sizeof(*p));

	(void)at;
	if (!p)
		return -ENOMEM;
	l->b = p;
	p[l->n] = (struct blk_qcow2_bitmap){
		.name = strndup(b->name, b->name_len),
		.granularity = 1ULL << b->granularity_bits,
		.in_use = b->flags & BLK_BITMAP_IN_USE,
		.recording = b->flags & BLK_BITMAP_AUTO,
	};
	return p[l->n++].name ? 0 : -ENOMEM;
}

int blk_qcow2_bitmaps_list(struct blk_qcow2 *q, struct blk_qcow2_bitmap **out,
			   size_t *n, struct blk_error *e)
{
	struct lister l = { 0 };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_walk_bitmap_dir(q, list_one, &l, e);
	if (ret == -ENOMEM)
		blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
	if (ret < 0) {
		blk_qcow2_bitmaps_free(l.b, l.n);
		l = (struct lister){ 0 };
	}
	*out = l.b;
	*n = l.n;
	return ret;
}

void blk_qcow2_bitmaps_free(struct blk_qcow2_bitmap *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(b[i].name);
	free(b);
}
