// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What is where: extents of one image, and of it with all below.
 *
 * Must not trust an entry: each is judged when it is used.  Locking: a table
 * is looked at under blk_img.lock.
 */
#include <endian.h>
#include <errno.h>
#include <unistd.h>

#include "base/be.h"
#include "img/img_int.h"

/* Which part of a cluster an entry is about: a cluster, or a subcluster */
struct piece {
	enum blk_ext_kind kind;
	bool has_place;		/* in the file, at .host */
	bool shared;
	uint64_t host;
};

static struct blk_file *data_file(const struct blk_img *m)
{
	return m->data ? m->data : m->file;
}

static int damaged(const struct blk_img *m, const char *why,
		   struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EUCLEAN, "'%s' is damaged: %s",
			     m->file->path, why);
}

static void take_entry(const struct blk_img *m, const uint8_t *table,
		       uint64_t off, uint64_t *entry, uint64_t *bitmap)
{
	uint64_t i = (off >> m->h.cluster_bits) & (m->cs / m->entry - 1);
	const uint64_t *at = (const uint64_t *)(table + i * m->entry);

	*entry = be64toh(at[0]);
	*bitmap = img_has_extl2(m) ? be64toh(at[1]) : 0;
}

/* Has it a host cluster?  In a data file that may be the one at 0. */
static bool is_allocated(const struct blk_img *m, uint64_t entry)
{
	bool apart = m->h.incompatible_features & QCOW2_INCOMPAT_DATA_FILE;

	return entry & QCOW2_OFFSET_MASK ||
		(apart && entry & QCOW2_ENTRY_COPIED);
}

static const char *judge(const struct blk_img *m, uint64_t entry,
			 uint64_t bitmap)
{
	/* the end of the file is left to reading: behind it are zeroes */
	const char *why = qcow2_l2_check(entry, m->h.cluster_bits, UINT64_MAX,
					 m->h.version);

	if (!why && img_has_extl2(m))
		why = qcow2_extl2_check(entry, bitmap, is_allocated(m, entry));
	return why;
}

static struct piece look(const struct blk_img *m, uint64_t entry,
			 uint64_t bitmap, uint64_t off)
{
	uint64_t in = off & (m->cs - 1);
	unsigned int sc = in / (m->cs / QCOW2_SUBCLUSTERS);
	struct piece p = {
		.kind = BLK_EXT_HOLE,
		.has_place = is_allocated(m, entry),
		.host = (entry & QCOW2_OFFSET_MASK) + in,
	};

	if (entry & QCOW2_L2_COMPRESSED)
		return (struct piece){ .kind = BLK_EXT_COMPRESSED };
	if (!img_has_extl2(m)) {
		if (entry & QCOW2_L2_ZERO)
			p.kind = BLK_EXT_ZERO;
		else if (p.has_place)
			p.kind = BLK_EXT_DATA;
	} else if (bitmap & QCOW2_EXTL2_ALLOC(sc)) {
		p.kind = BLK_EXT_DATA;
	} else if (bitmap & QCOW2_EXTL2_ZERO(sc)) {
		p.kind = BLK_EXT_ZERO;
	} else {
		p.has_place = false;
	}
	return p;
}

static int look_shared(struct blk_img *m, struct piece *p, struct blk_error *e)
{
	int rc = 0;

	if (m->flags & BLK_IMG_SHARED && p->has_place && !m->data)
		rc = blk_qcow2_shared(m->q, p->host, &p->shared);
	return rc ? img_io_error(m->file, rc, "read refcounts of", e) : 0;
}

static bool follows(const struct piece *a, const struct piece *b, uint64_t len)
{
	return a->kind == b->kind && a->has_place == b->has_place &&
		a->shared == b->shared && (!a->has_place || a->host + len == b->host);
}

/*
 * Clusters of data mostly follow each other: the end of those that do so from
 * the one at @at on, whose entry is good; else the cluster behind it.
 */
static uint64_t end_of_row(const struct blk_img *m, const uint8_t *table,
			   uint64_t at, uint64_t end, uint64_t entry)
{
	uint64_t place = entry & QCOW2_OFFSET_MASK, next = at & ~(m->cs - 1);
	uint64_t this, bitmap;

	do {
		next += m->cs;
		entry += m->cs;
		place += m->cs;
		if (next >= end || place & ~QCOW2_OFFSET_MASK)
			break;
		take_entry(m, table, next, &this, &bitmap);
	} while (this == entry);
	return next;
}

/* In one table: as far as it is of one kind and in one piece */
static int run_of(struct blk_img *m, const uint8_t *table, uint64_t off,
		  uint64_t len, struct piece *p, uint64_t *run,
		  struct blk_error *e)
{
	uint64_t unit = img_has_extl2(m) ? m->cs / QCOW2_SUBCLUSTERS : m->cs;
	uint64_t entry, bitmap, at, next;
	const char *why;

	for (at = off; at < off + len; at = next) {
		struct piece q;

		take_entry(m, table, at, &entry, &bitmap);
		why = judge(m, entry, bitmap);
		if (why && at == off)
			return damaged(m, why, e);
		if (why)
			break;
		q = look(m, entry, bitmap, at);
		if (look_shared(m, &q, e))
			return -EIO;
		if (at == off)
			*p = q;
		else if (!follows(p, &q, at - off))
			break;
		next = (at & ~(unit - 1)) + unit;
		if (q.kind == BLK_EXT_DATA && unit == m->cs)
			next = end_of_row(m, table, at, off + len, entry);
	}
	*run = BLK_MIN(at, off + len) - off;
	return 0;
}

/* Is it a hole of the file?  Cuts @len to what is one or the other. */
static bool is_sparse(const struct blk_file *f, uint64_t host, uint64_t *len)
{
	off_t data = lseek(f->fd, host, SEEK_DATA), hole;

	if (data < 0)
		return errno == ENXIO;
	if ((uint64_t)data > host) {
		*len = BLK_MIN(*len, data - host);
		return true;
	}
	hole = lseek(f->fd, host, SEEK_HOLE);
	if (hole > (off_t)host)
		*len = BLK_MIN(*len, hole - host);
	return false;
}

static int map_qcow2(struct blk_img *m, uint64_t off, uint64_t len,
		     struct blk_extent *x, struct blk_error *e)
{
	uint64_t span = 1ULL << qcow2_l2_span_bits(&m->h);
	struct piece p = { .kind = BLK_EXT_HOLE };
	const uint8_t *table;
	int rc;

	len = BLK_MIN(len, span - (off & (span - 1)));
	pthread_mutex_lock(&m->lock);
	rc = img_table_get(m, off, &table, e);
	if (!rc && table)
		rc = run_of(m, table, off, len, &p, &len, e);
	pthread_mutex_unlock(&m->lock);
	x->len = len;
	x->kind = p.kind;
	x->host = p.host;
	x->has_host = p.has_place && !m->h.crypt_method;
	x->shared = p.shared;
	x->file = data_file(m);
	if (!rc && m->sparse && p.kind == BLK_EXT_DATA && x->has_host &&
	    is_sparse(x->file, x->host, &x->len)) {
		x->kind = BLK_EXT_ZERO;
		x->preallocated = true;
	}
	return rc;
}

static void map_raw(struct blk_img *m, uint64_t off, uint64_t len,
		    struct blk_extent *x)
{
	x->len = len;
	x->host = off;
	x->has_host = true;
	x->file = m->file;
	x->kind = BLK_EXT_DATA;
	if (!m->file->is_bdev && is_sparse(m->file, off, &x->len))
		x->kind = BLK_EXT_ZERO;
}

int blk_img_map_own(struct blk_img *m, uint64_t off, uint64_t len,
		    struct blk_extent *out, struct blk_error *e)
{
	*out = (struct blk_extent){ .off = off };
	if (off >= m->size || !len)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "%llu is not on the disk of '%s'",
				     (unsigned long long)off, m->name);
	len = BLK_MIN(len, m->size - off);
	if (m->q)
		return map_qcow2(m, off, len, out, e);
	map_raw(m, off, len, out);
	return 0;
}

int blk_img_map(struct blk_img *m, uint64_t off, uint64_t len,
		struct blk_extent *out, struct blk_error *e)
{
	unsigned int layer = 0;
	int rc;

	for (;;) {
		rc = blk_img_map_own(m, off, len, out, e);
		out->layer = layer;
		if (rc || out->kind != BLK_EXT_HOLE || !m->backing)
			return rc;
		len = out->len;
		m = m->backing;
		layer++;
		if (off < m->size)
			continue;
		/* behind its end it has zeroes */
		out->kind = BLK_EXT_ZERO;
		out->layer = layer;
		return 0;
	}
}

int img_entry(struct blk_img *m, uint64_t off, uint64_t *entry,
	      uint64_t *bitmap, struct blk_error *e)
{
	const uint8_t *table;
	const char *why;
	int rc;

	*entry = *bitmap = 0;
	pthread_mutex_lock(&m->lock);
	rc = img_table_get(m, off, &table, e);
	if (!rc && table)
		take_entry(m, table, off, entry, bitmap);
	pthread_mutex_unlock(&m->lock);
	why = rc ? NULL : judge(m, *entry, *bitmap);
	return why ? damaged(m, why, e) : rc;
}
