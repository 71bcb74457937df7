/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The worker of a device: bios that the hot path cannot serve.
 */
#ifndef QCOW_WORKER_H
#define QCOW_WORKER_H

#include <linux/bio.h>
#include <linux/workqueue.h>

#include "io.h"

void qcow_worker(struct work_struct *work);

/* A FUA write whose mapping is not durable: data now, then a commit. */
static inline void qcow_fua_later(struct bio *bio)
{
	if (bio->bi_opf & REQ_FUA) {
		bio->bi_opf &= ~REQ_FUA;
		qcow_io(bio)->flags |= QCOW_IO_FUA;
	}
}

/* Sends a bio, which counts in its image's epoch, to a host range. */
void qcow_submit(struct qcow_image *img, struct bio *bio, u64 host);

#endif
