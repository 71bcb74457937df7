/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Writes that cover only a part of a cluster whose rest is not zeroes on the
 * device: the rest is copied or zeroed first.
 */
#ifndef QCOW_COW_H
#define QCOW_COW_H

#include <linux/blk_types.h>

struct qcow_device;
struct qcow_image;
struct qcow_io;
struct qcow_slice;

int qcow_fill_init(void);
void qcow_fill_exit(void);

/*
 * Called by the worker for a write within one cluster.  The bio is taken: it
 * ends like any other, is parked, or is deferred again.
 */
void qcow_fill_start(struct qcow_device *dev, struct qcow_image *img,
		     struct bio *bio);

/* The bio has ended: links the new cluster or gives it back; unpins. */
void qcow_fill_end(struct qcow_device *dev, struct qcow_io *io,
		   struct qcow_slice *s, blk_status_t status);

#endif
