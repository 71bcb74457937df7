/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An opened qcow2 image: geometry, L1 table, slice cache, claims, commit
 * state.  Shared by all devices whose tables name the same block device.
 */
#ifndef QCOW_IMAGE_H
#define QCOW_IMAGE_H

#include <linux/blkdev.h>
#include <linux/mempool.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <linux/qcow2_disk.h>

#include "claim.h"
#include "commit.h"
#include "inflight.h"

struct qcow_decomp;
struct qcow_device;
struct qcow_layer;

/* An L1 table that readers find by RCU. */
struct qcow_l1 {
	struct rcu_head rcu;
	u32 nr;
	u64 entry[];		/* host order; written by the worker only */
};

/**
 * struct qcow_image - one qcow2 image on one block device
 * @node: in the list of images; the list's mutex guards it and @users
 * @users: layers of tables that use this image (qcow_layer.image_node)
 * @bdev: where the image is; every user holds it open
 * @data: where its clusters of data are: @bdev, the device of its external
 *        data file, or a device that decrypts @bdev
 * @h: the header as the constructor read it; geometry never changes
 * @snapshot: L1 table and size are those of an internal snapshot
 * @ext: 1: extended L2 entries, 16 bytes; 0: 8 bytes
 * @external: data is in an external file, at guest offsets; @data_raw: which
 *            by itself is what the guest sees
 * @entry_bits: log2 of the entries in a slice
 * @sc_bits: log2 of the bytes of a subcluster (a cluster if there are none)
 * @slice_bytes: of a slice on disk: min(4096, cluster)
 * @alloc_mask: bits that say that an entry has a cluster
 * @l1: read under RCU
 * @generation: how often header and L1 have been read
 * @stale: the daemon may have edited metadata: read it anew at the next resume
 * @corrupt: bad metadata was found
 * @owner: the device that may write, NULL if none; set before its first resume
 * @slices: slice by number (guest offset >> slice span), found under RCU
 * @loading: slices on their way in, by the same number; under @load_lock
 * @nr_slices: slices in @slices
 * @reclaim_lock: held while slices are taken out of @slices
 * @lru: all of them, @lru_lock
 * @bios: for metadata
 * @slice_pool, @page_pool: a reserve of slices
 * @decomp: decompressed clusters
 * @wq: loads
 * @commit_wq: commits; they may wait for I/O that waits for a load, so each of
 *             the two has a rescuer of its own
 */
struct qcow_image {
	/* read by every bio */
	struct block_device *bdev;
	struct block_device *data;
	u8 cluster_bits;
	u8 entry_bits;
	u8 sc_bits;
	u8 slice_span_bits;	/* guest bytes that a slice maps, log2 */
	u8 l2_span_bits;	/* guest bytes that an L2 table maps, log2 */
	u8 ext;
	bool external;
	bool data_raw;
	u32 cluster_size;
	u32 slice_bytes;
	u64 alloc_mask;
	struct qcow_l1 __rcu *l1;
	struct xarray slices;
	struct qcow_inflight inflight;
	struct qcow_device *owner;

	struct list_head node;
	struct list_head users;
	struct qcow2_header h;
	bool snapshot;
	u64 generation;
	bool stale;
	bool corrupt;
	struct mutex lock;	/* @generation, @stale, reading metadata */

	struct mutex reclaim_lock;
	struct xarray loading;
	struct mutex load_lock;
	struct list_head lru;
	spinlock_t lru_lock;
	atomic_long_t nr_slices;

	struct qcow_claims claims;
	struct qcow_commit commit;
	struct bio_set bios;
	mempool_t slice_pool;
	mempool_t page_pool;
	struct qcow_decomp *decomp;
	struct workqueue_struct *wq;
	struct workqueue_struct *commit_wq;
};

/* Bytes of the image's device, whole clusters (the last may be cut off). */
static inline u64 qcow_image_bytes(const struct qcow_image *img)
{
	return round_up(bdev_nr_bytes(img->bdev), (u64)img->cluster_size);
}

/* Bytes that hold data, whole clusters. */
static inline u64 qcow_image_data_bytes(const struct qcow_image *img)
{
	return round_up(bdev_nr_bytes(img->data), (u64)img->cluster_size);
}

/* Does an entry (settled) have a cluster? */
static inline bool qcow_has_cluster(const struct qcow_image *img, u64 e)
{
	return e & img->alloc_mask;
}

/**
 * qcow_image_get - find or open the image of a layer
 * @layer: its devices are open; joins the image's users; its size is set
 * @error: set to a sentence on failure
 * Return: the image or an ERR_PTR; EBUSY: another device writes it, or reads
 * it and the layer wants to write.
 */
struct qcow_image *qcow_image_get(struct qcow_layer *layer, char **error);
void qcow_image_put(struct qcow_layer *layer);

/**
 * qcow_image_prepare - before a resume: read header and L1 if that is due
 * @layer: of the table that is to be resumed; the table's device becomes the
 *         owner if the layer is writable
 */
int qcow_image_prepare(struct qcow_layer *layer);

/* Says that bad metadata was found at a guest offset; rings the owner. */
void qcow_image_corrupt(struct qcow_image *img, u64 guest, const char *why);

/* Calls fn for every image, under the list's mutex. */
void qcow_image_for_each(void (*fn)(struct qcow_image *img, void *arg),
			 void *arg);
bool qcow_image_for_each_try(void (*fn)(struct qcow_image *img, void *arg),
			     void *arg);

#endif
