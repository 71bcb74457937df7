// SPDX-License-Identifier: GPL-2.0-only
/*
 * The worker: slices that must be loaded, L2 tables that must be made, writes
 * that wait for a grant, for another write or for a commit, and writes that
 * need the rest of their cluster filled.
 *
 * A deferred bio lies within one cluster.  The worker handles one bio at a
 * time and never waits: whatever takes time takes the bio with it and defers
 * it again.  There is one worker for a device, so L2 tables are made by one
 * thread only.
 *
 * Locking: device.bio_lock to take the list; otherwise as in map.c.
 */
#define pr_fmt(fmt) "dm-qcow: " fmt

#include <linux/blkdev.h>

#include "cow.h"
#include "device.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "target.h"
#include "trace.h"
#include "worker.h"

void qcow_submit(struct qcow_image *img, struct bio *bio, u64 host)
{
	WARN_ON_ONCE(!qcow_io(bio)->img);
	qcow_remap(img, bio, host);
	submit_bio_noacct(bio);
}

/* Reads what the device has of a cluster that reaches over its end. */
static void read_cut(struct qcow_image *img, struct bio *bio, u64 host)
{
	u64 bytes = bdev_nr_bytes(img->bdev);

	if (host + bio->bi_iter.bi_size > bytes) {
		zero_fill_bio(bio);
		bio->bi_iter.bi_size = host < bytes ? bytes - host : 0;
	}
	if (bio->bi_iter.bi_size)
		qcow_submit(img, bio, host);
	else
		qcow_bio_end(bio, BLK_STS_OK);
}

/* L1 entry of a guest offset; only this worker changes it. */
static u64 l1_entry(struct qcow_image *img, u64 guest)
{
	u64 e;

	rcu_read_lock();
	e = READ_ONCE(rcu_dereference(img->l1)->entry[guest >>
						      img->l2_span_bits]);
	rcu_read_unlock();
	return e;
}

static void load(struct qcow_device *dev, struct qcow_image *img,
		 struct bio *bio)
{
	u64 guest = qcow_bio_guest(bio);
	u64 e = l1_entry(img, guest);
	bool fresh = qcow_commit_table_is_new(img, guest >> img->l2_span_bits);
	u32 state = e & QCOW2_ENTRY_COPIED ? QCOW_SLICE_WRITABLE : 0;
	int r;

	qcow_stat_inc(dev->stats, slice_loads);
	r = qcow_slice_load(img, guest, e & QCOW2_OFFSET_MASK, state, fresh,
			    bio);
	if (r == -EAGAIN) {
		qcow_device_defer(dev, bio);
	} else if (r) {
		/* no memory: dirty slices hold it, so write them */
		if (img->owner == dev)
			qcow_commit_start(img, false);
		qcow_device_throttle(dev, bio);
	}
}

static void process_read(struct qcow_device *dev, struct qcow_image *img,
			 struct bio *bio)
{
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	struct qcow_io *io = qcow_io(bio);
	enum qcow_found found;

	rcu_read_lock();
	io->epoch = qcow_inflight_begin(&img->inflight);
	io->img = img;
	found = qcow_lookup(img, qcow_bio_guest(bio), false, &x);
	rcu_read_unlock();
	if (found == QCOW_FOUND_HOST) {
		read_cut(img, bio, x.host);
		return;
	}
	qcow_inflight_end(&img->inflight, io->epoch);
	io->img = NULL;
	switch (found) {
	case QCOW_FOUND_ZERO:
		zero_fill_bio(bio);
		qcow_bio_end(bio, BLK_STS_OK);
		break;
	case QCOW_FOUND_MISS:
		load(dev, img, bio);
		break;
	default:
		pr_err_ratelimited("%pg: guest offset %llu is a compressed cluster, which is not supported\n",
				   img->bdev, qcow_bio_guest(bio));
		qcow_bio_end(bio, BLK_STS_NOTSUPP);
	}
}

/* Gives an L1 entry a table: 0, -ENOSPC: no grant, -ENOMEM. */
static int make_table(struct qcow_device *dev, struct qcow_image *img, u32 l1)
{
	struct qcow_claims *c = &img->claims;
	bool zeroed = true;
	u64 host;
	int r;

	if (!qcow_grant_take(dev, 1, &zeroed, true, &host)) {
		zeroed = false;
		if (!qcow_grant_take(dev, 1, &zeroed, true, &host))
			return -ENOSPC;
	}
	mutex_lock(&c->lock);
	r = qcow_claim_set(c, QCOW_CLAIM_KERNEL, host >> img->cluster_bits);
	if (r >= 0)
		qcow_claim_clear(c, QCOW_CLAIM_DATA,
				 host >> img->cluster_bits);
	mutex_unlock(&c->lock);
	r = r < 0 ? r : qcow_commit_new_table(img, l1, host, zeroed);
	if (!r)
		return 0;
	mutex_lock(&c->lock);
	qcow_claim_clear(c, QCOW_CLAIM_KERNEL, host >> img->cluster_bits);
	qcow_claim_set(c, QCOW_CLAIM_DATA, host >> img->cluster_bits);
	mutex_unlock(&c->lock);
	qcow_grant_put(dev, host, 1);
	return r;
}

/* What is left to do when a write could not be given a cluster. */
static void process_alloc(struct qcow_device *dev, struct qcow_image *img,
			  struct bio *bio, enum qcow_alloc r)
{
	switch (r) {
	case QCOW_ALLOC_RETRY:
		qcow_device_defer(dev, bio);
		break;
	case QCOW_ALLOC_BUSY:
		break;		/* queued at the slice */
	case QCOW_ALLOC_NO_GRANT:
		qcow_device_park(dev, bio);
		break;
	case QCOW_ALLOC_FILL:
		qcow_fill_start(dev, img, bio);
		break;
	default:
		pr_err_ratelimited("%pg: guest offset %llu: writing to compressed clusters and shared L2 tables is not supported\n",
				   img->bdev, qcow_bio_guest(bio));
		qcow_bio_end(bio, BLK_STS_NOTSUPP);
	}
}

/* No slice to allocate in: load it, or make the table that it is in. */
static void process_no_slice(struct qcow_device *dev, struct qcow_image *img,
			     struct bio *bio)
{
	u64 guest = qcow_bio_guest(bio);
	unsigned int epoch;
	int r;

	if (l1_entry(img, guest) & QCOW2_OFFSET_MASK) {
		load(dev, img, bio);
		return;
	}
	/* a cluster that is taken counts until something names it */
	epoch = qcow_inflight_enter(&img->inflight);
	r = make_table(dev, img, guest >> img->l2_span_bits);
	qcow_inflight_end(&img->inflight, epoch);
	if (!r)
		qcow_device_defer(dev, bio);
	else if (r == -ENOSPC)
		qcow_device_park(dev, bio);
	else
		qcow_device_throttle(dev, bio);
}

static void process_write(struct qcow_device *dev, struct qcow_image *img,
			  struct bio *bio)
{
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	u64 guest = qcow_bio_guest(bio);
	struct qcow_io *io = qcow_io(bio);
	enum qcow_alloc r = QCOW_ALLOC_OK;
	unsigned int epoch;
	bool no_slice;

	if (READ_ONCE(dev->mode) >= DM_QCOW_MODE_READ_ONLY) {
		qcow_bio_end(bio, BLK_STS_IOERR);
		return;
	}
	if (qcow_dirty_over(img)) {
		qcow_commit_start(img, false);
		qcow_device_throttle(dev, bio);
		return;
	}
	rcu_read_lock();
	epoch = qcow_inflight_begin(&img->inflight);
	no_slice = false;
	if (qcow_lookup(img, guest, true, &x) != QCOW_FOUND_HOST) {
		no_slice = !x.slice;
		if (!no_slice)
			r = qcow_alloc(dev, io, guest, &x, bio);
	}
	rcu_read_unlock();
	if (no_slice || r != QCOW_ALLOC_OK) {
		/* if it is BUSY the bio is not ours any more */
		qcow_inflight_end(&img->inflight, epoch);
		if (no_slice)
			process_no_slice(dev, img, bio);
		else
			process_alloc(dev, img, bio, r);
		return;
	}
	io->epoch = epoch;
	io->img = img;
	qcow_fua_later(bio);
	qcow_submit(img, bio, x.host);
}

void qcow_worker(struct work_struct *work)
{
	struct qcow_device *dev = container_of(work, struct qcow_device,
					       worker);
	struct qcow_image *img;
	struct blk_plug plug;
	struct bio_list bios;
	struct bio *bio;

	bio_list_init(&bios);
	spin_lock_irq(&dev->bio_lock);
	bio_list_merge(&bios, &dev->deferred);
	bio_list_init(&dev->deferred);
	spin_unlock_irq(&dev->bio_lock);

	blk_start_plug(&plug);
	while ((bio = bio_list_pop(&bios))) {
		img = qcow_io(bio)->t->img;
		if (bio_op(bio) == REQ_OP_READ)
			process_read(dev, img, bio);
		else
			process_write(dev, img, bio);
		cond_resched();
	}
	blk_finish_plug(&plug);
}
