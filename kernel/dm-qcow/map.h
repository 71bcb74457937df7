/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From guest offset to host offset: what the hot path and the worker share.
 */
#ifndef QCOW_MAP_H
#define QCOW_MAP_H

#include "image.h"

struct bio;
struct dm_target;
struct qcow_device;
struct qcow_io;
struct qcow_slice;

enum qcow_found {
	QCOW_FOUND_HOST,	/* a host range */
	QCOW_FOUND_ZERO,	/* reads as zeroes */
	QCOW_FOUND_MISS,	/* the slice is not in memory */
	QCOW_FOUND_OTHER,	/* not to be served in place */
};

/**
 * struct qcow_extent - what a guest range maps to
 * @len: in: bytes wanted; out: how many of them the answer holds for
 * @host: bytes, for QCOW_FOUND_HOST
 * @slice: the slice that says so; NULL: not in memory.  Valid in the RCU
 *         section.
 */
struct qcow_extent {
	u64 len;
	u64 host;
	struct qcow_slice *slice;
};

/**
 * qcow_lookup - map a guest range; takes no lock, inside rcu_read_lock()
 * @write: only clusters that may be written in place are QCOW_FOUND_HOST
 */
enum qcow_found qcow_lookup(struct qcow_image *img, u64 guest, bool write,
			    struct qcow_extent *x);

enum qcow_alloc {
	QCOW_ALLOC_OK,		/* the run is pending, @x->host and @x->len set */
	QCOW_ALLOC_RETRY,	/* the entry has changed: look it up again */
	QCOW_ALLOC_BUSY,	/* another write must end first */
	QCOW_ALLOC_NO_GRANT,	/* no cluster left */
	QCOW_ALLOC_FILL,	/* the rest of the cluster must be filled first */
	QCOW_ALLOC_FOREIGN,	/* the L2 table is shared, or compressed */
};

/**
 * qcow_alloc - find host clusters for a write to x->slice, without sleeping
 * @x: from qcow_lookup(), with a slice; in the same RCU section
 * @wait: NULL in the hot path; in the worker: the bio, which on
 *        QCOW_ALLOC_BUSY has been queued to try again
 * On success entries are pending and @io holds them until the bio ends.
 */
enum qcow_alloc qcow_alloc(struct qcow_device *dev, struct qcow_io *io,
			   u64 guest, struct qcow_extent *x, struct bio *wait);

/* Points a bio at its host range; it goes to the image's device. */
void qcow_remap(struct qcow_image *img, struct bio *bio, u64 host);

/* Too much is dirty: allocating writes wait for a commit. */
bool qcow_dirty_over(struct qcow_image *img);

/* The target's map and end_io. */
int qcow_map(struct dm_target *ti, struct bio *bio);
int qcow_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);

#endif
