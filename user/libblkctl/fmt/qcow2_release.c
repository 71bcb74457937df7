// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Dropping references, and giving space back at the end.
 *
 * Owns q->freed during a call.  Must not punch or reuse anything before its
 * refcount is durable, and must not drop a reference of the daemon's own
 * metadata at the kernel's word.  Locking: the public functions take q->lock.
 */
#include <errno.h>
#include <string.h>

#include "base/stop_int.h"
#include "fmt/qcow2_int.h"

/* While a scan reads L2 tables, what was one keeps its contents. */
static bool keep_contents(const struct blk_qcow2 *q,
			  const struct dm_qcow_run *r)
{
	const struct blk_meta_run *m;

	if (!q->scan)
		return false;
	m = blk_meta_find(&q->meta, r->offset);
	return m && m->off < r->offset + r->length;
}

/* Makes the drops durable, then gives the host its space back. */
int blk_release_settle(struct blk_qcow2 *q)
{
	int ret = blk_slots_commit(q);

	blk_stop_point("release-committed");
	for (size_t i = 0; i < q->n_freed && !ret; i++) {
		const struct dm_qcow_run *r = &q->freed[i];

		q->hint = BLK_MIN(q->hint, r->offset >> q->h.cluster_bits);
		if (!keep_contents(q, r))
			blk_file_discard(q->f, r->offset, r->length);
	}
	q->n_freed = 0;
	blk_stop_point("release-discarded");
	return ret;
}

/*
 * An L2 table that the kernel has let go of belongs to snapshots, if to anyone:
 * it stays where it is, and is never freed at the kernel's word again.
 */
static void note_shared(struct blk_qcow2 *q, uint64_t cluster)
{
	uint64_t off = cluster << q->h.cluster_bits;
	struct blk_meta_run *m = blk_meta_find(&q->meta, off);

	if (m && m->off == off && m->kind == BLK_META_ACTIVE_L2)
		m->kind = BLK_META_INACTIVE_L2;
}

void blk_release_note(struct blk_qcow2 *q, uint64_t cluster)
{
	uint64_t off = cluster << q->h.cluster_bits;
	struct blk_meta_run *m = blk_meta_find(&q->meta, off);
	struct dm_qcow_run *last = q->n_freed ?
		&q->freed[q->n_freed - 1] : NULL;

	if (m && m->off == off && m->kind == BLK_META_INACTIVE_L2)
		m->kind = BLK_META_RETIRED;
	if (last && last->offset + last->length == off) {
		last->length += q->cs;
		return;
	}
	q->freed[q->n_freed++] = (struct dm_qcow_run){
		.offset = off, .length = q->cs,
	};
}

/* Drops one reference of clusters [c, stop) of one block. */
static int drop_in_block(struct blk_qcow2 *q, struct blk_slot **s, uint64_t c,
			 uint64_t stop)
{
	uint64_t mask = (1ULL << q->rb_bits) - 1;
	int err = 0;

	for (; c < stop; c++) {
		uint64_t rc;
		int ret;

		if (q->n_freed == BLK_MAX_FREED) {
			ret = blk_release_settle(q);
			if (!ret)
				ret = blk_slot_get(q, c >> q->rb_bits, s);
			if (ret < 0)
				return ret;
		}
		rc = blk_refcount_get((*s)->buf, q->h.refcount_order,
				      c & mask);
		if (!rc) {
			err = -EUCLEAN;
			continue;
		}
		blk_slot_set(q, *s, c & mask, rc - 1);
		blk_scan_touch(q, c, 1);
		if (rc == 1)
			blk_release_note(q, c);
		else
			note_shared(q, c);
	}
	return err;
}

static int drop_clusters(struct blk_qcow2 *q, uint64_t c, uint64_t end)
{
	int err = 0;

	while (c < end) {
		uint64_t stop = BLK_MIN(((c >> q->rb_bits) + 1) << q->rb_bits,
					end);
		struct blk_slot *s;
		int ret;

		if (c >> q->rb_bits >= q->rt_n)
			return -EUCLEAN;	/* nothing is counted there */
		ret = blk_slot_get(q, c >> q->rb_bits, &s);
		if (ret == -ENOBUFS) {
			ret = blk_release_settle(q);
			if (!ret)
				continue;
		}
		if (!ret)
			ret = drop_in_block(q, &s, c, stop);
		if (ret < 0 && ret != -ENOENT && ret != -EUCLEAN)
			return ret;
		if (ret < 0)
			err = -EUCLEAN;
		c = stop;
	}
	return err;
}

/* Is it a range of clusters that do not hold the daemon's own metadata? */
bool blk_release_may_drop(const struct blk_qcow2 *q,
			  const struct dm_qcow_run *r)
{
	bool packed = r->flags & DM_QCOW_RUN_COMPRESSED;
	uint64_t end = r->offset + r->length;
	const struct blk_meta_run *m;
	uint64_t off;

	if (!r->length || end < r->offset || end > 1ULL << 62)
		return false;
	/* the longest compressed descriptor has two clusters */
	if (packed ? r->length > 2 * q->cs :
	    (r->offset | r->length) & (q->cs - 1))
		return false;
	for (off = blk_align_down(r->offset, q->cs); off < end;
	     off = m->off + m->len) {
		m = blk_meta_find(&q->meta, off);
		if (!m || m->off >= end)
			return true;
		if (m->kind != BLK_META_ACTIVE_L2)
			return false;
	}
	return true;
}

static int drop_run(struct blk_qcow2 *q, const struct dm_qcow_run *r)
{
	uint64_t last = r->offset + r->length - 1;

	return drop_clusters(q, r->offset >> q->h.cluster_bits,
			     (last >> q->h.cluster_bits) + 1);
}

int blk_release_runs(struct blk_qcow2 *q, const struct dm_qcow_run *runs,
		     size_t n)
{
	int err = 0, ret = 0;

	for (size_t i = 0; i < n; i++) {
		ret = drop_run(q, &runs[i]);
		if (ret == -EUCLEAN)
			err = ret;
		else if (ret < 0)
			break;
	}
	if (!ret || ret == -EUCLEAN)
		ret = blk_release_settle(q);
	else
		blk_slots_abort(q, false);
	q->n_freed = 0;
	if (ret < 0)
		q->leaked = true;
	return ret ? ret : err;
}

/*
 * A table that the kernel has copied since, and that only snapshots had when
 * the image was opened (by a daemon that adopts): the kernel's reference is
 * one of several.
 */
static bool is_shared_table(struct blk_qcow2 *q, const struct dm_qcow_run *r)
{
	uint64_t c = r->offset >> q->h.cluster_bits;
	const struct blk_meta_run *m = blk_meta_find(&q->meta, r->offset);
	struct blk_slot *s;

	if (!(r->flags & DM_QCOW_RUN_METADATA) || r->length != q->cs ||
	    !m || m->off != r->offset || m->kind != BLK_META_INACTIVE_L2 ||
	    c >> q->rb_bits >= q->rt_n || blk_slot_get(q, c >> q->rb_bits, &s))
		return false;
	return blk_refcount_get(s->buf, q->h.refcount_order,
				c & ((1ULL << q->rb_bits) - 1)) > 1;
}

int blk_release_judged(struct blk_qcow2 *q, const struct dm_qcow_run *runs,
		       size_t n, bool *refused)
{
	int ret = 0;

	/* Maximal stretches of good runs, so that they share flushes */
	for (size_t i = 0, from = 0; i <= n && !ret; i++) {
		if (i < n && (blk_release_may_drop(q, &runs[i]) ||
			      is_shared_table(q, &runs[i])))
			continue;
		*refused |= i < n;
		if (i > from) {
			ret = blk_release_runs(q, runs + from, i - from);
			*refused |= ret == -EUCLEAN;
			ret = ret == -EUCLEAN ? 0 : ret;
		}
		from = i + 1;
	}
	return ret;
}

int blk_qcow2_release(struct blk_qcow2 *q, const struct dm_qcow_run *runs,
		      size_t n, struct blk_error *e)
{
	bool refused = false;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	if (q->stuck) {
		q->leaked = true;
		return blk_q_io_error(q, e, -EIO, "free clusters");
	}
	ret = blk_release_judged(q, runs, n, &refused);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "free clusters");
	return refused ? blk_q_corrupt(q, e,
				       "a cluster that is to be freed is free or is metadata")
		: 0;
}

int blk_qcow2_trim(struct blk_qcow2 *q, struct blk_error *e)
{
	uint64_t end, size;
	int64_t now;
	bool exact;
	int ret;

	blk_guard_mutex(&q->lock);
	/* stuck: a block that we do not know of may be in the table */
	if (q->f->is_bdev || q->stuck)
		return 0;
	ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	ret = blk_alloc_find_end(q, &end, &exact);
	now = blk_file_size(q->f);
	if (ret < 0 || now < 0)
		return blk_q_io_error(q, e, ret < 0 ? ret : (int)now,
				      "find the end");
	size = end << q->h.cluster_bits;
	/*
	 * Refcounts alone are not trusted with data that was there before us:
	 * only after a scan the file may become shorter than it was.
	 */
	if (!q->verified)
		size = BLK_MAX(size, blk_align_up(q->size_at_open, q->cs));
	if (!exact || size >= (uint64_t)now)
		return 0;
	ret = blk_file_truncate(q->f, size);
	blk_stop_point("trim-cut");
	if (!ret)
		ret = blk_file_flush(q->f);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "shorten the file");
	q->announced = BLK_MIN(q->announced, size);
	q->fresh_from = BLK_MIN(q->fresh_from, size);
	return 0;
}
