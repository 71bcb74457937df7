// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Moving metadata to the front.
 *
 * Owns nothing.  Each piece has one reference, of 8 bytes, in the header or in
 * another piece; but for L2 tables, which any number of L1 tables may name.
 * What is referred to moves before what refers to it, so that the reference
 * can be written where it is.  Locking: the caller holds q->lock.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_compact_int.h"
#include "qcow2/bitmap.h"
#include "qcow2/snapshot.h"

#define HEADER_L1_AT		40U
#define HEADER_TABLE_AT		48U
#define HEADER_SNAPSHOTS_AT	64U

/**
 * struct piece - some clusters in one piece
 * @ref: where the file says @off, in 8 bytes
 */
struct piece {
	uint64_t off;
	uint64_t len;
	uint64_t ref;
};

struct pieces {
	struct blk_compact *x;
	struct piece *p;
	size_t n, room;
	uint64_t at;		/* in the snapshot table */
};

static int add(struct pieces *l, uint64_t off, uint64_t len, uint64_t ref)
{
	struct blk_qcow2 *q = l->x->q;
	struct piece *p = l->p;

	len = blk_align_up(len, q->cs);
	if (!len || off + len <= l->x->goal * q->cs)
		return 0;
	if (l->n == l->room) {
		l->room = 2 * l->room + 64;
		p = realloc(l->p, l->room * sizeof(*p));
		if (!p)
			return -ENOMEM;
		l->p = p;
	}
	l->p[l->n++] = (struct piece){ off, len, ref };
	return 0;
}

/* Bitmaps: data, tables, directory */
static int add_bitmap_data(void *opaque, const struct blk_bitmap *b,
			   uint64_t at)
{
	struct pieces *l = opaque;
	struct blk_qcow2 *q = l->x->q;
	uint64_t *table, off;
	int ret;

	if (posix_memalign((void **)&table, 4096,
			   blk_align_up(b->table_size * 8ULL + 1, 4096)))
		return -ENOMEM;
	ret = blk_file_read(q->f, table, b->table_size * 8ULL,
			    b->table_offset);
	for (uint32_t i = 0; i < b->table_size && !ret; i++)
		if (!blk_bitmap_table_check(be64toh(table[i]), &q->h, &off) &&
		    off)
			ret = add(l, off, q->cs, b->table_offset + i * 8ULL);
	free(table);
	return ret;
}

static int add_bitmap_table(void *opaque, const struct blk_bitmap *b,
			    uint64_t at)
{
	return add(opaque, b->table_offset, b->table_size * 8ULL, at);
}

/* Where the header says where the directory is */
static uint64_t directory_ref(const struct blk_qcow2 *q)
{
	uint32_t pos = q->ext.start;

	while (pos + 8 <= q->ext.end &&
	       blk_get_be32(q->head + pos) != QCOW2_EXT_BITMAPS)
		pos += 8 + (uint32_t)blk_align_up(blk_get_be32(q->head + pos +
							       4), 8);
	return pos + 8 + 16;
}

static int add_bitmaps(struct pieces *l)
{
	struct blk_qcow2 *q = l->x->q;
	int ret = blk_walk_bitmap_dir(q, add_bitmap_data, l, l->x->e);

	if (!ret)
		ret = blk_walk_bitmap_dir(q, add_bitmap_table, l, l->x->e);
	if (!ret && blk_q_has_bitmaps(q))
		ret = add(l, q->ext.bitmap_dir_offset, q->ext.bitmap_dir_size,
			  directory_ref(q));
	return ret;
}

static int add_snapshot_l1(void *opaque, const struct blk_snap *s)
{
	struct pieces *l = opaque;
	uint64_t at = l->at;

	l->at += s->bytes;
	return add(l, s->l1_offset, s->l1_size * 8ULL, at);
}

static int add_all(struct pieces *l)
{
	struct blk_qcow2 *q = l->x->q;
	uint64_t bytes;
	int ret = add_bitmaps(l);

	l->at = q->h.snapshots_offset;
	if (!ret)
		ret = blk_walk_snapshot_table(q, add_snapshot_l1, l, &bytes,
					      l->x->e);
	if (!ret)
		ret = add(l, q->h.snapshots_offset, bytes,
			  HEADER_SNAPSHOTS_AT);
	if (!ret)
		ret = add(l, q->h.l1_table_offset, q->h.l1_size * 8ULL,
			  HEADER_L1_AT);
	if (!ret)
		ret = add(l, q->h.refcount_table_offset,
			  (uint64_t)q->h.refcount_table_clusters * q->cs,
			  HEADER_TABLE_AT);
	return ret;
}

static int write_ref(struct blk_qcow2 *q, const struct piece *p, uint64_t to)
{
	uint8_t be[8];
	int ret;

	blk_put_be64(be, to);
	if (p->ref < q->cs) {
		memcpy(q->head + p->ref, be, 8);
		ret = blk_q_write_head(q, (uint32_t)p->ref, 8);
		if (!ret)
			ret = blk_q_reread_head(q);
	} else {
		ret = blk_file_write(q->f, be, 8, p->ref);
		if (!ret)
			ret = blk_file_flush(q->f);
	}
	if (ret < 0)
		q->stuck = true;	/* what does it say now? */
	return ret;
}

static int move_piece(struct blk_compact *x, const struct piece *p)
{
	struct blk_qcow2 *q = x->q;
	uint64_t n = p->len >> q->h.cluster_bits;
	uint64_t to = blk_compact_take(x, n);
	int ret;

	if (!to)
		return 0;	/* no room in one piece: it stays */
	for (uint64_t i = 0; i < n; i++) {
		ret = blk_compact_count(x, to + i, 1);
		if (ret < 0)
			return ret;
	}
	/* counted first: the refcount table has nothing newer then */
	ret = blk_slots_commit(q);
	if (!ret)
		ret = blk_compact_copy_bytes(q, p->off, to * q->cs, p->len);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (!ret)
		ret = write_ref(q, p, to * q->cs);
	for (uint64_t i = 0; i < n && !ret; i++)
		ret = blk_compact_count(x, (p->off >> q->h.cluster_bits) + i,
					-1);
	x->moved += n;
	return ret ? ret : blk_release_settle(q);
}

static int move_pieces(struct blk_compact *x)
{
	struct pieces l = { .x = x };
	int ret = add_all(&l);

	for (size_t i = 0; i < l.n && !ret; i++)
		ret = move_piece(x, &l.p[i]);
	free(l.p);
	return ret;
}

/*
 * L2 tables
 */

static int switch_l1(void *opaque, uint64_t off, uint64_t len)
{
	struct blk_compact *x = opaque;
	struct blk_qcow2 *q = x->q;
	uint64_t *l1, n = len / 8;
	int ret = blk_walk_l1(q, off, (uint32_t)n, &l1, x->e);

	for (uint64_t i = 0; i < n && !ret; i++) {
		uint64_t c = (l1[i] & QCOW2_OFFSET_MASK) >> q->h.cluster_bits;
		uint8_t be[8];

		if (c < x->goal || c >= x->end || !x->to[c - x->goal])
			continue;
		blk_put_be64(be, (l1[i] & ~QCOW2_OFFSET_MASK) |
			     x->to[c - x->goal] * q->cs);
		ret = blk_file_write(q->f, be, 8, off + i * 8);
	}
	if (ret >= 0)
		free(l1);
	return ret;
}

static int move_l2_tables(struct blk_compact *x)
{
	struct blk_qcow2 *q = x->q;
	bool any = false;
	int ret;

	for (size_t i = 0; i < q->meta.n; i++) {
		uint64_t c = q->meta.run[i].off >> q->h.cluster_bits;

		if (!blk_compact_is_l2(&q->meta.run[i]) || c < x->goal)
			continue;
		x->to[c - x->goal] = blk_compact_take(x, 1);
		any |= x->to[c - x->goal];
	}
	if (!any)
		return 0;
	ret = blk_compact_copy(x);
	if (!ret && q->h.l1_size)
		ret = switch_l1(x, q->h.l1_table_offset, q->h.l1_size * 8ULL);
	if (!ret)
		ret = blk_walk_snapshots(q, NULL, switch_l1, x, x->e);
	if (!ret)
		ret = blk_file_flush(q->f);
	return ret ? ret : blk_compact_drop(x);
}

/*
 * Refcount blocks
 */

static int link_block(struct blk_qcow2 *q, uint64_t idx, uint64_t off)
{
	int ret;

	q->rt[idx] = off;
	ret = blk_rt_store(q, idx, idx + 1);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (ret < 0)
		q->stuck = true;	/* which is it now? */
	return ret;
}

/* Its new place may be one that it counts itself: that comes first. */
static int move_block(struct blk_compact *x, uint64_t idx)
{
	struct blk_qcow2 *q = x->q;
	uint64_t old = q->rt[idx], to = blk_compact_take(x, 1);
	int ret;

	if (!to)
		return 0;
	ret = blk_compact_count(x, to, 1);
	if (!ret)
		ret = blk_slots_commit(q);
	if (!ret)
		ret = blk_compact_copy_bytes(q, old, to * q->cs, q->cs);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (!ret)
		ret = link_block(q, idx, to * q->cs);
	if (!ret)
		ret = blk_compact_count(x, old >> q->h.cluster_bits, -1);
	x->moved++;
	return ret ? ret : blk_release_settle(q);
}

int blk_compact_metadata(struct blk_compact *x)
{
	struct blk_qcow2 *q = x->q;
	int ret = move_pieces(x);

	if (!ret)
		ret = move_l2_tables(x);
	for (uint64_t i = 0; i < q->rt_n && !ret; i++)
		if (q->rt[i] >= x->goal * q->cs)
			ret = move_block(x, i);
	return ret;
}

/* 1: nothing, but perhaps itself */
static int is_empty(struct blk_compact *x, uint64_t idx)
{
	struct blk_qcow2 *q = x->q;
	uint64_t self = q->rt[idx] >> q->h.cluster_bits;
	struct blk_slot *s;
	int ret = blk_slot_get(q, idx, &s);

	if (ret < 0)
		return ret;
	for (uint64_t i = 0; i < 1ULL << q->rb_bits; i++)
		if (blk_refcount_get(s->buf, q->h.refcount_order, i) &&
		    (idx << q->rb_bits) + i != self)
			return 0;
	s->idx = BLK_NO_BLOCK;	/* clean: everything is committed */
	return 1;
}

int blk_compact_empty_blocks(struct blk_compact *x)
{
	struct blk_qcow2 *q = x->q;
	int ret = 0;

	for (uint64_t i = q->rt_n - 1; i && ret >= 0; i--) {
		uint64_t old = q->rt[i], c = old >> q->h.cluster_bits;

		if (!old)
			continue;
		ret = is_empty(x, i);
		if (ret <= 0)
			continue;
		x->unlinked++;
		ret = link_block(q, i, 0);
		if (!ret && c >> q->rb_bits != i)
			ret = blk_compact_count(x, c, -1);
		if (!ret)
			ret = blk_release_settle(q);
	}
	return ret < 0 ? ret : 0;
}
