// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Space for a part of the disk before anybody writes to it.
 *
 * Owns nothing but the order: clusters that read as zeroes, durably, then the
 * tables that name them.  Must not change what is mapped.  Locking: the public
 * function holds q->lock.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_edit_int.h"

struct prealloc {
	struct blk_edit d;
	struct blk_qcow2 *q;
	enum blk_prealloc how;
	bool show;
	uint8_t *zeroes;
};

/* One cluster of zeroes of the kind that was asked for */
static int fill(struct prealloc *p, uint64_t off)
{
	struct blk_qcow2 *q = p->q;
	int ret;

	if (p->how == BLK_PREALLOC_FULL)
		return blk_file_write(q->f, p->zeroes, q->cs, off);
	ret = blk_file_zero(q->f, off, q->cs);
	if (ret == -EOPNOTSUPP)
		ret = blk_file_write(q->f, p->zeroes, q->cs, off);
	if (!ret && p->how == BLK_PREALLOC_METADATA)
		blk_file_discard(q->f, off, q->cs);
	return ret;
}

/* Zeroes in the file are not zeroes to who decrypts them. */
static int map_one(struct prealloc *p, uint64_t i, uint64_t guest)
{
	struct blk_edit *d = &p->d;
	struct blk_qcow2 *q = p->q;
	uint64_t bitmap, entry = blk_edit_entry(d, i, &bitmap), off = guest;
	bool zero = q->h.crypt_method != QCOW2_CRYPT_NONE;
	int ret = 0;

	if (entry || bitmap)
		return 0;
	if (!blk_q_has_data_file(q)) {
		ret = blk_edit_alloc(d, &off);
		if (!ret)
			ret = fill(p, off);
	}
	if (ret < 0)
		return ret;
	entry = off | QCOW2_ENTRY_COPIED;
	if (!blk_q_has_extl2(q))
		return blk_edit_set(d, i, entry | (zero ? QCOW2_L2_ZERO : 0),
				    0);
	return blk_edit_set(d, i, entry, p->show ? 0 : zero ?
			    QCOW2_EXTL2_ALL_ZERO : QCOW2_EXTL2_ALL_ALLOC);
}

static int map_table(struct prealloc *p, uint64_t *from, uint64_t to)
{
	struct blk_edit *d = &p->d;
	uint32_t bits = p->q->h.cluster_bits;
	uint32_t span = qcow2_l2_span_bits(&p->q->h);
	uint64_t mask = (1ULL << span) - 1;
	uint64_t stop = BLK_MIN((*from | mask) + 1, to);
	int ret;

	d->want = ((stop - *from) >> bits) + 1;
	ret = blk_edit_load(d, (uint32_t)(*from >> span), true);
	for (; !ret && *from < stop; *from += p->q->cs)
		ret = map_one(p, (*from & mask) >> bits, *from);
	if (!ret)
		ret = blk_file_flush(p->q->f);
	return ret ? ret : blk_edit_store(d);
}

static int preallocate(struct prealloc *p, uint64_t from, uint64_t to)
{
	int ret = blk_edit_open(&p->d, p->q);

	if (!ret && posix_memalign((void **)&p->zeroes, 4096,
				   BLK_MAX(p->q->cs, 4096U)))
		ret = -ENOMEM;
	if (!ret)
		memset(p->zeroes, 0, p->q->cs);
	while (!ret && from < to)
		ret = map_table(p, &from, to);
	free(p->zeroes);
	blk_edit_close(&p->d);
	return ret;
}

int blk_qcow2_can_preallocate(const struct blk_qcow2 *q, struct blk_error *e)
{
	return q->h.crypt_method == QCOW2_CRYPT_NONE || q->h.version >= 3 ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			      "encrypted images of version 2 cannot be preallocated");
}

int blk_qcow2_preallocate(struct blk_qcow2 *q, uint64_t from, uint64_t to,
			  bool show, enum blk_prealloc how,
			  struct blk_error *e)
{
	struct prealloc p = { .q = q, .how = how, .show = show };
	int ret;

	blk_guard_mutex(&q->lock);
	if (how == BLK_PREALLOC_OFF)
		return 0;
	ret = blk_qcow2_can_preallocate(q, e);
	if (!ret)
		ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	q->as_they_are = true;	/* they are filled here */
	/* the cluster with the old end may show what is below */
	ret = preallocate(&p, blk_align_up(from, q->cs),
			  blk_align_up(BLK_MIN(to, q->h.size), q->cs));
	q->as_they_are = false;
	if (ret == -ENOSPC)
		return blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				     "no space left for '%s'", q->f->path);
	return ret < 0 ? blk_q_io_error(q, e, ret, "preallocate clusters") : 0;
}
