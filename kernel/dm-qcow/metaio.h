/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading and writing metadata from process context.
 */
#ifndef QCOW_METAIO_H
#define QCOW_METAIO_H

#include <linux/blkdev.h>
#include <linux/completion.h>

/* A set of writes that is waited for as one; lives on the stack. */
struct qcow_metaio {
	struct block_device *bdev;
	struct bio_set *bios;
	atomic_t pending;
	int error;
	struct completion done;
	struct blk_plug plug;
};

/* @bios: not fs_bio_set, which those above us may have emptied */
void qcow_metaio_begin(struct qcow_metaio *io, struct block_device *bdev,
		       struct bio_set *bios);
/* Starts to write the first @len bytes of @page. */
void qcow_metaio_write(struct qcow_metaio *io, u64 off, struct page *page,
		       unsigned int len);
/* Waits for all writes since qcow_metaio_begin(); 0 or -errno. */
int qcow_metaio_wait(struct qcow_metaio *io);

/**
 * qcow_meta_read - read a range into vmalloc'ed, page-aligned memory
 * @off: a multiple of the device's logical block size
 * @buf: whole pages, also where @len is none
 * What lies behind the device's end reads as zeroes.
 */
int qcow_meta_read(struct block_device *bdev, struct bio_set *bios, u64 off,
		   void *buf, size_t len);

#endif
