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

#include "decomp.h"
#include "device.h"
#include "io.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "target.h"
#include "trace.h"
#include "worker.h"
#include "zero.h"

#define DIRTY_MAX	2048	/* slices: 8 MiB */

/*
 * The entry is pending already: join, or wait.  While the grants are closed
 * nobody joins: a barrier waits for who took the cluster, and for those who
 * joined before it, but not for those who would keep it pending after it.
 */
static enum qcow_alloc alloc_join(struct qcow_target *t, struct qcow_slice *s,
				  struct qcow_io *io, u64 guest,
				  struct qcow_extent *x, struct bio *wait)
{
	u32 cs = s->img->cluster_size;
	u32 i = qcow_slice_index(s->img, guest);
	u64 e = s->ent[i];

	if (!(e & QCOW_PEND_JOIN) ||
	    qcow_pend_users(e) == QCOW_PEND_MAX_USERS ||
	    READ_ONCE(t->dev->grants.closed)) {
		if (wait)
			bio_list_add(&s->waiters, wait);
		return QCOW_ALLOC_BUSY;
	}
	qcow_pend_join(s, i, io);
	x->len = min_t(u64, x->len, cs - (guest & (cs - 1)));
	x->host = io->host + (guest & (cs - 1));
	return QCOW_ALLOC_OK;
}

/* May the rest of a new cluster be zeroes?  The entry has no cluster. */
static inline bool over_zeroes(struct qcow_target *t, u64 e, u64 guest)
{
	return e & QCOW2_L2_ZERO || qcow_zero_known(t, guest);
}

/* Entries from @i on that have no cluster and are alike in @zero; bytes. */
static u64 alloc_run(struct qcow_target *t, struct qcow_slice *s, u64 guest,
		     u64 end, bool zero)
{
	struct qcow_image *img = s->img;
	u32 cs = img->cluster_size, i = qcow_slice_index(img, guest), n = 1;

	while ((u64)n * cs < end && i + n < qcow_slice_entries(img) &&
	       qcow_entry_empty(s->ent[i + n]) &&
	       over_zeroes(t, s->ent[i + n], guest + (u64)n * cs) == zero)
		n++;
	return min(end, (u64)n * cs);
}

/* Clusters for @n entries; *@zeroed: in: they must; out: they do read zeroes. */
static u32 alloc_take(struct qcow_target *t, u64 guest, u32 n, bool *zeroed,
		      bool all, u64 *host)
{
	struct qcow_image *img = t->img;
	bool must = *zeroed;

	if (!img->external)
		return qcow_grant_take(t->dev, n, zeroed, all, host);
	/* what is in the file where nothing is allocated is not known */
	*host = round_down(guest, img->cluster_size);
	*zeroed = false;
	return must ? 0 : n;
}

/* A run of entries without clusters. */
static enum qcow_alloc alloc_new(struct qcow_target *t, struct qcow_slice *s,
				 struct qcow_io *io, u64 guest,
				 struct qcow_extent *x, bool all)
{
	struct qcow_image *img = s->img;
	u32 cs = img->cluster_size, i = qcow_slice_index(img, guest);
	bool zero = over_zeroes(t, s->ent[i], guest), zeroed = true;
	u32 in = guest & (cs - 1), got, n;
	u64 end, host;

	end = alloc_run(t, s, guest, in + x->len, zero);
	if (!zero) {
		/* what is written whole; the rest is copied */
		end = round_down(end, cs);
		if (in || !end)
			return QCOW_ALLOC_FILL;
	}
	n = DIV_ROUND_UP_ULL(end, cs);
	zeroed = in || end & (cs - 1);
	got = alloc_take(t, guest, n, &zeroed, all, &host);
	if (!got && !in && n > 1) {
		/* the clusters that are written whole */
		zeroed = false;
		got = alloc_take(t, guest, n - 1, &zeroed, all, &host);
	}
	if (!got)
		return img->external || qcow_grants_any(&t->dev->grants) ?
			QCOW_ALLOC_FILL : QCOW_ALLOC_NO_GRANT;
	x->len = min(end, (u64)got * cs) - in;
	x->host = host + in;
	qcow_pend_begin(s, i, got, host, zeroed && zero ? QCOW_PEND_JOIN : 0,
			io);
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

static enum qcow_alloc alloc_entry(struct qcow_target *t,
				   struct qcow_slice *s, struct qcow_io *io,
				   u64 guest, struct qcow_extent *x,
				   struct bio *wait)
{
	u32 i = qcow_slice_index(s->img, guest);
	u64 e = *qcow_ent(s, i);

	if (s->img->ext || e & QCOW2_L2_COMPRESSED) {
		if (!qcow_entry_busy(s, i))
			return QCOW_ALLOC_FILL;
		if (wait)
			bio_list_add(&s->waiters, wait);
		return QCOW_ALLOC_BUSY;
	}
	if (qcow_entry_pending(e))
		return alloc_join(t, s, io, guest, x, wait);
	if (!(e & QCOW2_L2_ZERO) && qcow_has_cluster(s->img, e))
		return e & QCOW2_ENTRY_COPIED ? QCOW_ALLOC_RETRY :
			QCOW_ALLOC_FILL;
	if (qcow_entry_empty(e))
		return alloc_new(t, s, io, guest, x, wait);
	return qcow_entry_owns_zero(e) ? alloc_own(s, io, guest, x) :
		QCOW_ALLOC_FILL;
}

enum qcow_alloc qcow_alloc(struct qcow_target *t, struct qcow_io *io,
			   u64 guest, struct qcow_extent *x, struct bio *wait)
{
	struct qcow_slice *s = x->slice;
	enum qcow_alloc r;
	unsigned long flags;

	qcow_zero_below(t, guest);	/* under the lock it must be known */
	spin_lock_irqsave(&s->lock, flags);
	if (s->state & QCOW_SLICE_DEAD)
		r = QCOW_ALLOC_RETRY;
	else if (!(s->state & QCOW_SLICE_WRITABLE))
		r = QCOW_ALLOC_SHARED;
	else
		r = alloc_entry(t, s, io, guest, x, wait);
	spin_unlock_irqrestore(&s->lock, flags);
	return r;
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

/* A compressed cluster that is in memory is served at once. */
static int map_compressed(struct qcow_target *t, struct bio *bio, u64 guest,
			  const struct qcow_extent *x)
{
	struct qcow_image *img = t->layers[x->layer].img;
	u32 in = guest & (img->cluster_size - 1);

	accept(bio, x->len);
	if (!qcow_decomp_hit(img, x->host, in, bio))
		return map_defer(t, bio, guest);
	bio_endio(bio);
	return DM_MAPIO_SUBMITTED;
}

static int map_read(struct qcow_target *t, struct bio *bio, struct qcow_io *io)
{
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	u64 guest = qcow_bio_guest(bio);
	struct block_device *data;
	enum qcow_found found;

	rcu_read_lock();
	epoch_begin(io, t->img);
	found = qcow_lookup_layers(t, guest, 0, &x);
	rcu_read_unlock();
	if (splits_nowait(bio, x.len)) {
		epoch_end(io);
		return map_again(bio);
	}
	data = t->layers[x.layer].data;
	if (likely(found == QCOW_FOUND_HOST) &&
	    likely(x.host + x.len <= bdev_nr_bytes(data))) {
		accept(bio, x.len);
		qcow_remap(data, bio, x.host);
		if (x.layer)
			qcow_stat_inc(t->dev->stats, read_below);
		qcow_stat_inc(t->dev->stats, read_mapped);
		return DM_MAPIO_REMAPPED;
	}
	epoch_end(io);
	if (found == QCOW_FOUND_ZERO) {
		accept(bio, x.len);
		return map_zero(t, bio);
	}
	if (found == QCOW_FOUND_COMPRESSED)
		return map_compressed(t, bio, guest, &x);
	return map_defer(t, bio, guest);
}

/* A write that needs a cluster, in the RCU section of its look-up. */
static bool map_alloc(struct qcow_target *t, struct bio *bio,
		      struct qcow_io *io, u64 guest, struct qcow_extent *x)
{
	if (!x->slice || qcow_dirty_over(t->img) ||
	    splits_nowait(bio, cluster_rest(t->img, guest)))
		return false;
	return qcow_alloc(t, io, guest, x, NULL) == QCOW_ALLOC_OK;
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
	qcow_remap(img->data, bio, x.host);
	return DM_MAPIO_REMAPPED;
}

/* Discards and writes of zeroes: cut to what zero.c can do as one. */
static int map_zeroing(struct qcow_target *t, struct bio *bio)
{
	u64 guest = qcow_bio_guest(bio), len;

	if (unlikely(!t->writable ||
		     READ_ONCE(t->dev->mode) >= DM_QCOW_MODE_READ_ONLY))
		return DM_MAPIO_KILL;
	len = qcow_zero_cut(t, bio, guest);
	if (splits_nowait(bio, len))
		return map_again(bio);
	accept(bio, len);
	if (bio_op(bio) == REQ_OP_DISCARD)
		qcow_stat_inc(t->dev->stats, discards);
	else
		qcow_stat_inc(t->dev->stats, write_zeroes);
	bio->bi_opf &= ~(REQ_NOWAIT | REQ_POLLED);
	qcow_device_defer(t->dev, bio);
	return DM_MAPIO_SUBMITTED;
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
		bio_set_dev(bio, t->img->data);
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
	io->layer = 0;
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
	case REQ_OP_DISCARD:
	case REQ_OP_WRITE_ZEROES:
		return map_zeroing(t, bio);
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
