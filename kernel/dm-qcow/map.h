/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From guest offset to host offset: what the hot path and the worker share.
 */
#ifndef QCOW_MAP_H
#define QCOW_MAP_H

#include "image.h"
#include "lookup.h"

struct bio;
struct dm_target;
struct qcow_io;

enum qcow_alloc {
	QCOW_ALLOC_OK,		/* the run is pending, @x->host and @x->len set */
	QCOW_ALLOC_RETRY,	/* the entry has changed: look it up again */
	QCOW_ALLOC_BUSY,	/* another write must end first */
	QCOW_ALLOC_NO_GRANT,	/* no cluster left */
	QCOW_ALLOC_FILL,	/* it is copy-on-write's (cow.c) */
	QCOW_ALLOC_SHARED,	/* the L2 table must be copied first */
};

/**
 * qcow_alloc - find host clusters for a write to x->slice, without sleeping
 * @x: from qcow_lookup(), with a slice; in the same RCU section
 * @wait: NULL in the hot path; in the worker: the bio, which on
 *        QCOW_ALLOC_BUSY has been queued to try again
 * On success entries are pending and @io holds them until the bio ends.
 */
enum qcow_alloc qcow_alloc(struct qcow_target *t, struct qcow_io *io,
			   u64 guest, struct qcow_extent *x, struct bio *wait);

/* Points a bio at its host range on a device. */
static inline void qcow_remap(struct block_device *bdev, struct bio *bio,
			      u64 host)
{
	bio_set_dev(bio, bdev);
	bio->bi_iter.bi_sector = host >> SECTOR_SHIFT;
}

/* Too much is dirty: allocating writes wait for a commit. */
bool qcow_dirty_over(struct qcow_image *img);

/* The target's map and end_io. */
int qcow_map(struct dm_target *ti, struct bio *bio);
int qcow_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);

#endif
