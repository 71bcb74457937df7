/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Writes that need a new cluster whose rest is not what the device has there:
 * the rest is copied, from the old cluster or the layers below, or zeroed.
 */
#ifndef QCOW_COW_H
#define QCOW_COW_H

#include <linux/blk_types.h>

struct qcow_device;
struct qcow_io;
struct qcow_slice;
struct qcow_target;

int qcow_fill_init(void);
void qcow_fill_exit(void);
/* The device's reserve (dev->fills): 0 or -ENOMEM. */
int qcow_fill_pool_init(struct qcow_device *dev);

/*
 * Called by the worker for a write, or a write of zeroes, within one cluster
 * whose slice may be written.  The bio is taken: it ends like any other, is
 * parked, or is deferred again.
 */
void qcow_fill_start(struct qcow_target *t, struct bio *bio);

/* The bio has ended: links the new cluster or gives it back; unpins. */
void qcow_fill_end(struct qcow_device *dev, struct qcow_io *io,
		   struct qcow_slice *s, blk_status_t status);

#endif
