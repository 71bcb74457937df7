// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Making an image's file smaller: what lies at its end moves into free clusters
 * in front, then the file is cut off.
 *
 * Owns the order.  Must not write to a cluster that is in use, but for the one
 * reference that changes.  Locking: the public function holds q->lock.
 *
 * Whatever moves is copied; flush; counted in its new place, as often as in its
 * old one; flush; then the references change, one by one, while both copies
 * are the same; flush; then the old place is free.  A crash leaks.
 *
 * Metadata goes first, for some of it needs more than one cluster in a piece.
 * Empty refcount blocks become free at the end of a round, so there may be
 * another one.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_compact_int.h"

#define ROUNDS		4
#define COPY_BYTES	(1U << 20)

bool blk_compact_is_free(struct blk_compact *x, uint64_t c)
{
	uint64_t idx = c >> x->q->rb_bits;

	return idx < x->q->rt_n && x->q->rt[idx] &&
		!blk_refs_get(&x->c.refs, c);
}

uint64_t blk_compact_take(struct blk_compact *x, uint64_t n)
{
	uint64_t run = 0;

	while (x->next < x->goal && !blk_compact_is_free(x, x->next))
		x->next++;
	for (uint64_t c = x->next; c < x->goal; c++) {
		run = blk_compact_is_free(x, c) ? run + 1 : 0;
		if (run < n)
			continue;
		for (uint64_t i = 0; i < n; i++)
			if (blk_refs_add(&x->c.refs, c - i, 1) < 0)
				return 0;
		return c + 1 - n;
	}
	return 0;
}

int blk_compact_count(struct blk_compact *x, uint64_t cluster, int64_t by)
{
	struct blk_qcow2 *q = x->q;
	uint64_t i = cluster & ((1ULL << q->rb_bits) - 1), rc;
	struct blk_slot *s;
	int ret = blk_slot_get(q, cluster >> q->rb_bits, &s);

	if (ret == -ENOBUFS || (by < 0 && q->n_freed == BLK_MAX_FREED)) {
		ret = blk_release_settle(q);
		if (!ret)
			ret = blk_slot_get(q, cluster >> q->rb_bits, &s);
	}
	if (ret < 0)
		return ret == -ENOENT ? -EUCLEAN : ret;
	rc = blk_refcount_get(s->buf, q->h.refcount_order, i);
	if ((by < 0 && rc < (uint64_t)-by) ||
	    (by > 0 && rc + by > blk_refcount_max(q->h.refcount_order)))
		return -EUCLEAN;
	rc += by;
	blk_slot_set(q, s, i, rc);
	if (by < 0 && !rc)
		blk_release_note(q, cluster);
	return 0;
}

int blk_compact_copy_bytes(struct blk_qcow2 *q, uint64_t from, uint64_t to,
			   uint64_t len)
{
	uint64_t room = BLK_MIN(len, BLK_MAX(COPY_BYTES, q->cs)), n;
	void *buf;
	int ret = 0;

	if (posix_memalign(&buf, 4096, blk_align_up(room, 4096)))
		return -ENOMEM;
	for (; len && !ret; len -= n, from += n, to += n) {
		n = BLK_MIN(len, room);
		ret = blk_file_read(q->f, buf, n, from);
		if (!ret)
			ret = blk_file_write(q->f, buf, n, to);
	}
	free(buf);
	return ret;
}

static int tell(struct blk_compact *x, uint64_t n)
{
	x->moved += n;
	return x->how->progress ?
		x->how->progress(x->how->opaque, n) : 0;
}

/* Longest run of clusters that stay neighbours */
static int copy_runs(struct blk_compact *x)
{
	uint64_t max = BLK_MAX(COPY_BYTES / x->q->cs, 1U), n;
	int ret = 0;

	for (uint64_t i = 0; i < x->end - x->goal && !ret; i += n) {
		n = 1;
		if (!x->to[i])
			continue;
		while (n < max && i + n < x->end - x->goal &&
		       x->to[i + n] == x->to[i] + n)
			n++;
		ret = blk_compact_copy_bytes(x->q, (x->goal + i) * x->q->cs,
					     x->to[i] * x->q->cs,
					     n * x->q->cs);
		if (!ret)
			ret = tell(x, n);
	}
	return ret ? ret : blk_file_flush(x->q->f);
}

static uint64_t refs_of(struct blk_compact *x, uint64_t i)
{
	return blk_refs_get(&x->c.refs, x->goal + i);
}

int blk_compact_copy(struct blk_compact *x)
{
	int ret = copy_runs(x);

	for (uint64_t i = 0; i < x->end - x->goal && !ret; i++)
		if (x->to[i])
			ret = blk_compact_count(x, x->to[i],
						(int64_t)refs_of(x, i));
	return ret ? ret : blk_slots_commit(x->q);
}

int blk_compact_drop(struct blk_compact *x)
{
	int ret = 0;

	for (uint64_t i = 0; i < x->end - x->goal && !ret; i++)
		if (x->to[i])
			ret = blk_compact_count(x, x->goal + i,
						-(int64_t)refs_of(x, i));
	memset(x->to, 0, (x->end - x->goal) * sizeof(*x->to));
	return ret ? ret : blk_release_settle(x->q);
}

static void end_round(struct blk_compact *x)
{
	blk_check_free(&x->c);
	free(x->to);
	x->to = NULL;
}

/* What there is now */
static int begin_round(struct blk_compact *x)
{
	struct blk_qcow2 *q = x->q;
	int ret;

	blk_alloc_forget(q);
	ret = blk_alloc_prepare(q, x->e);
	if (ret < 0)
		return ret;
	x->c = (struct blk_check){ .q = q, .e = x->e, .meta = &q->meta };
	ret = blk_check_collect(&x->c);
	if (ret < 0)
		return ret;
	x->end = blk_refs_end(&x->c.refs);
	x->goal = 0;
	for (uint64_t c = 0; c < x->end; c++)
		x->goal += blk_refs_get(&x->c.refs, c) != 0;
	x->next = 0;
	x->to = calloc(x->end - x->goal + 1, sizeof(*x->to));
	return x->to ? 0 : blk_error_set(x->e, BLK_ERR_FAILED, ENOMEM,
					 "out of memory");
}

static int run_part(struct blk_compact *x, int (*part)(struct blk_compact *x))
{
	int ret = begin_round(x);

	if (!ret) {
		ret = part(x);
		if (ret == -EUCLEAN)
			blk_q_corrupt(x->q, x->e,
				      "its refcounts are not as they must be");
		else if (ret == -ECANCELED)
			blk_error_set(x->e, BLK_ERR_FAILED, EINTR,
				      "interrupted");
		else if (ret < 0 && x->e && !x->e->err)
			blk_q_io_error(x->q, x->e, ret, "move clusters");
	}
	end_round(x);
	return ret;
}

static int rounds(struct blk_compact *x)
{
	static int (*const parts[])(struct blk_compact *x) = {
		blk_compact_metadata, blk_compact_data,
		blk_compact_empty_blocks,
	};
	uint64_t before;
	int ret = 0, r = 0;

	do {
		before = x->moved + x->unlinked;
		for (size_t i = 0; i < BLK_COUNT(parts) && !ret; i++)
			ret = run_part(x, parts[i]);
	} while (!ret && x->moved + x->unlinked > before && ++r < ROUNDS);
	return ret;
}

static int check(const struct blk_qcow2 *q, struct blk_error *e)
{
	const char *why = NULL;

	if (q->h.crypt_method != QCOW2_CRYPT_NONE)
		why = "it is encrypted, by where each cluster is";
	else if (q->scan)
		why = "it is being searched for leaked clusters";
	else if (q->f->is_bdev)
		why = "it is on a block device, which stays as large as it is";
	if (why)
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' cannot be compacted: %s",
				     q->f->path, why);
	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT)
		return blk_q_corrupt(q, e, "it is marked as corrupt");
	return q->stuck ? blk_q_io_error(q, e, -EIO, "move clusters") : 0;
}

/* Refcounts are right: nothing in use lies behind the end. */
static int cut_file(struct blk_qcow2 *q, struct blk_error *e)
{
	bool exact;
	uint64_t end;
	int64_t now = blk_file_size(q->f);
	int ret;

	blk_alloc_forget(q);
	ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	ret = now < 0 ? (int)now : blk_alloc_find_end(q, &end, &exact);
	if (!ret && exact && end * q->cs < (uint64_t)now) {
		ret = blk_file_truncate(q->f, end * q->cs);
		if (!ret)
			ret = blk_file_flush(q->f);
	}
	blk_alloc_forget(q);
	return ret < 0 ? blk_q_io_error(q, e, ret, "shorten the file") : 0;
}

int blk_qcow2_compact(struct blk_qcow2 *q, const struct blk_qcow2_compact *how,
		      uint64_t *moved, struct blk_error *e)
{
	struct blk_error own = { .err = 0 };
	struct blk_compact x = { .q = q, .e = &own, .how = how };
	int ret, rc;

	blk_guard_mutex(&q->lock);
	ret = check(q, &own);
	if (!ret)
		ret = blk_repair_now(q, &own);
	if (!ret)
		ret = rounds(&x);
	if (ret < 0) {
		blk_slots_abort(q, true);
		q->n_freed = 0;
	}
	if (ret == -ECANCELED)	/* what was counted for nothing */
		blk_repair_now(q, NULL);
	*moved = x.moved;
	rc = q->stuck || (ret < 0 && ret != -ECANCELED) ? 0 :
		cut_file(q, ret ? NULL : &own);
	if (!ret)
		ret = rc;
	if (ret < 0 && e)
		*e = own;
	return ret;
}
