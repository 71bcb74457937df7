// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Repairing a dirty image: what QEMU does when it opens one for writing.
 *
 * Owns the order of the repair.  Must not write anything before all of the
 * image has been counted and found to be sound but for its refcounts.
 * Locking: the public function holds q->lock all the time.
 *
 * Refcounts that are too low are raised first, so that from then on nothing in
 * use can be taken for free; then the COPIED bits of the active tables; then
 * refcounts that are too high are lowered; flushes between; the dirty bit goes
 * last.  A crash leaves it set, and the next repair begins anew.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_check_int.h"

#define HEADER_INCOMPAT_AT	72U

/**
 * struct repair - one attempt
 * @end: one more than the last cluster that is referred to, or of a file:
 *       what lies behind it is free for new refcount blocks
 * @again: the refcount table has moved: everything has to be counted anew
 * @how: what is wanted
 * @touched: the image may have changed
 */
struct repair {
	struct blk_check c;
	struct blk_qcow2 *q;
	uint64_t end;
	bool again;
	const struct blk_repair *how;
	bool touched;
};

static uint64_t block_size(const struct blk_qcow2 *q)
{
	return 1ULL << q->rb_bits;
}

/* Where a new block for that range goes: into the range itself, if it can */
static uint64_t place_block(struct repair *r, uint64_t idx)
{
	struct blk_qcow2 *q = r->q;
	uint64_t end = BLK_MIN((idx + 1) << q->rb_bits, r->end);

	for (uint64_t c = idx << q->rb_bits; c < end; c++)
		if (!blk_refs_get(&r->c.refs, c))
			return c;
	return r->end;
}

/*
 * A place behind everything has no refcount yet.  It gets one when its own
 * range is looked at, which is this one or a later one.
 */
static int new_block(struct repair *r, uint64_t idx, struct blk_slot **s)
{
	struct blk_qcow2 *q = r->q;
	uint64_t c = place_block(r, idx);
	int ret;

	if (c >= blk_grow_limit(q))
		return -ENOSPC;
	ret = blk_grow_file(q, c * q->cs, (c + 1) * q->cs);
	if (!ret)
		ret = blk_slot_new(q, idx, c * q->cs, s);
	if (!ret)
		ret = blk_refs_add(&r->c.refs, c, 1);
	if (!ret)
		r->end = BLK_MAX(r->end, c + 1);
	return ret;
}

static int get_block(struct repair *r, uint64_t idx, struct blk_slot **s)
{
	struct blk_qcow2 *q = r->q;
	int ret = blk_slot_get(q, idx, s);

	if (ret == -ENOENT && blk_refs_any(&r->c.refs, idx << q->rb_bits,
					   (idx + 1) << q->rb_bits))
		ret = new_block(r, idx, s);
	return ret;
}

static int raise_block(struct repair *r, uint64_t idx)
{
	struct blk_qcow2 *q = r->q;
	struct blk_slot *s;
	int ret = get_block(r, idx, &s);

	if (ret == -ENOBUFS) {
		ret = blk_slots_commit(q);
		if (!ret)
			ret = get_block(r, idx, &s);
	}
	if (ret < 0)
		return ret == -ENOENT ? 0 : ret;
	for (uint64_t i = 0; i < block_size(q); i++) {
		uint64_t refs = blk_refs_get(&r->c.refs,
					     (idx << q->rb_bits) + i);

		if (blk_refcount_get(s->buf, q->h.refcount_order, i) < refs)
			blk_slot_set(q, s, i, refs);
	}
	return 0;
}

/* The table is too short.  All that it covers has been raised. */
static int longer_table(struct repair *r, uint64_t n)
{
	int ret = blk_slots_commit(r->q);

	r->again = true;
	r->q->end = BLK_MAX(r->q->end, r->end);
	return ret ? ret : blk_grow_table(r->q, n);
}

static int raise(struct repair *r)
{
	struct blk_qcow2 *q = r->q;
	int ret = 0;

	for (uint64_t i = 0; i << q->rb_bits < r->end && !ret; i++) {
		if (i >= q->rt_n && blk_refs_any(&r->c.refs, i << q->rb_bits,
						 r->end))
			return longer_table(r, ((r->end - 1) >> q->rb_bits) + 1);
		ret = raise_block(r, i);
	}
	return ret ? ret : blk_slots_commit(q);
}

static int lower_block(struct repair *r, uint64_t idx, struct blk_slot *s)
{
	struct blk_qcow2 *q = r->q;

	for (uint64_t i = 0; i < block_size(q); i++) {
		uint64_t c = (idx << q->rb_bits) + i;
		uint64_t refs = blk_refs_get(&r->c.refs, c);

		if (blk_refcount_get(s->buf, q->h.refcount_order, i) <= refs ||
		    (refs && r->how->no_copied))
			continue;
		if (q->n_freed == BLK_MAX_FREED) {
			int ret = blk_release_settle(q);

			if (!ret)
				ret = blk_slot_get(q, idx, &s);
			if (ret < 0)
				return ret;
		}
		blk_slot_set(q, s, i, refs);
		if (!refs)
			blk_release_note(q, c);
	}
	return 0;
}

static int lower(struct repair *r)
{
	struct blk_qcow2 *q = r->q;
	int ret = 0;

	for (uint64_t i = 0; i < q->rt_n && !ret; i++) {
		struct blk_slot *s;

		ret = blk_slot_get(q, i, &s);
		if (ret == -ENOBUFS) {
			ret = blk_release_settle(q);
			if (!ret)
				ret = blk_slot_get(q, i, &s);
		}
		if (!ret)
			ret = lower_block(r, i, s);
		else if (ret == -ENOENT)
			ret = 0;
	}
	return ret ? ret : blk_release_settle(q);
}

static int clear_dirty(struct blk_qcow2 *q)
{
	int ret;

	q->h.incompatible_features &= ~QCOW2_INCOMPAT_DIRTY;
	blk_header_emit(&q->h, q->head);
	ret = blk_q_write_head(q, HEADER_INCOMPAT_AT, 8);
	if (ret < 0)
		blk_q_reread_head(q);
	return ret;
}

/* Everything has been counted: from here on the image changes. */
static int fix(struct repair *r)
{
	struct blk_qcow2 *q = r->q;
	int ret;

	r->touched = true;
	ret = r->how->leaks_only ? 0 : raise(r);
	if (ret < 0)
		return blk_q_io_error(q, r->c.e, ret, "raise refcounts");
	if (r->again)
		return 0;
	ret = r->how->no_copied ? 0 : blk_check_copied(&r->c, true);
	if (ret < 0)
		return ret;
	ret = lower(r);
	if (ret < 0)
		return blk_q_io_error(q, r->c.e, ret, "lower refcounts");
	ret = r->how->keep_dirty ? 0 : clear_dirty(q);
	return ret < 0 ? blk_q_io_error(q, r->c.e, ret, "write the header") : 0;
}

static int attempt(struct blk_qcow2 *q, const struct blk_repair *how,
		   bool *again, bool *touched, struct blk_error *e)
{
	struct repair r = { .q = q, .how = how };
	int ret;

	blk_alloc_forget(q);
	ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	r.c = (struct blk_check){ .q = q, .e = e, .meta = &q->meta };
	ret = blk_check_collect(&r.c);
	if (!ret) {
		r.end = blk_refs_end(&r.c.refs);
		if (!q->f->is_bdev)
			r.end = BLK_MAX(r.end, r.c.file_end);
		ret = fix(&r);
	}
	if (ret < 0) {
		blk_slots_abort(q, false);
		q->n_freed = 0;
	}
	blk_check_free(&r.c);
	*again = r.again;
	*touched |= r.touched;
	return ret;
}

int blk_repair_refcounts(struct blk_qcow2 *q, const struct blk_repair *how,
			 bool *touched, struct blk_error *e)
{
	bool again = true;
	int ret = 0;

	*touched = false;
	q->repairing = true;
	while (again && !ret)
		ret = attempt(q, how, &again, touched, e);
	q->repairing = false;
	blk_alloc_forget(q);	/* its end and its hint were for the repair */
	return ret;
}

int blk_repair_now(struct blk_qcow2 *q, struct blk_error *e)
{
	static const struct blk_repair all;
	bool touched;
	int ret = blk_repair_refcounts(q, &all, &touched, e);

	if (ret == -EUCLEAN)
		blk_error_hint(e, "\"qemu-img check -r all\" may be able to repair it; make a copy first");
	return ret;
}

int blk_qcow2_repair(struct blk_qcow2 *q, bool *repaired, struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	*repaired = false;
	if (!(q->h.incompatible_features & QCOW2_INCOMPAT_DIRTY))
		return 0;
	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT) {
		blk_q_corrupt(q, e, "it is marked as corrupt");
		blk_error_hint(e, "repair it with \"qemu-img check -r all\"");
		return -EUCLEAN;
	}
	if (q->stuck)
		return blk_q_io_error(q, e, -EIO, "repair the refcounts");
	ret = blk_repair_now(q, e);
	if (ret < 0)
		return ret;
	q->leaked = false;
	q->verified = true;
	*repaired = true;
	return 0;
}
