// SPDX-License-Identifier: GPL-2.0-only
/*
 * The I/O path.
 *
 * A bio whose slice is in memory and which needs no copying is served here,
 * in the submitter's context, without sleeping and without a lock shared
 * between CPUs: reads, writes in place, and writes that take a granted
 * cluster.  All else goes to the worker (worker.c), at most one cluster at a
 * time.
 *
 * Locking: RCU for the look-up; slice.lock for a write that allocates.  A
 * bio counts in its image's epoch from before the look-up until it has ended.
 */
#include <linux/bio.h>
#include <linux/device-mapper.h>

#include "device.h"
#include "io.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "target.h"
#include "trace.h"
#include "worker.h"

#define DIRTY_MAX	2048	/* slices: 8 MiB */

/* No slice: nothing is mapped there if there is no L2 table. */
static enum qcow_found lookup_l1(struct qcow_image *img, u64 guest,
				 struct qcow_extent *x)
{
	struct qcow_l1 *l1 = rcu_dereference(img->l1);
	u64 span = 1ULL << img->l2_span_bits;

	x->slice = NULL;
	if (READ_ONCE(l1->entry[guest >> img->l2_span_bits]) &
	    QCOW2_OFFSET_MASK)
		return QCOW_FOUND_MISS;
	x->len = min(x->len, span - (guest & (span - 1)));
	return QCOW_FOUND_ZERO;
}

static inline bool entry_reads_zero(u64 e)
{
	e = qcow_entry_settled(e);
	if (e & QCOW2_L2_COMPRESSED)
		return false;
	return e & QCOW2_L2_ZERO || !(e & QCOW2_OFFSET_MASK);
}

enum qcow_found qcow_lookup(struct qcow_image *img, u64 guest, bool write,
			    struct qcow_extent *x)
{
	struct qcow_slice *s = qcow_slice_find(img, guest);
	u32 cs = img->cluster_size;
	u64 run = cs - (guest & (cs - 1));
	enum qcow_found found;
	u32 i, n;
	u64 e;

	if (unlikely(!s))
		return lookup_l1(img, guest, x);
	x->slice = s;
	i = qcow_slice_index(img, guest);
	n = qcow_slice_entries(img);
	e = qcow_entry_settled(smp_load_acquire(&s->ent[i]));
	if (likely(!(e & (QCOW2_L2_COMPRESSED | QCOW2_L2_ZERO)) &&
		   e & QCOW2_OFFSET_MASK)) {
		if (write && !(e & QCOW2_ENTRY_COPIED))
			return QCOW_FOUND_OTHER;
		x->host = (e & QCOW2_OFFSET_MASK) + (guest & (cs - 1));
		while (run < x->len && ++i < n) {
			e += cs;
			if (qcow_entry_settled(READ_ONCE(s->ent[i])) != e)
				break;
			run += cs;
		}
		found = QCOW_FOUND_HOST;
	} else {
		if (e & QCOW2_L2_COMPRESSED)
			return QCOW_FOUND_OTHER;
		while (!write && run < x->len && ++i < n &&
		       entry_reads_zero(READ_ONCE(s->ent[i])))
			run += cs;
		found = QCOW_FOUND_ZERO;
	}
	if (!write || found == QCOW_FOUND_HOST)
		x->len = min(x->len, run);
	return found;
}

/* The entry is pending already: join, or wait. */
static enum qcow_alloc alloc_join(struct qcow_slice *s, struct qcow_io *io,
				  u64 guest, struct qcow_extent *x,
				  struct bio *wait)
{
	u32 cs = s->img->cluster_size;
	u32 i = qcow_slice_index(s->img, guest);
	u64 e = s->ent[i];

	if (!(e & QCOW_PEND_JOIN) ||
	    qcow_pend_users(e) == QCOW_PEND_MAX_USERS) {
		if (wait)
			bio_list_add(&s->waiters, wait);
		return QCOW_ALLOC_BUSY;
	}
	qcow_pend_join(s, i, io);
	x->len = min_t(u64, x->len, cs - (guest & (cs - 1)));
	x->host = io->host + (guest & (cs - 1));
	return QCOW_ALLOC_OK;
}

/* A run of entries without clusters. */
static enum qcow_alloc alloc_new(struct qcow_device *dev,
				 struct qcow_slice *s, struct qcow_io *io,
				 u64 guest, struct qcow_extent *x, bool all)
{
	struct qcow_image *img = s->img;
	u32 cs = img->cluster_size, i = qcow_slice_index(img, guest);
	u32 in = guest & (cs - 1), got, n = 1;
	u64 end = in + x->len, host;
	bool zeroed;

	while ((u64)n * cs < end && i + n < qcow_slice_entries(img) &&
	       qcow_entry_empty(s->ent[i + n]))
		n++;
	end = min(end, (u64)n * cs);
	zeroed = in || end & (cs - 1);
	got = qcow_grant_take(dev, n, &zeroed, all, &host);
	if (!got && !in && n > 1) {
		/* the clusters that are written whole */
		zeroed = false;
		got = qcow_grant_take(dev, n - 1, &zeroed, all, &host);
	}
	if (!got)
		return atomic64_read(&dev->grants.left) ?
			QCOW_ALLOC_FILL : QCOW_ALLOC_NO_GRANT;
	x->len = min(end, (u64)got * cs) - in;
	x->host = host + in;
	qcow_pend_begin(s, i, got, host, zeroed ? QCOW_PEND_JOIN : 0, io);
	return QCOW_ALLOC_OK;
}

/* A zero entry that owns its cluster. */
static enum qcow_alloc alloc_own(struct qcow_slice *s, struct qcow_io *io,
				 u64 guest, struct qcow_extent *x)
{
	u32 cs = s->img->cluster_size;
	u32 i = qcow_slice_index(s->img, guest);

	if (guest & (cs - 1) || x->len < cs)
		return QCOW_ALLOC_FILL;
	x->host = s->ent[i] & QCOW2_OFFSET_MASK;
	x->len = cs;
	qcow_pend_begin(s, i, 1, x->host, 0, io);
	return QCOW_ALLOC_OK;
}

enum qcow_alloc qcow_alloc(struct qcow_device *dev, struct qcow_io *io,
			   u64 guest, struct qcow_extent *x, struct bio *wait)
{
	struct qcow_slice *s = x->slice;
	enum qcow_alloc r;
	unsigned long flags;
	u64 e;

	spin_lock_irqsave(&s->lock, flags);
	e = s->ent[qcow_slice_index(s->img, guest)];
	if (s->state & QCOW_SLICE_DEAD)
		r = QCOW_ALLOC_RETRY;
	else if (!(s->state & QCOW_SLICE_WRITABLE))
		r = QCOW_ALLOC_FOREIGN;
	else if (qcow_entry_pending(e))
		r = alloc_join(s, io, guest, x, wait);
	else if (qcow_entry_empty(e))
		r = alloc_new(dev, s, io, guest, x, wait);
	else if (qcow_entry_owns_zero(e))
		r = alloc_own(s, io, guest, x);
	else if (e & QCOW2_L2_COMPRESSED)
		r = QCOW_ALLOC_FOREIGN;
	else if (e & QCOW2_ENTRY_COPIED)
		r = QCOW_ALLOC_RETRY;
	else
		r = QCOW_ALLOC_FILL;
	spin_unlock_irqrestore(&s->lock, flags);
	return r;
}

void qcow_remap(struct qcow_image *img, struct bio *bio, u64 host)
{
	bio_set_dev(bio, img->bdev);
	bio->bi_iter.bi_sector = host >> SECTOR_SHIFT;
}

bool qcow_dirty_over(struct qcow_image *img)
{
	return atomic_read(&img->commit.nr_dirty) > DIRTY_MAX;
}

static inline void accept(struct bio *bio, u64 len)
{
	if (len < bio->bi_iter.bi_size)
		dm_accept_partial_bio(bio, len >> SECTOR_SHIFT);
}

static inline void epoch_begin(struct qcow_io *io, struct qcow_image *img)
{
	io->epoch = qcow_inflight_begin(&img->inflight);
	io->img = img;
}

static inline void epoch_end(struct qcow_io *io)
{
	qcow_inflight_end(&io->img->inflight, io->epoch);
	io->img = NULL;
}

/*
 * A bio with REQ_NOWAIT is served whole or not at all, as in the block layer:
 * if a later part of it met a full queue below, the error would come when the
 * first part is on its way and nobody tries again.  So the submitter is told
 * before anything has begun, and comes back without the flag.
 */
static inline bool splits_nowait(const struct bio *bio, u64 len)
{
	return len < bio->bi_iter.bi_size && bio->bi_opf & REQ_NOWAIT;
}

static int map_again(struct bio *bio)
{
	bio_wouldblock_error(bio);
	return DM_MAPIO_SUBMITTED;
}

static inline u64 cluster_rest(const struct qcow_image *img, u64 guest)
{
	return img->cluster_size - (guest & (img->cluster_size - 1));
}

/* To the worker, no more than the rest of one cluster. */
static int map_defer(struct qcow_target *t, struct bio *bio, u64 guest)
{
	u64 len = cluster_rest(t->img, guest);

	if (splits_nowait(bio, len))
		return map_again(bio);
	accept(bio, len);
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	qcow_stat_inc(t->dev->stats, deferred);
	qcow_device_defer(t->dev, bio);
	return DM_MAPIO_SUBMITTED;
}

static int map_zero(struct qcow_target *t, struct bio *bio)
{
	qcow_stat_inc(t->dev->stats, read_zero);
	zero_fill_bio(bio);
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

static int map_read(struct qcow_target *t, struct bio *bio, struct qcow_io *io)
{
	struct qcow_image *img = t->img;
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	u64 guest = qcow_bio_guest(bio);
	enum qcow_found found;

	rcu_read_lock();
	epoch_begin(io, img);
	found = qcow_lookup(img, guest, false, &x);
	rcu_read_unlock();
	if (splits_nowait(bio, x.len)) {
		epoch_end(io);
		return map_again(bio);
	}
	if (likely(found == QCOW_FOUND_HOST) &&
	    likely(x.host + x.len <= bdev_nr_bytes(img->bdev))) {
		accept(bio, x.len);
		qcow_remap(img, bio, x.host);
		qcow_stat_inc(t->dev->stats, read_mapped);
		return DM_MAPIO_REMAPPED;
	}
	epoch_end(io);
	if (found == QCOW_FOUND_ZERO) {
		accept(bio, x.len);
		return map_zero(t, bio);
	}
	return map_defer(t, bio, guest);
}

/* A write that needs a cluster, in the RCU section of its look-up. */
static bool map_alloc(struct qcow_target *t, struct bio *bio,
		      struct qcow_io *io, u64 guest, struct qcow_extent *x)
{
	if (!x->slice || qcow_dirty_over(t->img) ||
	    splits_nowait(bio, cluster_rest(t->img, guest)))
		return false;
	return qcow_alloc(t->dev, io, guest, x, NULL) == QCOW_ALLOC_OK;
}

static int map_write(struct qcow_target *t, struct bio *bio,
		     struct qcow_io *io)
{
	struct qcow_image *img = t->img;
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	u64 guest = qcow_bio_guest(bio);
	bool durable = true, mapped;

	if (unlikely(!t->writable ||
		     READ_ONCE(t->dev->mode) >= DM_QCOW_MODE_READ_ONLY))
		return DM_MAPIO_KILL;
	rcu_read_lock();
	epoch_begin(io, img);
	mapped = qcow_lookup(img, guest, true, &x) == QCOW_FOUND_HOST;
	if (mapped && splits_nowait(bio, x.len)) {
		rcu_read_unlock();
		epoch_end(io);
		return map_again(bio);
	}
	if (likely(mapped)) {
		smp_rmb();	/* entries before the slice's state */
		if (bio->bi_opf & REQ_FUA)
			durable = !(READ_ONCE(x.slice->state) &
				    (QCOW_SLICE_DIRTY | QCOW_SLICE_COMMIT));
		qcow_stat_inc(t->dev->stats, write_mapped);
	} else if (map_alloc(t, bio, io, guest, &x)) {
		durable = false;
		qcow_stat_inc(t->dev->stats, write_alloc);
	} else {
		rcu_read_unlock();
		epoch_end(io);
		return map_defer(t, bio, guest);
	}
	rcu_read_unlock();
	if (!durable)
		qcow_fua_later(bio);
	accept(bio, x.len);
	qcow_remap(img, bio, x.host);
	return DM_MAPIO_REMAPPED;
}

static int map_flush(struct qcow_target *t, struct bio *bio)
{
	if (!t->writable) {
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	if (READ_ONCE(t->dev->mode) >= DM_QCOW_MODE_READ_ONLY)
		return DM_MAPIO_KILL;
	if (!qcow_commit_needed(&t->img->commit)) {
		bio_set_dev(bio, t->img->bdev);
		return DM_MAPIO_REMAPPED;
	}
	qcow_stat_inc(t->dev->stats, flushes);
	qcow_device_hold(t->dev, bio);
	qcow_commit_bio(t->img, bio);
	return DM_MAPIO_SUBMITTED;
}

int qcow_map(struct dm_target *ti, struct bio *bio)
{
	struct qcow_target *t = ti->private;
	struct qcow_io *io = qcow_io(bio);

	io->t = t;
	io->img = NULL;
	io->slice = NULL;
	io->fill = NULL;
	io->flags = 0;
	bio->bi_iter.bi_sector = dm_target_offset(ti, bio->bi_iter.bi_sector);

	if (unlikely(READ_ONCE(t->dev->mode) == DM_QCOW_MODE_FAIL))
		return DM_MAPIO_KILL;
	if (unlikely(bio->bi_opf & REQ_PREFLUSH))
		return map_flush(t, bio);
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return map_read(t, bio, io);
	case REQ_OP_WRITE:
		return map_write(t, bio, io);
	default:
		return DM_MAPIO_KILL;
	}
}

int qcow_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct qcow_target *t = ti->private;
	struct qcow_io *io = qcow_io(bio);
	bool fua;

	if (unlikely(*error && io->img))
		qcow_stat_inc(t->dev->stats, io_errors);
	fua = io->flags & QCOW_IO_FUA && !(io->flags & QCOW_IO_DONE) && !*error;
	if (unlikely(fua))
		qcow_device_hold(t->dev, bio);
	if (io->slice)
		qcow_pend_end(t->dev, io, *error);
	if (io->img)
		epoch_end(io);
	if (unlikely(fua)) {
		qcow_stat_inc(t->dev->stats, flushes);
		qcow_commit_bio(t->img, bio);
		return DM_ENDIO_INCOMPLETE;
	}
	if (unlikely(io->flags & QCOW_IO_HELD)) {
		io->flags &= ~QCOW_IO_HELD;
		atomic_dec(&t->dev->nr_held);
	}
	return DM_ENDIO_DONE;
}
