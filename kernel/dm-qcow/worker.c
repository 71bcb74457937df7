// SPDX-License-Identifier: GPL-2.0-only
/*
 * The worker: slices that must be loaded, L2 tables that must be made, writes
 * that wait for a grant, for another write or for a commit, and what is handed
 * on to those who decompress, copy and zero.
 *
 * A deferred read or write lies within one cluster of the top image.  The
 * worker handles one bio at a time and never waits, but for the copy of an L2
 * table: whatever takes time takes the bio with it and defers it again.  There
 * is one worker for a device, so L2 tables are made by one thread only.
 *
 * Locking: device.bio_lock to take the list; otherwise as in map.c.
 */
#include <linux/blkdev.h>

#include "copy.h"
#include "cow.h"
#include "decomp.h"
#include "device.h"
#include "l2table.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "target.h"
#include "trace.h"
#include "worker.h"
#include "zero.h"

void qcow_submit(struct block_device *bdev, struct bio *bio, u64 host)
{
	qcow_remap(bdev, bio, host);
	submit_bio_noacct(bio);
}

/* Reads what the device has of a cluster that reaches over its end. */
static void read_cut(struct block_device *bdev, struct bio *bio, u64 host)
{
	u64 bytes = bdev_nr_bytes(bdev);

	if (host + bio->bi_iter.bi_size > bytes) {
		zero_fill_bio(bio);
		bio->bi_iter.bi_size = host < bytes ? bytes - host : 0;
	}
	if (bio->bi_iter.bi_size)
		qcow_submit(bdev, bio, host);
	else
		qcow_bio_end(bio, BLK_STS_OK);
}

void qcow_worker_load(struct qcow_target *t, struct qcow_image *img, u64 guest,
		      struct bio *bio)
{
	struct qcow_device *dev = t->dev;
	int r;

	qcow_stat_inc(dev->stats, slice_loads);
	r = qcow_slice_load(img, guest, bio, NULL);
	if (r == -EAGAIN) {
		qcow_device_defer(dev, bio);
	} else if (r == -ENOMEM) {
		/* no memory: dirty slices hold it, so write them */
		if (t->img->owner == dev)
			qcow_commit_start(t->img, false);
		qcow_device_throttle(dev, bio);
	} else if (r) {
		qcow_bio_end(bio, errno_to_blk_status(r));
	}
}

/* Serves a read, or a part of one, from one extent. */
static void read_extent(struct qcow_target *t, struct bio *bio, u64 guest,
			enum qcow_found found, const struct qcow_extent *x)
{
	struct qcow_layer *layer = &t->layers[x->layer];
	struct qcow_image *img = layer->img;

	switch (found) {
	case QCOW_FOUND_HOST:
		if (x->layer)
			qcow_stat_inc(t->dev->stats, read_below);
		read_cut(layer->data, bio, x->host);
		break;
	case QCOW_FOUND_COMPRESSED:
		qcow_decomp_bio(img, x->host, guest & (img->cluster_size - 1),
				bio);
		break;
	default:
		zero_fill_bio(bio);
		qcow_bio_end(bio, BLK_STS_OK);
	}
}

/* The bio counts in the epoch from its first part on until it ends. */
static void read_epoch(struct qcow_target *t, struct qcow_io *io)
{
	if (io->img)
		return;
	io->epoch = qcow_inflight_begin(&t->img->inflight);
	io->img = t->img;
}

static void process_read(struct qcow_target *t, struct bio *bio)
{
	struct qcow_io *io = qcow_io(bio);
	struct qcow_image *top = t->img;
	struct bio *part = NULL;

	while (part != bio) {
		struct qcow_extent x = { .len = bio->bi_iter.bi_size };
		u64 guest = qcow_bio_guest(bio);
		enum qcow_found found;

		rcu_read_lock();
		read_epoch(t, io);
		found = qcow_lookup_layers(t, guest, io->layer, &x);
		rcu_read_unlock();
		if (found == QCOW_FOUND_MISS) {
			io->layer = x.from;
			if (!(io->flags & QCOW_IO_SPLIT)) {
				qcow_inflight_end(&top->inflight, io->epoch);
				io->img = NULL;
			}
			qcow_worker_load(t, t->layers[x.layer].img, guest,
					 bio);
			return;
		}
		part = bio;
		if (x.len < bio->bi_iter.bi_size &&
		    found == QCOW_FOUND_COMPRESSED) {
			if (qcow_copy_bio(t, bio))
				qcow_device_throttle(t->dev, bio);
			return;
		}
		if (x.len < bio->bi_iter.bi_size) {
			part = bio_split(bio, x.len >> SECTOR_SHIFT, GFP_NOIO,
					 &top->bios);
			bio_chain(part, bio);
			io->flags |= QCOW_IO_SPLIT;
		}
		read_extent(t, part, guest, found, &x);
	}
}

void qcow_worker_table(struct qcow_target *t, struct bio *bio)
{
	int r = qcow_l2table_make(t, qcow_bio_guest(bio));

	if (!r)
		qcow_device_defer(t->dev, bio);
	else if (r == -ENOSPC)
		qcow_device_park(t->dev, bio);
	else if (r == -ENOMEM)
		qcow_device_throttle(t->dev, bio);
	else
		qcow_bio_end(bio, errno_to_blk_status(r));
}

/* What is left to do when a write could not be given a cluster. */
static void process_alloc(struct qcow_target *t, struct bio *bio,
			  enum qcow_alloc r)
{
	switch (r) {
	case QCOW_ALLOC_RETRY:
		qcow_device_defer(t->dev, bio);
		break;
	case QCOW_ALLOC_BUSY:
		break;		/* queued at the slice */
	case QCOW_ALLOC_NO_GRANT:
		qcow_device_park(t->dev, bio);
		break;
	case QCOW_ALLOC_SHARED:
		qcow_worker_table(t, bio);
		break;
	default:
		qcow_fill_start(t, bio);
	}
}

/* No slice to allocate in: load it, or make the table that it is in. */
static void process_no_slice(struct qcow_target *t, struct bio *bio)
{
	u64 guest = qcow_bio_guest(bio);

	if (qcow_l1_entry(t->img, guest) & QCOW2_OFFSET_MASK)
		qcow_worker_load(t, t->img, guest, bio);
	else
		qcow_worker_table(t, bio);
}

bool qcow_worker_refuses(struct qcow_target *t, struct bio *bio)
{
	if (READ_ONCE(t->dev->mode) >= DM_QCOW_MODE_READ_ONLY) {
		qcow_bio_end(bio, BLK_STS_IOERR);
		return true;
	}
	if (qcow_dirty_over(t->img)) {
		qcow_commit_start(t->img, false);
		qcow_device_throttle(t->dev, bio);
		return true;
	}
	return false;
}

static void process_write(struct qcow_target *t, struct bio *bio)
{
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	struct qcow_image *img = t->img;
	u64 guest = qcow_bio_guest(bio);
	struct qcow_io *io = qcow_io(bio);
	enum qcow_alloc r = QCOW_ALLOC_OK;
	unsigned int epoch;
	bool no_slice = false;

	if (qcow_worker_refuses(t, bio))
		return;
	rcu_read_lock();
	epoch = qcow_inflight_begin(&img->inflight);
	if (qcow_lookup(img, guest, true, &x) != QCOW_FOUND_HOST ||
	    x.len < bio->bi_iter.bi_size) {
		no_slice = !x.slice;
		x.len = bio->bi_iter.bi_size;
		if (!no_slice)
			r = qcow_alloc(t, io, guest, &x, bio);
	}
	rcu_read_unlock();
	if (no_slice || r != QCOW_ALLOC_OK) {
		/* if it is BUSY the bio is not ours any more */
		qcow_inflight_end(&img->inflight, epoch);
		if (no_slice)
			process_no_slice(t, bio);
		else
			process_alloc(t, bio, r);
		return;
	}
	io->epoch = epoch;
	io->img = img;
	qcow_fua_later(bio);
	qcow_submit(img->data, bio, x.host);
}

void qcow_worker(struct work_struct *work)
{
	struct qcow_device *dev = container_of(work, struct qcow_device,
					       worker);
	struct qcow_target *t;
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
		t = qcow_io(bio)->t;
		switch (bio_op(bio)) {
		case REQ_OP_READ:
			process_read(t, bio);
			break;
		case REQ_OP_WRITE:
			process_write(t, bio);
			break;
		default:
			qcow_zero_process(t, bio);
		}
		cond_resched();
	}
	blk_finish_plug(&plug);
}
