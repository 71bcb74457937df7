// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Moving data to the front: clusters, and compressed ones, which are bytes
 * anywhere.
 *
 * Owns the list of compressed extents.  Must not make an extent longer than it
 * was: where the next one begins behind it, it ends there.  Locking: the caller
 * holds q->lock.
 *
 * All L2 tables are read twice: to see what is where, and to change what has
 * moved, each sector in place.  COPIED stays right, for every count does.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_compact_int.h"

#define WANTED	UINT64_MAX

/**
 * struct extent - a compressed cluster
 * @refs: L1 entries through which it is referred to
 * @to: where it goes, 0: it stays
 */
struct extent {
	uint64_t off;
	uint64_t len;
	uint64_t refs;
	uint64_t to;
};

/**
 * struct mover - the data of an image
 * @l2: one table
 * @lo, @hi: bytes of it that have changed
 * @fill: the cluster that is being filled
 * @at: bytes of it that are taken
 * @load: its references
 */
struct mover {
	struct blk_compact *x;
	struct blk_qcow2 *q;
	struct extent *ext;
	size_t n, room;
	uint8_t *l2;
	uint64_t lo, hi;
	uint64_t fill;
	uint64_t at;
	uint64_t load;
};

typedef int (*entry_fn)(struct mover *m, uint64_t entry, uint64_t refs,
			uint8_t *p);

static int each_entry(struct mover *m, uint64_t off, entry_fn fn)
{
	struct blk_qcow2 *q = m->q;
	uint64_t step = blk_q_has_extl2(q) ? 16 : 8;
	uint64_t refs = blk_refs_get(&m->x->c.refs, off >> q->h.cluster_bits);
	int ret = blk_file_read(q->f, m->l2, q->cs, off);

	m->lo = m->hi = 0;
	for (uint64_t i = 0; i < q->cs && !ret; i += step) {
		uint64_t entry = blk_get_be64(m->l2 + i);

		if (entry & (QCOW2_L2_COMPRESSED | QCOW2_OFFSET_MASK))
			ret = fn(m, entry, refs, m->l2 + i);
	}
	if (!ret && m->hi)
		ret = blk_q_write_table(q, m->l2, off, m->lo, m->hi);
	return ret;
}

static int each_table(struct mover *m, entry_fn fn)
{
	int ret = 0;

	for (size_t i = 0; i < m->q->meta.n && !ret; i++)
		if (blk_compact_is_l2(&m->q->meta.run[i]))
			ret = each_entry(m, m->q->meta.run[i].off, fn);
	return ret;
}

/*
 * What is where
 */

static int add_extent(struct mover *m, uint64_t entry, uint64_t refs)
{
	uint32_t bits = m->q->h.cluster_bits;
	struct extent *p = m->ext;

	if (m->n == m->room) {
		m->room = 2 * m->room + 1024;
		p = realloc(p, m->room * sizeof(*p));
		if (!p)
			return -ENOMEM;
		m->ext = p;
	}
	p[m->n++] = (struct extent){
		.off = qcow2_compressed_offset(entry, bits),
		.len = qcow2_compressed_length(entry, bits),
		.refs = refs,
	};
	return 0;
}

static int see(struct mover *m, uint64_t entry, uint64_t refs, uint8_t *p)
{
	struct blk_compact *x = m->x;
	uint64_t c;

	if (entry & QCOW2_L2_COMPRESSED)
		return add_extent(m, entry, refs);
	c = (entry & QCOW2_OFFSET_MASK) >> m->q->h.cluster_bits;
	if (c >= x->goal && c < x->end)
		x->to[c - x->goal] = WANTED;
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct extent *x = a, *y = b;

	if (x->off != y->off)
		return x->off < y->off ? -1 : 1;
	return x->len < y->len ? -1 : x->len > y->len;
}

static uint64_t first_of(const struct mover *m, const struct extent *t)
{
	return t->off >> m->q->h.cluster_bits;
}

static uint64_t last_of(const struct mover *m, uint64_t off, uint64_t len)
{
	return (off + len - 1) >> m->q->h.cluster_bits;
}

/*
 * Each once.  Two that begin at one place with different lengths are not made
 * by anybody: they stay.
 */
static void merge_extents(struct mover *m)
{
	size_t n = 0;

	if (!m->n)
		return;
	qsort(m->ext, m->n, sizeof(*m->ext), compare);
	for (size_t i = 0; i < m->n; i++) {
		if (n && m->ext[n - 1].off == m->ext[i].off &&
		    m->ext[n - 1].len == m->ext[i].len)
			m->ext[n - 1].refs += m->ext[i].refs;
		else
			m->ext[n++] = m->ext[i];
	}
	m->n = n;
}

/*
 * Where it goes
 */

/* Bytes that have to be copied: what lies behind is the next one's */
static uint64_t tight(const struct mover *m, size_t i)
{
	const struct extent *t = &m->ext[i];

	if (i + 1 < m->n && m->ext[i + 1].off > t->off &&
	    m->ext[i + 1].off < t->off + t->len)
		return m->ext[i + 1].off - t->off;
	return t->len;
}

static bool is_odd(const struct mover *m, size_t i)
{
	return (i && m->ext[i - 1].off == m->ext[i].off) ||
		(i + 1 < m->n && m->ext[i + 1].off == m->ext[i].off);
}

static bool next_fill(struct mover *m)
{
	uint64_t c = blk_compact_take(m->x, 1);

	if (!c)
		return false;
	m->fill = c;
	m->at = 0;
	m->load = 0;
	return true;
}

/* 0: there is no room for it.  It may go on in the next cluster. */
static uint64_t place(struct mover *m, uint64_t len, uint64_t refs)
{
	uint64_t max = blk_refcount_max(m->q->h.refcount_order);
	uint64_t cs = m->q->cs, old, off, at;

	if ((!m->fill || refs > max - m->load) && !next_fill(m))
		return 0;
	off = m->fill * cs + m->at;
	at = m->at + len;
	if (at > cs) {
		old = m->fill;
		if (!next_fill(m))
			return 0;
		at -= cs;
		if (m->fill != old + 1 || at > cs) {
			off = m->fill * cs;
			at = len;
		}
		if (at > cs)	/* longer than a cluster: it stays */
			return 0;
	}
	m->at = at;
	m->load += refs;
	return off;
}

/* From the last one down, as long as there is room */
static int place_extents(struct mover *m)
{
	struct blk_compact *x = m->x;
	int ret = 0;

	for (size_t i = m->n; i-- && !ret;) {
		struct extent *t = &m->ext[i];
		uint64_t len = tight(m, i);

		if (last_of(m, t->off, t->len) < x->goal)
			break;
		if (is_odd(m, i))
			continue;
		t->to = place(m, len, t->refs);
		if (!t->to)
			break;
		ret = blk_compact_copy_bytes(m->q, t->off, t->to, len);
		if (!ret && x->how->progress && !(i & 15))
			ret = x->how->progress(x->how->opaque, 0);
	}
	return ret;
}

/* The entry says sectors, so the last one may reach behind the bytes. */
static uint64_t sectors_end(uint64_t off, uint64_t len)
{
	return blk_align_up(off + len, 512);
}

static int count_extents(struct mover *m)
{
	int ret = 0;

	for (size_t i = 0; i < m->n && !ret; i++) {
		struct extent *t = &m->ext[i];
		uint64_t end;

		if (!t->to)
			continue;
		m->x->moved++;
		end = sectors_end(t->to, tight(m, i)) - 1;
		for (uint64_t c = t->to >> m->q->h.cluster_bits;
		     c <= end >> m->q->h.cluster_bits && !ret; c++)
			ret = blk_compact_count(m->x, c, (int64_t)t->refs);
	}
	return ret;
}

static int drop_extents(struct mover *m)
{
	int ret = 0;

	for (size_t i = 0; i < m->n && !ret; i++) {
		struct extent *t = &m->ext[i];
		uint64_t last = last_of(m, t->off, t->len);

		if (!t->to)
			continue;
		for (uint64_t c = first_of(m, t); c <= last && !ret; c++)
			ret = blk_compact_count(m->x, c, -(int64_t)t->refs);
	}
	return ret;
}

/* Those at the end go first; neighbours stay neighbours. */
static void place_clusters(struct blk_compact *x)
{
	uint64_t i = x->end - x->goal, wanted = 0, room = 0;

	for (uint64_t k = 0; k < i; k++)
		wanted += x->to[k] == WANTED;
	for (uint64_t c = x->next; c < x->goal && room < wanted; c++)
		room += blk_compact_is_free(x, c);
	for (uint64_t k = 0; k < i; k++) {
		if (x->to[k] != WANTED)
			continue;
		x->to[k] = wanted > room ? 0 : blk_compact_take(x, 1);
		if (wanted > room)
			wanted--;
	}
}

/*
 * The references
 */

static struct extent *find_extent(struct mover *m, uint64_t off)
{
	size_t lo = 0, hi = m->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (m->ext[mid].off < off)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < m->n && m->ext[lo].off == off ? &m->ext[lo] : NULL;
}

static uint64_t new_compressed(struct mover *m, uint64_t off)
{
	struct extent *t = find_extent(m, off);
	uint64_t len, more;

	if (!t || !t->to)
		return 0;
	len = tight(m, (size_t)(t - m->ext));
	more = ((t->to + len - 1) >> 9) - (t->to >> 9);
	return QCOW2_L2_COMPRESSED | t->to |
		more << qcow2_compressed_shift(m->q->h.cluster_bits);
}

static int change(struct mover *m, uint64_t entry, uint64_t refs, uint8_t *p)
{
	struct blk_compact *x = m->x;
	uint32_t bits = m->q->h.cluster_bits;
	uint64_t to = 0, c = (entry & QCOW2_OFFSET_MASK) >> bits;
	uint64_t at = (uint64_t)(p - m->l2);

	if (entry & QCOW2_L2_COMPRESSED)
		to = new_compressed(m, qcow2_compressed_offset(entry, bits));
	else if (c >= x->goal && c < x->end && x->to[c - x->goal])
		to = (entry & ~QCOW2_OFFSET_MASK) |
			x->to[c - x->goal] << bits;
	if (!to)
		return 0;
	blk_put_be64(p, to);
	if (!m->hi)
		m->lo = at;
	m->hi = at + 8;
	return 0;
}

static int move(struct mover *m)
{
	struct blk_compact *x = m->x;
	int ret = each_table(m, see);

	if (ret < 0)
		return ret;
	merge_extents(m);
	ret = place_extents(m);
	place_clusters(x);
	if (!ret)
		ret = count_extents(m);
	if (!ret)
		ret = blk_compact_copy(x);
	if (!ret)
		ret = each_table(m, change);
	if (!ret)
		ret = blk_file_flush(m->q->f);
	if (!ret)
		ret = drop_extents(m);
	return ret ? ret : blk_compact_drop(x);
}

int blk_compact_data(struct blk_compact *x)
{
	struct mover m = { .x = x, .q = x->q };
	int ret;

	if (blk_q_has_data_file(x->q) || x->goal == x->end)
		return 0;
	if (posix_memalign((void **)&m.l2, 4096, BLK_MAX(x->q->cs, 4096U)))
		return -ENOMEM;
	ret = move(&m);
	free(m.l2);
	free(m.ext);
	return ret;
}
