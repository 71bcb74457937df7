/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading compressed clusters.
 *
 * A cluster is named by its L2 entry, in host order.  The caller has judged it
 * (qcow2_l2_check()) and stays in the image's epoch until the call, or the bio,
 * has ended: so long nobody uses the data's place for anything else.
 */
#ifndef QCOW_DECOMP_H
#define QCOW_DECOMP_H

#include <linux/types.h>

struct bio;
struct qcow_image;

/* Module-wide; 0 or -ENOMEM. */
int qcow_decomp_init(void);
void qcow_decomp_exit(void);

/* 0 or -ENOMEM; qcow_decomp_cache_exit() in either case, without I/O. */
int qcow_decomp_cache_init(struct qcow_image *img);
/* Before the image's bio_set goes. */
void qcow_decomp_cache_exit(struct qcow_image *img);
/* Forgets what is cached: metadata is read anew.  No I/O is in flight. */
void qcow_decomp_drop(struct qcow_image *img);

/**
 * qcow_decomp_hit - serve a read from memory, if it can be
 * @in: where in the cluster the bio begins; it ends in the same cluster
 *
 * Wherever map may run: does not sleep, takes no lock.
 *
 * Return: true: the bio is filled, and still the caller's.
 */
bool qcow_decomp_hit(struct qcow_image *img, u64 entry, u32 in,
		     struct bio *bio);

/**
 * qcow_decomp_bio - serve a read by decompressing the cluster
 * @in: as above
 *
 * Process context, but not map; does not wait for the decompression.  Takes
 * the bio, which counts in the image's epoch (qcow_io.img), and ends it,
 * perhaps at once; meanwhile qcow_io.host and .nr are in use.  Bad data is
 * BLK_STS_IOERR.
 */
void qcow_decomp_bio(struct qcow_image *img, u64 entry, u32 in,
		     struct bio *bio);

/**
 * qcow_decomp_read - copy bytes [@in, @in + @len) of a cluster to @buf
 *
 * Sleeps until it is done; may be called from a WQ_MEM_RECLAIM work item.
 *
 * Return: 0, -EIO for bad data, or -errno.
 */
int qcow_decomp_read(struct qcow_image *img, u64 entry, u32 in, void *buf,
		     u32 len);

#endif
