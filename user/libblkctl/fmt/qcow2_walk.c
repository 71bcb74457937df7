// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Walking what the snapshot table and the bitmap directory refer to.
 *
 * Owns nothing; must not write.  Tables of any size are read through windows
 * of bounded size; every entry is judged by the pure parsers before it is
 * used.  Locking: reads only what no one changes while an image is attached.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_int.h"
#include "qcow2/bitmap.h"
#include "qcow2/snapshot.h"

#define WINDOW	(256U << 10)	/* at least two of the longest entries */
/* All tables of a kind together: a sparse file can claim any number. */
#define MAX_L1_BYTES	(4ULL << 30)
#define MAX_BITMAP_BYTES	(1ULL << 30)

/* A table of entries of varying length, seen through a window. */
struct window {
	struct blk_qcow2 *q;
	uint64_t base;		/* the table's offset */
	uint64_t limit;		/* bytes that it may have */
	uint64_t pos;		/* of the current entry */
	uint64_t at;		/* table position of buf[0] */
	uint64_t have;
	uint64_t referred;	/* bytes of tables that the entries name */
	uint8_t *buf;
};

static int window_open(struct window *w, struct blk_qcow2 *q, uint64_t base,
		       uint64_t limit)
{
	memset(w, 0, sizeof(*w));
	w->q = q;
	w->base = base;
	w->limit = limit;
	return posix_memalign((void **)&w->buf, 4096, WINDOW) ? -ENOMEM : 0;
}

/* Makes @need bytes from the current entry visible, fewer at the end. */
static int window_fill(struct window *w, uint64_t need, const uint8_t **p,
		       uint64_t *len)
{
	uint64_t left = w->limit - w->pos;
	int ret;

	need = BLK_MIN(need, left);
	if (w->pos < w->at || w->pos + need > w->at + w->have) {
		w->at = blk_align_down(w->pos, 4096);
		w->have = BLK_MIN(WINDOW, w->limit - w->at);
		ret = blk_file_read(w->q->f, w->buf, w->have, w->base + w->at);
		if (ret < 0)
			return ret;
	}
	*p = w->buf + (w->pos - w->at);
	*len = w->at + w->have - w->pos;
	return 0;
}

static int walk_snapshot(struct window *w, blk_snap_fn fn, void *opaque,
			 struct blk_error *e)
{
	struct blk_snap s = { 0 };
	const uint8_t *p;
	const char *why;
	uint64_t len;
	int ret = window_fill(w, BLK_SNAP_MAX_BYTES, &p, &len);

	if (ret < 0)
		return blk_q_io_error(w->q, e, ret, "read the snapshot table");
	why = blk_snap_parse(p, len, &w->q->h, &s);
	if (w->q->lenient && s.bytes)
		why = NULL;
	if (!why && s.bytes > w->limit - w->pos)
		why = "the snapshot table is too large";
	if (why)
		return blk_q_corrupt(w->q, e, why);
	if (s.l1_size <= QCOW2_MAX_L1_BYTES / 8)
		w->referred += (uint64_t)s.l1_size * 8;
	if (w->referred > MAX_L1_BYTES)
		return blk_q_corrupt(w->q, e,
				     "the L1 tables of the snapshots are too large");
	w->pos += s.bytes;
	return fn(opaque, &s);
}

int blk_walk_snapshot_table(struct blk_qcow2 *q, blk_snap_fn fn, void *opaque,
			    uint64_t *bytes, struct blk_error *e)
{
	struct window w;
	int ret;

	*bytes = 0;
	if (!q->h.nb_snapshots)
		return 0;
	ret = window_open(&w, q, q->h.snapshots_offset, BLK_SNAP_MAX_TABLE);
	if (ret < 0)
		return blk_error_set(e, BLK_ERR_FAILED, -ret, "out of memory");
	for (uint32_t i = 0; i < q->h.nb_snapshots && !ret; i++)
		ret = walk_snapshot(&w, fn, opaque, e);
	*bytes = w.pos;
	free(w.buf);
	return ret;
}

struct l1_walk {
	blk_walk_fn fn;
	void *opaque;
};

static int visit_l1(void *opaque, const struct blk_snap *s)
{
	const struct l1_walk *w = opaque;

	return s->l1_size && w->fn ?
		w->fn(w->opaque, s->l1_offset, (uint64_t)s->l1_size * 8) : 0;
}

int blk_walk_snapshots(struct blk_qcow2 *q, blk_walk_fn table, blk_walk_fn l1,
		       void *opaque, struct blk_error *e)
{
	struct l1_walk w = { .fn = l1, .opaque = opaque };
	uint64_t bytes;
	int ret = blk_walk_snapshot_table(q, visit_l1, &w, &bytes, e);

	if (!ret && table && bytes)
		ret = table(opaque, q->h.snapshots_offset, bytes);
	return ret;
}

/* The data clusters of one bitmap, found through its table */
static int walk_bitmap_table(struct blk_qcow2 *q, const struct blk_bitmap *b,
			     blk_walk_fn fn, void *opaque, struct blk_error *e)
{
	struct window w;
	const uint8_t *p;
	uint64_t len, off;
	int ret = window_open(&w, q, b->table_offset,
			      (uint64_t)b->table_size * 8);

	if (ret < 0)
		return blk_error_set(e, BLK_ERR_FAILED, -ret, "out of memory");
	while (!ret && w.pos < w.limit) {
		const char *why;

		ret = window_fill(&w, 8, &p, &len);
		if (ret < 0) {
			blk_q_io_error(q, e, ret, "read a bitmap table");
			break;
		}
		why = blk_bitmap_table_check(blk_get_be64(p), &q->h, &off);
		if (why)
			ret = blk_q_corrupt(q, e, why);
		else if (off)
			ret = fn(opaque, off, q->cs);
		w.pos += 8;
	}
	free(w.buf);
	return ret;
}

static int walk_bitmap(struct window *w, blk_bitmap_fn fn, void *opaque,
		       struct blk_error *e)
{
	struct blk_qcow2 *q = w->q;
	struct blk_bitmap b;
	uint64_t at = w->base + w->pos;
	const uint8_t *p;
	const char *why;
	uint64_t len;
	int ret = window_fill(w, BLK_BITMAP_MAX_BYTES, &p, &len);

	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read the bitmap directory");
	why = blk_bitmap_parse(p, len, &q->h, &b);
	if (why)
		return blk_q_corrupt(q, e, why);
	w->referred += (uint64_t)b.table_size * 8;
	if (w->referred > MAX_BITMAP_BYTES)
		return blk_q_corrupt(q, e, "the bitmap tables are too large");
	w->pos += b.bytes;
	return fn(opaque, &b, at);
}

int blk_walk_bitmap_dir(struct blk_qcow2 *q, blk_bitmap_fn fn, void *opaque,
			struct blk_error *e)
{
	struct window w;
	uint32_t n = 0;
	int ret;

	if (!blk_q_has_bitmaps(q))
		return 0;
	ret = window_open(&w, q, q->ext.bitmap_dir_offset,
			  q->ext.bitmap_dir_size);
	if (ret < 0)
		return blk_error_set(e, BLK_ERR_FAILED, -ret, "out of memory");
	while (!ret && w.pos < w.limit) {
		ret = walk_bitmap(&w, fn, opaque, e);
		n++;
	}
	free(w.buf);
	if (!ret && n != q->ext.n_bitmaps)
		ret = blk_q_corrupt(q, e,
				    "the bitmap directory does not have the number of bitmaps that the header says");
	return ret;
}

struct bitmap_walk {
	struct blk_qcow2 *q;
	blk_walk_fn fn;
	void *opaque;
	struct blk_error *e;
};

static int visit_bitmap(void *opaque, const struct blk_bitmap *b, uint64_t at)
{
	const struct bitmap_walk *w = opaque;
	int ret = w->fn(w->opaque, b->table_offset,
			(uint64_t)b->table_size * 8);

	return ret ? ret : walk_bitmap_table(w->q, b, w->fn, w->opaque, w->e);
}

int blk_walk_bitmaps(struct blk_qcow2 *q, blk_walk_fn fn, void *opaque,
		     struct blk_error *e)
{
	struct bitmap_walk w = { .q = q, .fn = fn, .opaque = opaque, .e = e };
	int ret = 0;

	if (blk_q_has_bitmaps(q))
		ret = fn(opaque, q->ext.bitmap_dir_offset,
			 q->ext.bitmap_dir_size);
	return ret ? ret : blk_walk_bitmap_dir(q, visit_bitmap, &w, e);
}

int blk_walk_l1(struct blk_qcow2 *q, uint64_t off, uint32_t n, uint64_t **out,
		struct blk_error *e)
{
	int64_t size = blk_q_rounded_size(q);
	uint64_t *l1;
	int ret;

	if (size < 0)
		return blk_q_io_error(q, e, (int)size, "find the size");
	if (posix_memalign((void **)&l1, 4096,
			   blk_align_up((uint64_t)n * 8 + 1, 4096)))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = blk_file_read(q->f, l1, blk_align_up((uint64_t)n * 8, 512), off);
	if (ret < 0) {
		free(l1);
		return blk_q_io_error(q, e, ret, "read an L1 table");
	}
	for (uint32_t i = 0; i < n; i++) {
		const char *why;

		l1[i] = be64toh(l1[i]);
		why = qcow2_l1_check(l1[i], q->h.cluster_bits, size);
		if (why) {
			free(l1);
			return blk_q_corrupt(q, e, why);
		}
	}
	*out = l1;
	return 0;
}
