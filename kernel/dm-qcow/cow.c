// SPDX-License-Identifier: GPL-2.0-only
/*
 * Filling the rest of a cluster around a partial write.
 *
 * Owns the entry while it works: the entry is pending with QCOW_PEND_OLD, so
 * readers see the old state and writers wait.  The head and the tail come from
 * the old cluster (copied by kcopyd) or are zeroes, up to the cluster's end
 * even where that lies behind the virtual disk's.  Then the bio itself writes
 * its part; when it has ended, the entry names the new cluster, and the old
 * one is freed after the next commit.
 *
 * Locking: slice.lock; kcopyd calls back in process context.
 */
#include <linux/dm-io.h>
#include <linux/dm-kcopyd.h>
#include <linux/slab.h>

#include "cow.h"
#include "device.h"
#include "io.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "trace.h"
#include "worker.h"

/**
 * struct qcow_fill - one cluster being filled
 * @dev: the device
 * @img: its image
 * @bio: the write
 * @host: the cluster that is written
 * @old: the cluster that the rest is copied from, 0: zeroes
 * @jobs: kcopyd jobs that run, and one for the starter
 * @failed: one of them has
 * @freed: for the cluster that is replaced, NULL if none is
 */
struct qcow_fill {
	struct qcow_device *dev;
	struct qcow_image *img;
	struct bio *bio;
	u64 host;
	u64 old;
	atomic_t jobs;
	bool failed;
	struct qcow_freed *freed;
};

static struct kmem_cache *fill_cache;

int qcow_fill_init(void)
{
	fill_cache = KMEM_CACHE(qcow_fill, 0);
	return fill_cache ? 0 : -ENOMEM;
}

void qcow_fill_exit(void)
{
	kmem_cache_destroy(fill_cache);
}

static void fill_free(struct qcow_fill *f)
{
	kfree(f->freed);
	kmem_cache_free(fill_cache, f);
}

static void fill_put(struct qcow_fill *f)
{
	struct bio *bio = f->bio;

	if (!atomic_dec_and_test(&f->jobs))
		return;
	if (!f->failed) {
		qcow_submit(f->img, bio, f->host +
			    (qcow_bio_guest(bio) & (f->img->cluster_size - 1)));
		return;
	}
	qcow_bio_end(bio, BLK_STS_IOERR);
}

static void fill_job_done(int read_err, unsigned long write_err, void *context)
{
	struct qcow_fill *f = context;

	if (read_err || write_err)
		WRITE_ONCE(f->failed, true);
	fill_put(f);
}

/* Fills bytes [from, to) of the new cluster. */
static void fill_part(struct qcow_fill *f, u32 from, u32 to)
{
	struct dm_io_region src, dst;

	if (from == to)
		return;
	dst.bdev = f->img->bdev;
	dst.sector = (f->host + from) >> SECTOR_SHIFT;
	dst.count = (to - from) >> SECTOR_SHIFT;
	src = dst;
	src.sector = (f->old + from) >> SECTOR_SHIFT;
	atomic_inc(&f->jobs);
	if (f->old)
		dm_kcopyd_copy(f->img->kcopyd, &src, 1, &dst, 0,
			       fill_job_done, f);
	else
		dm_kcopyd_zero(f->img->kcopyd, 1, &dst, 0, fill_job_done, f);
}

static struct qcow_fill *fill_alloc(struct qcow_device *dev,
				    struct qcow_image *img, struct bio *bio)
{
	const gfp_t gfp = GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN;
	struct qcow_fill *f = kmem_cache_zalloc(fill_cache, gfp);

	if (!f)
		return NULL;
	f->freed = kmalloc(sizeof(*f->freed), gfp);
	if (!f->freed) {
		kmem_cache_free(fill_cache, f);
		return NULL;
	}
	f->dev = dev;
	f->img = img;
	f->bio = bio;
	atomic_set(&f->jobs, 1);
	return f;
}

/*
 * Makes the entry pending for this fill; s->lock is held.  @host is the new
 * cluster, 0: the entry must have one of its own.
 */
static bool fill_claim(struct qcow_fill *f, struct qcow_slice *s, u32 i,
		       u64 host)
{
	struct qcow_io *io = qcow_io(f->bio);
	u64 e = s->ent[i];
	u64 off = e & QCOW2_OFFSET_MASK;

	lockdep_assert_held(&s->lock);
	if (s->state & QCOW_SLICE_DEAD || qcow_entry_pending(e) ||
	    e & QCOW2_L2_COMPRESSED)
		return false;
	if (!host != qcow_entry_owns_zero(e))
		return false;
	if (host && off && e & QCOW2_ENTRY_COPIED)
		return false;	/* may be written in place by now */
	f->host = host ?: off;
	if (host && off) {
		f->old = e & QCOW2_L2_ZERO ? 0 : off;
		f->freed->offset = off;
		f->freed->length = s->img->cluster_size;
		f->freed->flags = 0;
	} else {
		kfree(f->freed);
		f->freed = NULL;
	}
	WRITE_ONCE(s->ent[i], qcow_pend_with_users(e | QCOW_PEND |
						   QCOW_PEND_OLD, 1));
	s->pins++;
	io->slice = s;
	io->fill = f;
	io->idx = i;
	io->nr = 1;
	io->host = f->host;
	return true;
}

/* Finds the entry again and claims it. */
static bool fill_begin(struct qcow_fill *f, u64 guest, u64 host)
{
	struct qcow_image *img = f->img;
	struct qcow_slice *s;
	bool ok = false;

	rcu_read_lock();
	s = qcow_slice_find(img, guest);
	if (s) {
		spin_lock_irq(&s->lock);
		ok = fill_claim(f, s, qcow_slice_index(img, guest), host);
		spin_unlock_irq(&s->lock);
	}
	rcu_read_unlock();
	return ok;
}

/* Takes a cluster and the entry: 0, -ENOSPC: no grant, -EAGAIN: look again. */
static int fill_take(struct qcow_fill *f, u64 guest, bool *zeroed)
{
	u64 host;

	*zeroed = false;
	if (fill_begin(f, guest, 0))
		return 0;
	if (!qcow_grant_take(f->dev, 1, zeroed, true, &host))
		return -ENOSPC;
	if (fill_begin(f, guest, host))
		return 0;
	qcow_grant_put(f->dev, host, 1);
	return -EAGAIN;
}

void qcow_fill_start(struct qcow_device *dev, struct qcow_image *img,
		     struct bio *bio)
{
	u64 guest = qcow_bio_guest(bio);
	u32 in = guest & (img->cluster_size - 1);
	u32 len = bio->bi_iter.bi_size;
	struct qcow_fill *f = fill_alloc(dev, img, bio);
	struct qcow_io *io = qcow_io(bio);
	bool zeroed;
	int r;

	if (!f) {
		qcow_device_throttle(dev, bio);
		return;
	}
	qcow_fua_later(bio);
	/* a cluster that is taken counts until the entry names it */
	io->epoch = qcow_inflight_enter(&img->inflight);
	r = fill_take(f, guest, &zeroed);
	if (r) {
		qcow_inflight_end(&img->inflight, io->epoch);
		fill_free(f);
		if (r == -ENOSPC)
			qcow_device_park(dev, bio);
		else
			qcow_device_defer(dev, bio);
		return;
	}
	io->img = img;
	trace_qcow_fill(img, guest, f->host, f->old);
	qcow_stat_inc(dev->stats, filled);
	if (f->old || !zeroed) {
		fill_part(f, 0, in);
		fill_part(f, in + len, img->cluster_size);
	}
	fill_put(f);
}

void qcow_fill_end(struct qcow_device *dev, struct qcow_io *io,
		   struct qcow_slice *s, blk_status_t status)
{
	struct qcow_fill *f = io->fill;
	unsigned long flags;
	u64 e;

	io->fill = NULL;
	spin_lock_irqsave(&s->lock, flags);
	e = s->ent[io->idx];
	if (!status)
		qcow_entry_link(s, io->idx, f->host | QCOW2_ENTRY_COPIED, true);
	else
		WRITE_ONCE(s->ent[io->idx], qcow_entry_settled(e));
	spin_unlock_irqrestore(&s->lock, flags);
	if (status && !qcow_entry_owns_zero(qcow_entry_settled(e)))
		qcow_grant_put(dev, f->host, 1);
	if (!status && f->freed) {
		qcow_commit_freed(s->img, f->freed);
		f->freed = NULL;
	}
	fill_free(f);
	qcow_slice_unpin(s);
}
