/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The copier: reads a guest range through all layers into memory, and writes
 * memory to a device.  Sleeps; for work items only.
 */
#ifndef QCOW_COPY_H
#define QCOW_COPY_H

#include <linux/blk_types.h>
#include <linux/mempool.h>
#include <linux/types.h>

struct bio;
struct block_device;
struct qcow_device;
struct qcow_target;

#define QCOW_COPY_BYTES	(64U << 10)	/* of a buffer */

/* 0 or -ENOMEM; exit in either case. */
int qcow_copy_init(struct qcow_device *dev);
void qcow_copy_exit(struct qcow_device *dev);

/* A buffer of QCOW_COPY_BYTES; waits for one, and no thread may have two. */
void *qcow_copy_buffer(struct qcow_device *dev);
void qcow_copy_buffer_put(struct qcow_device *dev, void *buf);

/**
 * qcow_copy_read - read as a guest would
 * @guest, @len: whole sectors; what lies behind the disk reads as zeroes
 * @zero: set to false if any of it has content, otherwise left alone
 * The caller counts in the top image's epoch.
 * Return: 0 or -errno.
 */
int qcow_copy_read(struct qcow_target *t, u64 guest, void *buf, u32 len,
		   bool *zero);

/*
 * Serves a read through a buffer, in a work item: for what is in too many
 * pieces.  The bio was held and counts in the top image's epoch; it is taken.
 * -ENOMEM: it is still the caller's.
 */
int qcow_copy_bio(struct qcow_target *t, struct bio *bio);

/*
 * Read or write kmalloc'ed memory.  Behind a device's end zeroes are read, and
 * nothing is written: there is only what follows the disk.  0 or -errno.
 */
int qcow_copy_io(struct block_device *bdev, blk_opf_t opf, u64 off, void *buf,
		 u32 len);

#endif
