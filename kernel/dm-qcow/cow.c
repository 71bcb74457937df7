// SPDX-License-Identifier: GPL-2.0-only
/*
 * Copy-on-write: filling the rest of a cluster around a write.
 *
 * Owns the entry while it works: the entry is locked (pending.h), so readers
 * see the old state and other writers wait.  What the new cluster must have
 * beside the write comes through the layers as a reader would see it, up to
 * the cluster's end even where that lies behind the virtual disk's.  Then the
 * bio writes its part; when it has ended, the entry names the new cluster, and
 * the old one is freed after the next commit.
 *
 * With extended L2 entries only the subclusters that the write touches need
 * filling, and those that had data in an old cluster that is left.  A
 * subcluster that has data in a cluster which is kept is never rewritten:
 * others may be writing to it in place.
 *
 * Locking: slice.lock.  The filling is a work item (dev->copy_wq) and sleeps.
 */
#include <linux/bio.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "copy.h"
#include "cow.h"
#include "device.h"
#include "io.h"
#include "lookup.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "target.h"
#include "trace.h"
#include "worker.h"

#define FILL_RESERVE	4	/* of a device */

/**
 * struct qcow_fill - one cluster being filled
 * @work: fills
 * @t: the table
 * @bio: the write
 * @host: the cluster that is written
 * @granted: it was taken from the grants
 * @zeroed: it reads as zeroes
 * @from: first byte of the cluster that the bio writes
 * @to: the byte behind the last one
 * @parts: subclusters to be filled where the bio does not write; bit 0 alone,
 *         for all of the cluster, without extended entries
 * @bitmap: of the extended entry, afterwards
 * @freed: for the cluster that is replaced, NULL if none is
 * @leaks: there is one, and no memory for @freed
 */
struct qcow_fill {
	struct work_struct work;
	struct qcow_target *t;
	struct bio *bio;
	u64 host;
	bool granted;
	bool zeroed;
	bool leaks;
	u32 from;
	u32 to;
	u32 parts;
	u64 bitmap;
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

int qcow_fill_pool_init(struct qcow_device *dev)
{
	return mempool_init_slab_pool(&dev->fills, FILL_RESERVE, fill_cache);
}

static void fill_free(struct qcow_fill *f)
{
	kfree(f->freed);
	mempool_free(f, &f->t->dev->fills);
}

/*
 * Filling
 */

/* Puts what the bio writes into bytes [at, at + len) of the cluster. */
static void overlay(struct qcow_fill *f, char *buf, u32 at, u32 len)
{
	u32 pos = f->from, end = at + len;
	struct bvec_iter iter;
	struct bio_vec bv;

	if (bio_op(f->bio) == REQ_OP_WRITE_ZEROES) {
		u32 a = max(at, f->from), b = min(end, f->to);

		if (a < b)
			memset(buf + a - at, 0, b - a);
		return;
	}
	bio_for_each_segment(bv, f->bio, iter) {
		u32 a = max(at, pos), b = min(end, pos + bv.bv_len);

		if (a < b) {
			char *p = bvec_kmap_local(&bv);

			memcpy(buf + a - at, p + a - pos, b - a);
			kunmap_local(p);
		}
		pos += bv.bv_len;
	}
}

/* Bytes [at, end) of the new cluster, as they were. */
static int fill_range(struct qcow_fill *f, char *buf, u32 at, u32 end)
{
	struct qcow_image *img = f->t->img;
	u64 base = round_down(qcow_bio_guest(f->bio), img->cluster_size);
	int r = 0;

	for (; at < end && !r; at += QCOW_COPY_BYTES) {
		u32 len = min(end - at, QCOW_COPY_BYTES);
		bool zero = true;

		r = qcow_copy_read(f->t, base + at, buf, len, &zero);
		if (!r && !(zero && f->zeroed))
			r = qcow_copy_io(img->data, REQ_OP_WRITE, f->host + at,
					 buf, len);
	}
	return r;
}

/* Zeroes where the bio writes them. */
static int fill_zeroes(struct qcow_fill *f, char *buf)
{
	u32 at = f->from, len;
	int r = 0;

	memset(buf, 0, min(f->to - f->from, QCOW_COPY_BYTES));
	for (; at < f->to && !f->zeroed && !r; at += len) {
		len = min(f->to - at, QCOW_COPY_BYTES);
		r = qcow_copy_io(f->t->img->data, REQ_OP_WRITE, f->host + at,
				 buf, len);
	}
	return r;
}

/* The parts of one subcluster that the bio leaves. */
static int fill_part(struct qcow_fill *f, char *buf, u32 at, u32 end)
{
	int r = 0;

	if (f->to <= at || f->from >= end)
		return fill_range(f, buf, at, end);
	if (at < f->from)
		r = fill_range(f, buf, at, f->from);
	if (!r && f->to < end)
		r = fill_range(f, buf, f->to, end);
	return r;
}

static int fill_parts(struct qcow_fill *f, char *buf)
{
	u32 scs = 1U << f->t->img->sc_bits, i;
	int r = 0;

	for (i = 0; i < QCOW2_SUBCLUSTERS && !r; i++)
		if (f->parts & BIT(i))
			r = fill_part(f, buf, i * scs, (i + 1) * scs);
	if (!r && bio_op(f->bio) == REQ_OP_WRITE_ZEROES)
		r = fill_zeroes(f, buf);
	return r;
}

/*
 * The whole cluster in one read and one write, the bio's data included.
 * *@done: false: the rest is zeroes, as it is on the device already.
 */
static int fill_cluster(struct qcow_fill *f, char *buf, bool *done)
{
	struct qcow_image *img = f->t->img;
	u64 base = round_down(qcow_bio_guest(f->bio), img->cluster_size);
	bool zero = true;
	int r;

	*done = true;
	r = qcow_copy_read(f->t, base, buf, img->cluster_size, &zero);
	if (r)
		return r;
	if (zero && f->zeroed) {
		*done = bio_op(f->bio) == REQ_OP_WRITE_ZEROES;
		return 0;
	}
	overlay(f, buf, 0, img->cluster_size);
	return qcow_copy_io(img->data, REQ_OP_WRITE, f->host, buf,
			    img->cluster_size);
}

static bool fill_is_whole(const struct qcow_fill *f)
{
	return !f->from && f->to == f->t->img->cluster_size;
}

static void fill_work(struct work_struct *work)
{
	struct qcow_fill *f = container_of(work, struct qcow_fill, work);
	struct qcow_image *img = f->t->img;
	struct qcow_device *dev = f->t->dev;
	unsigned int noio = memalloc_noio_save();
	char *buf = qcow_copy_buffer(dev);
	struct bio *bio = f->bio;
	bool done;
	int r;

	if (!img->ext && img->cluster_size <= QCOW_COPY_BYTES) {
		r = fill_cluster(f, buf, &done);
	} else {
		r = fill_parts(f, buf);
		done = bio_op(bio) == REQ_OP_WRITE_ZEROES;
	}
	qcow_copy_buffer_put(dev, buf);
	memalloc_noio_restore(noio);
	/* f goes with the bio */
	if (r || done)
		qcow_bio_end(bio, errno_to_blk_status(r));
	else
		qcow_submit(img->data, bio, f->host + f->from);
}

/*
 * Beginning
 */

static struct qcow_fill *fill_alloc(struct qcow_target *t, struct bio *bio)
{
	const gfp_t gfp = GFP_NOWAIT | __GFP_NOWARN;
	struct qcow_fill *f = mempool_alloc(&t->dev->fills, gfp);

	if (!f)
		return NULL;
	memset(f, 0, sizeof(*f));
	f->freed = kmalloc(sizeof(*f->freed), gfp);
	INIT_WORK(&f->work, fill_work);
	f->t = t;
	f->bio = bio;
	f->from = qcow_bio_guest(bio) & (t->img->cluster_size - 1);
	f->to = f->from + bio->bi_iter.bi_size;
	return f;
}

/* Subclusters that the bio touches; @whole: only those it covers. */
static u32 fill_touched(const struct qcow_fill *f, bool whole)
{
	u32 bits = f->t->img->sc_bits, scs = 1U << bits;
	u32 a = (f->from + (whole ? scs - 1 : 0)) >> bits;
	u32 b = (f->to + (whole ? 0 : scs - 1)) >> bits;

	return a < b ? (u32)(GENMASK_ULL(b - 1, a)) : 0;
}

/* What is to be filled and what the entry will be; @keep: its cluster stays. */
static void fill_plan(struct qcow_fill *f, u64 e, u64 bitmap, bool keep)
{
	u32 alloc = (u32)bitmap, touched = fill_touched(f, false);

	if (!f->t->img->ext) {
		f->parts = !fill_is_whole(f);
		return;
	}
	if (e & QCOW2_L2_COMPRESSED) {
		f->parts = U32_MAX;
		f->bitmap = QCOW2_EXTL2_ALL_ALLOC;
	} else {
		f->parts = touched & ~alloc;
		if (!keep)
			f->parts |= alloc | touched;
		f->bitmap = (bitmap | touched) & ~((u64)touched << 32);
	}
	f->parts &= ~fill_touched(f, true);
}

/* The record of what the new cluster replaces. */
static void fill_replaces(struct qcow_fill *f, u64 e)
{
	struct qcow_freed none;
	bool frees = qcow_freed_set(f->t->img, f->freed ?: &none, e);

	f->leaks = frees && !f->freed;
	if (frees)
		return;
	kfree(f->freed);
	f->freed = NULL;
}

enum fill_need {
	FILL_AGAIN,	/* the entry has changed: look it up again */
	FILL_OWN,	/* its own cluster is to be written */
	FILL_NEW,	/* it needs a cluster */
};

/* s->lock is held. */
static enum fill_need fill_need(struct qcow_fill *f, struct qcow_slice *s,
				u32 i)
{
	struct qcow_image *img = s->img;
	u64 e = *qcow_ent(s, i);
	u32 touched = fill_touched(f, false);

	if (s->state & QCOW_SLICE_DEAD || !(s->state & QCOW_SLICE_WRITABLE) ||
	    qcow_entry_busy(s, i))
		return FILL_AGAIN;
	if (e & QCOW2_L2_COMPRESSED)
		return FILL_NEW;
	if (!qcow_has_cluster(img, e) || !(e & QCOW2_ENTRY_COPIED))
		return FILL_NEW;
	if (img->ext)
		return touched & ~(u32)qcow_ent(s, i)[1] ? FILL_OWN :
			FILL_AGAIN;
	return e & QCOW2_L2_ZERO ? FILL_OWN : FILL_AGAIN;
}

/* Locks the entry for this fill, if it needs what @f has; s->lock is held. */
static bool fill_claim(struct qcow_fill *f, struct qcow_slice *s, u32 i)
{
	struct qcow_image *img = s->img;
	struct qcow_io *io = qcow_io(f->bio);
	enum fill_need need = fill_need(f, s, i);
	u64 e = *qcow_ent(s, i), bitmap = img->ext ? qcow_ent(s, i)[1] : 0;

	lockdep_assert_held(&s->lock);
	if (need != (f->granted || img->external ? FILL_NEW : FILL_OWN) &&
	    !(img->external && need == FILL_OWN))
		return false;
	if (need == FILL_OWN) {
		f->host = e & QCOW2_OFFSET_MASK;
		f->zeroed = false;
		kfree(f->freed);
		f->freed = NULL;
	} else {
		fill_replaces(f, e);
	}
	fill_plan(f, e, bitmap, need == FILL_OWN);
	qcow_entry_lock(s, i);
	io->slice = s;
	io->fill = f;
	io->idx = i;
	io->nr = 1;
	io->host = f->host;
	return true;
}

/* Finds the entry again and claims it. */
static bool fill_begin(struct qcow_fill *f, u64 guest)
{
	struct qcow_image *img = f->t->img;
	struct qcow_slice *s;
	bool ok = false;

	rcu_read_lock();
	s = qcow_slice_find(img, guest);
	if (s) {
		spin_lock_irq(&s->lock);
		ok = fill_claim(f, s, qcow_slice_index(img, guest));
		spin_unlock_irq(&s->lock);
	}
	rcu_read_unlock();
	return ok;
}

/* Takes a cluster and the entry: 0, -ENOSPC: no grant, -EAGAIN: look again. */
static int fill_take(struct qcow_fill *f, u64 guest)
{
	struct qcow_image *img = f->t->img;
	struct qcow_device *dev = f->t->dev;
	bool zeroed = false;

	if (img->external) {
		f->host = round_down(guest, img->cluster_size);
		return fill_begin(f, guest) ? 0 : -EAGAIN;
	}
	if (fill_begin(f, guest))
		return 0;
	if (!qcow_grant_take(dev, 1, &zeroed, true, &f->host))
		return -ENOSPC;
	f->granted = true;
	f->zeroed = zeroed;
	if (fill_begin(f, guest))
		return 0;
	qcow_grant_put(dev, f->host, 1);
	return -EAGAIN;
}

/* Is the new cluster what it must be already, but for the bio's data? */
static bool fill_is_done(struct qcow_fill *f, u64 guest)
{
	bool done;

	if (bio_op(f->bio) == REQ_OP_WRITE_ZEROES)
		return false;
	if (!f->parts)
		return true;
	if (!f->zeroed || f->freed || f->leaks || f->t->img->ext)
		return false;
	rcu_read_lock();
	done = qcow_reads_zero(f->t, guest);
	rcu_read_unlock();
	return done;
}

void qcow_fill_start(struct qcow_target *t, struct bio *bio)
{
	struct qcow_image *img = t->img;
	struct qcow_device *dev = t->dev;
	struct qcow_fill *f = fill_alloc(t, bio);
	struct qcow_io *io = qcow_io(bio);
	u64 guest = qcow_bio_guest(bio);
	int r;

	if (!f) {
		qcow_device_throttle(dev, bio);
		return;
	}
	qcow_fua_later(bio);
	/* a cluster that is taken counts until the entry names it */
	io->epoch = qcow_inflight_enter(&img->inflight);
	r = fill_take(f, guest);
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
	trace_qcow_fill(img, guest, f->host, f->freed ? f->freed->offset : 0);
	qcow_stat_inc(dev->stats, filled);
	if (fill_is_done(f, guest))
		qcow_submit(img->data, bio, f->host + f->from);
	else
		queue_work(dev->copy_wq, &f->work);
}

void qcow_fill_end(struct qcow_device *dev, struct qcow_io *io,
		   struct qcow_slice *s, blk_status_t status)
{
	struct qcow_fill *f = io->fill;
	unsigned long flags;

	io->fill = NULL;
	spin_lock_irqsave(&s->lock, flags);
	if (*qcow_ent(s, io->idx) & QCOW2_L2_COMPRESSED)
		clear_bit(io->idx, s->busy);
	if (!status)
		qcow_entry_link(s, io->idx, f->host | QCOW2_ENTRY_COPIED,
				f->bitmap, true);
	else
		qcow_entry_unlock(s, io->idx);
	spin_unlock_irqrestore(&s->lock, flags);
	if (status && f->granted)
		qcow_grant_put(dev, f->host, 1);
	if (!status && f->freed) {
		qcow_commit_freed(s->img, f->freed);
		f->freed = NULL;
	}
	if (!status && f->leaks)
		set_bit(QCOW_DEV_LEAKED, &dev->flags);
	fill_free(f);
	qcow_slice_unpin(s);
}
