/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The worker of a device: bios that the hot path cannot serve.
 */
#ifndef QCOW_WORKER_H
#define QCOW_WORKER_H

#include <linux/bio.h>
#include <linux/workqueue.h>

#include "io.h"

struct qcow_target;

void qcow_worker(struct work_struct *work);

/* Parts of what the worker does; each takes the bio. */

/* Loads the slice of a guest offset; then the bio is deferred again. */
void qcow_worker_load(struct qcow_target *t, struct qcow_image *img, u64 guest,
		      struct bio *bio);
/* Makes the L2 table at the bio's beginning, or a copy of a shared one. */
void qcow_worker_table(struct qcow_target *t, struct bio *bio);
/* May nothing be written now?  Then the bio was taken. */
bool qcow_worker_refuses(struct qcow_target *t, struct bio *bio);

/* A FUA write whose mapping is not durable: data now, then a commit. */
static inline void qcow_fua_later(struct bio *bio)
{
	if (bio->bi_opf & REQ_FUA) {
		bio->bi_opf &= ~REQ_FUA;
		qcow_io(bio)->flags |= QCOW_IO_FUA;
	}
}

/* Sends a bio, which counts in its image's epoch, to a range of a device. */
void qcow_submit(struct block_device *bdev, struct bio *bio, u64 host);

#endif
