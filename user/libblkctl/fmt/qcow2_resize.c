// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Changing the disk's size.
 *
 * Owns the order of a resize.  Must not let anything but zeroes show in the new
 * part, and must not take a cluster whose refcount is not 0 for a leak: the
 * kernel may hold grants.  Locking: the public function holds q->lock.
 *
 * Growing: what is mapped behind the end is unmapped, the L1 grows (new table,
 * flush, header, flush, only then the old one is freed), zeroes cover what the
 * backing file would show, and at last the size is written.  Shrinking writes
 * the size first, so that a crash leaves the old disk or the new one, and then
 * unmaps what lies behind it.
 */
#include <errno.h>
#include <string.h>

#include "base/be.h"
#include "fmt/qcow2_edit_int.h"

#define HEADER_SIZE_AT		24U
#define HEADER_L1_AT		36U	/* l1_size and l1_table_offset */
#define MAX_SIZE		(1ULL << 61)

static int refuse(const struct blk_qcow2 *q, struct blk_error *e,
		  const char *why, const char *hint)
{
	blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
		      "'%s' cannot be resized: %s", q->f->path, why);
	if (hint)
		blk_error_hint(e, "%s", hint);
	return -EOPNOTSUPP;
}

static int check_sizes(const struct blk_qcow2 *q, uint64_t size, bool shrink,
		       uint64_t backing_size, struct blk_error *e)
{
	struct qcow2_header h = q->h;

	h.size = size;
	if (size & 511)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "the size %llu is no multiple of 512",
				     (unsigned long long)size);
	if (size > MAX_SIZE || qcow2_l1_needed(&h) * 8 > QCOW2_MAX_L1_BYTES)
		return refuse(q, e, "the size is too large for its clusters",
			      "larger clusters allow larger disks");
	if (size < q->h.size && !shrink) {
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "'%s' would become smaller: %llu bytes, now %llu",
			      q->f->path, (unsigned long long)size,
			      (unsigned long long)q->h.size);
		blk_error_hint(e, "what lies behind the new end will be lost; say that it may shrink");
		return -EINVAL;
	}
	if (size > q->h.size && backing_size > q->h.size && q->h.version < 3)
		return refuse(q, e,
			      "its backing file would show in the new part, which version 2 cannot hide",
			      "\"qemu-img amend -o compat=1.1\" makes it version 3");
	return 0;
}

static int check_image(struct blk_qcow2 *q, struct blk_error *e)
{
	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT)
		return blk_q_corrupt(q, e, "it is marked as corrupt");
	if (q->h.version < 3 && q->h.nb_snapshots)
		return refuse(q, e,
			      "its snapshots do not say how large their disks are (version 2)",
			      "delete the snapshots, or make it version 3: \"qemu-img amend -o compat=1.1\"");
	if (blk_q_has_bitmaps(q))
		return refuse(q, e, "it has persistent bitmaps, which do not fit another size",
			      "remove them first: \"qemu-img bitmap --remove\"");
	if (q->scan) {
		blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			      "'%s' cannot be resized: it is being searched for leaked clusters",
			      q->f->path);
		return -EBUSY;
	}
	if (q->stuck)
		return blk_q_io_error(q, e, -EIO, "write the header");
	return 0;
}

static int write_size(struct blk_qcow2 *q, uint64_t size)
{
	int ret;

	q->h.size = size;
	blk_header_emit(&q->h, q->head);
	ret = blk_q_write_head(q, HEADER_SIZE_AT, 8);
	if (ret < 0)
		blk_q_reread_head(q);
	return ret;
}

/* A larger L1 */
struct new_l1 {
	uint64_t off;
	uint64_t len;		/* whole clusters */
	uint32_t n;		/* entries */
};

static int write_new_l1(struct blk_edit *d, const struct new_l1 *l)
{
	struct blk_qcow2 *q = d->q;
	uint64_t *be;
	int ret;

	if (posix_memalign((void **)&be, 4096, BLK_MAX(l->len, 4096U)))
		return -ENOMEM;
	memset(be, 0, l->len);
	for (uint32_t i = 0; i < d->l1_n; i++)
		be[i] = htobe64(d->l1[i]);
	ret = blk_file_write(q->f, be, l->len, l->off);
	if (!ret)
		ret = blk_file_flush(q->f);
	free(be);
	return ret;
}

/* One sector of the header: both fields or none */
static int switch_l1(struct blk_qcow2 *q, const struct new_l1 *l)
{
	int ret;

	q->h.l1_size = l->n;
	q->h.l1_table_offset = l->off;
	blk_header_emit(&q->h, q->head);
	ret = blk_q_write_head(q, HEADER_L1_AT, 12);
	if (ret < 0) {
		blk_q_reread_head(q);
		q->stuck = true;	/* which table is it now? */
	}
	return ret;
}

static void free_old_l1(struct blk_qcow2 *q, uint64_t off, uint64_t len)
{
	struct dm_qcow_run run = {
		.offset = off, .length = blk_align_up(len, q->cs),
	};
	struct blk_meta_run *m = blk_meta_find(&q->meta, off);

	if (!len)
		return;
	if (m && m->off == off)
		m->kind = BLK_META_RETIRED;
	if (blk_release_runs(q, &run, 1) < 0)
		q->leaked = true;
}

static int grow_l1(struct blk_edit *d, uint64_t needed)
{
	struct blk_qcow2 *q = d->q;
	uint64_t old = q->h.l1_table_offset;
	uint32_t old_n = d->l1_n;
	struct new_l1 l = { .n = (uint32_t)needed };
	uint64_t *p;
	int ret;

	if (needed <= d->l1_n)
		return 0;
	l.len = blk_align_up(needed * 8, q->cs);
	p = realloc(d->l1, needed * 8);
	if (!p)
		return -ENOMEM;
	d->l1 = p;
	memset(p + old_n, 0, (needed - old_n) * 8);
	ret = blk_grow_table_area(q, l.len >> q->h.cluster_bits, &l.off);
	if (!ret)
		ret = write_new_l1(d, &l);
	if (!ret)
		ret = switch_l1(q, &l);
	if (ret < 0)
		return ret;
	d->l1_n = l.n;
	free_old_l1(q, old, old_n * 8ULL);
	return 0;
}

/* Guest clusters [from, to), which nothing maps, become zeroes. */
static int cover_with_zeroes(struct blk_edit *d, uint64_t from, uint64_t to)
{
	struct blk_qcow2 *q = d->q;
	uint32_t shift = qcow2_l2_span_bits(&q->h) - q->h.cluster_bits;
	uint64_t last = to ? (to - 1) >> shift : 0;
	bool ext = blk_q_has_extl2(q);
	int ret = 0;

	for (uint64_t i = from >> shift; from < to && i <= last && !ret; i++) {
		uint64_t stop = BLK_MIN((i + 1) << shift, to);

		d->want = last - i + 1;
		ret = blk_edit_load(d, (uint32_t)i, true);
		for (; from < stop && !ret; from++)
			ret = blk_edit_set(d, from & ((1ULL << shift) - 1),
					   ext ? 0 : QCOW2_L2_ZERO,
					   ext ? QCOW2_EXTL2_ALL_ZERO : 0);
		if (!ret)
			ret = blk_edit_store(d);
	}
	return ret;
}

/* The last cluster, of which the disk ends inside */
struct tail {
	uint64_t i;		/* its entry in the L2 table */
	uint64_t used;		/* bytes of it that are the disk's */
	uint64_t entry;
	uint64_t bitmap;
	uint8_t *buf;		/* the cluster */
};

/* Zeroes in the host cluster behind the end; a shared one is copied. */
static int zero_host_tail(struct blk_edit *d, struct tail *t)
{
	struct blk_qcow2 *q = d->q;
	uint64_t host = t->entry & QCOW2_OFFSET_MASK;
	uint64_t rc, copy;
	int ret = blk_file_read(q->f, t->buf, q->cs, host);

	if (ret < 0 || blk_is_zero(t->buf + t->used, q->cs - t->used))
		return ret;
	memset(t->buf + t->used, 0, q->cs - t->used);
	ret = blk_refcount_read(q, host >> q->h.cluster_bits, &rc);
	if (ret < 0)
		return ret;
	if (!rc)
		return -EUCLEAN;
	if (rc == 1 && t->entry & QCOW2_ENTRY_COPIED) {
		ret = blk_q_write_table(q, t->buf, host, t->used, q->cs);
		return ret ? ret : blk_file_flush(q->f);
	}
	ret = blk_edit_alloc(d, &copy);
	if (!ret)
		ret = blk_file_write(q->f, t->buf, q->cs, copy);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (ret < 0)
		return ret;
	blk_edit_free(d, t->entry);
	t->entry = copy | QCOW2_ENTRY_COPIED;
	return 0;
}

/*
 * Subclusters that would show the backing file behind the end.  1: one of them
 * shows it in front of the end, too.
 */
static int hide_subclusters(const struct blk_qcow2 *q, struct tail *t)
{
	uint32_t bits = q->h.cluster_bits - 5;

	for (uint32_t sc = (uint32_t)(t->used >> bits);
	     sc < QCOW2_SUBCLUSTERS; sc++) {
		if (t->bitmap & (QCOW2_EXTL2_ALLOC(sc) | QCOW2_EXTL2_ZERO(sc)))
			continue;
		if ((uint64_t)sc << bits < t->used)
			return 1;
		t->bitmap |= QCOW2_EXTL2_ZERO(sc);
	}
	return 0;
}

/* 1: the backing file shows on both sides of the end, and stays in the way */
static int zero_tail_entry(struct blk_edit *d, struct tail *t, bool backing)
{
	struct blk_qcow2 *q = d->q;
	uint64_t entry = t->entry, bitmap = t->bitmap;
	bool is_data = entry & QCOW2_OFFSET_MASK && !(entry & QCOW2_L2_ZERO);
	int ret = blk_edit_check(d, entry, bitmap);

	if (ret < 0 || entry & QCOW2_L2_COMPRESSED)
		return ret;
	if (backing && blk_q_has_extl2(q))
		ret = hide_subclusters(q, t);
	else if (backing && !entry)
		ret = 1;
	/* ciphertext and other files are not ours to zero */
	if (!ret && is_data && !blk_q_has_data_file(q) &&
	    q->h.crypt_method == QCOW2_CRYPT_NONE)
		ret = zero_host_tail(d, t);
	if (!ret && (t->entry != entry || t->bitmap != bitmap))
		ret = blk_edit_set(d, t->i, t->entry, t->bitmap);
	return ret ? ret : blk_edit_store(d);
}

/* What lies behind the old end in the last cluster, if that is cut by it */
static int zero_tail(struct blk_edit *d, uint64_t backing_size,
		     struct blk_error *e)
{
	struct blk_qcow2 *q = d->q;
	uint32_t span = qcow2_l2_span_bits(&q->h);
	struct tail t = { .used = q->h.size & (q->cs - 1) };
	uint64_t index = q->h.size >> span;
	bool backing = backing_size > q->h.size;
	int ret;

	if (!t.used)
		return 0;
	/* an unaligned end always has an L1 entry: l1_size covers the disk */
	t.i = (q->h.size & ((1ULL << span) - 1)) >> q->h.cluster_bits;
	ret = blk_edit_load(d, (uint32_t)index,
			    backing && blk_q_has_extl2(q));
	if (ret < 0 || (!d->at && !backing))
		return ret;
	if (posix_memalign((void **)&t.buf, 4096, BLK_MAX(q->cs, 4096U)))
		return -ENOMEM;
	if (d->at)
		t.entry = blk_edit_entry(d, t.i, &t.bitmap);
	ret = d->at ? zero_tail_entry(d, &t, backing) : 1;
	free(t.buf);
	if (ret > 0)
		ret = refuse(q, e, "its end cuts a cluster that shows the backing file, which is longer",
			     "write something to the disk's last cluster first");
	return ret;
}

static int grow(struct blk_edit *d, uint64_t size, uint64_t backing_size,
		struct blk_error *e)
{
	struct blk_qcow2 *q = d->q;
	struct qcow2_header h = q->h;
	uint64_t from = blk_align_up(q->h.size, q->cs);
	uint64_t to = blk_align_up(BLK_MIN(size, backing_size), q->cs);
	bool bad = false;
	int ret = zero_tail(d, backing_size, e);

	h.size = size;
	if (!ret)
		ret = blk_edit_cut(d, from, &bad);
	if (!ret && bad)
		ret = -EUCLEAN;
	if (!ret)
		ret = grow_l1(d, qcow2_l1_needed(&h));
	if (!ret)
		ret = cover_with_zeroes(d, from >> q->h.cluster_bits,
					to >> q->h.cluster_bits);
	return ret ? ret : write_size(q, size);
}

/* Once the size is written it has happened; what fails later only leaks. */
static int shrink_to(struct blk_edit *d, uint64_t size)
{
	struct blk_qcow2 *q = d->q;
	bool bad = false;
	int ret = write_size(q, size);

	if (ret < 0)
		return ret;
	if (blk_edit_cut(d, blk_align_up(size, q->cs), &bad) < 0 || bad)
		q->leaked = true;
	return 0;
}

static int resize(struct blk_qcow2 *q, uint64_t size, uint64_t backing_size,
		  struct blk_error *e)
{
	struct blk_error why = { .err = 0 };
	struct blk_edit d;
	int ret = blk_edit_open(&d, q);

	if (!ret)
		ret = size > q->h.size ?
			grow(&d, size, backing_size, &why) :
			shrink_to(&d, size);
	blk_edit_close(&d);
	if (ret < 0 && ret != -EOPNOTSUPP)
		q->leaked = true;
	/* Nothing was given out meanwhile that is not counted. */
	blk_alloc_forget(q);
	/* memory for the allocator is taken now, not when a grant is due */
	blk_alloc_prepare(q, NULL);
	if (ret == -EUCLEAN)
		return blk_q_corrupt(q, e, "its tables are not as they must be");
	if (ret < 0 && why.err && e)
		*e = why;
	else if (ret < 0)
		blk_q_io_error(q, e, ret, "change the size");
	return ret;
}

int blk_qcow2_resize(struct blk_qcow2 *q, uint64_t size, bool shrink,
		     uint64_t backing_size, struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	ret = check_sizes(q, size, shrink, backing_size, e);
	if (!ret)
		ret = check_image(q, e);
	if (!ret)
		ret = blk_alloc_prepare(q, e);
	if (ret < 0 || size == q->h.size)
		return ret;
	return resize(q, size, backing_size, e);
}
