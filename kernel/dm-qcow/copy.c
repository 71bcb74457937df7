// SPDX-License-Identifier: GPL-2.0-only
/*
 * The copier.
 *
 * Owns the buffers, of which a device always has a few, so that copying goes
 * on when there is no memory.  One request at a time for each caller; many
 * callers (dev->copy_wq) make it parallel.
 *
 * Locking: none held while it sleeps; RCU for look-ups.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "copy.h"
#include "decomp.h"
#include "device.h"
#include "io.h"
#include "lookup.h"
#include "slice.h"
#include "target.h"

#define COPY_RESERVE	2	/* buffers */
#define COPY_THREADS	16

int qcow_copy_init(struct qcow_device *dev)
{
	dev->copy_wq = alloc_workqueue("dm-qcow-copy", WQ_MEM_RECLAIM |
				       WQ_UNBOUND, COPY_THREADS);
	if (!dev->copy_wq)
		return -ENOMEM;
	return mempool_init_kmalloc_pool(&dev->copy_buffers, COPY_RESERVE,
					 QCOW_COPY_BYTES);
}

void qcow_copy_exit(struct qcow_device *dev)
{
	if (dev->copy_wq)
		destroy_workqueue(dev->copy_wq);
	mempool_exit(&dev->copy_buffers);
}

void *qcow_copy_buffer(struct qcow_device *dev)
{
	return mempool_alloc(&dev->copy_buffers, GFP_NOIO);
}

void qcow_copy_buffer_put(struct qcow_device *dev, void *buf)
{
	mempool_free(buf, &dev->copy_buffers);
}

int qcow_copy_io(struct block_device *bdev, blk_opf_t opf, u64 off, void *buf,
		 u32 len)
{
	u64 bytes = bdev_nr_bytes(bdev);
	struct bio_vec bv;
	struct bio bio;
	int r;

	if (off + len > bytes) {
		u32 have = off < bytes ? bytes - off : 0;

		if (!op_is_write(opf))
			memset((char *)buf + have, 0, len - have);
		len = have;
	}
	if (!len)
		return 0;
	bio_init(&bio, bdev, &bv, 1, opf);
	bio.bi_iter.bi_sector = off >> SECTOR_SHIFT;
	__bio_add_page(&bio, virt_to_page(buf), len, offset_in_page(buf));
	r = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return r;
}

/* One extent of the range; @x says which. */
static int copy_extent(struct qcow_target *t, enum qcow_found found,
		       const struct qcow_extent *x, u64 guest, void *buf)
{
	struct qcow_layer *layer = &t->layers[x->layer];
	struct qcow_image *img = layer->img;

	switch (found) {
	case QCOW_FOUND_HOST:
		return qcow_copy_io(layer->data, REQ_OP_READ, x->host, buf,
				    x->len);
	case QCOW_FOUND_COMPRESSED:
		return qcow_decomp_read(img, x->host,
					guest & (img->cluster_size - 1), buf,
					x->len);
	default:
		memset(buf, 0, x->len);
		return 0;
	}
}

int qcow_copy_read(struct qcow_target *t, u64 guest, void *buf, u32 len,
		   bool *zero)
{
	u64 disk = round_down(t->layers[0].size, SECTOR_SIZE);
	unsigned int from = 0;
	int r = 0;

	while (len && !r) {
		struct qcow_extent x = { .len = len };
		enum qcow_found found = QCOW_FOUND_ZERO;

		if (guest < disk) {
			x.len = min_t(u64, len, disk - guest);
			rcu_read_lock();
			found = qcow_lookup_layers(t, guest, from, &x);
			rcu_read_unlock();
		}
		if (found == QCOW_FOUND_MISS) {
			r = qcow_slice_load_wait(t->layers[x.layer].img,
						 guest);
			from = x.from;
			continue;
		}
		if (found != QCOW_FOUND_ZERO)
			*zero = false;
		r = copy_extent(t, found, &x, guest, buf);
		guest += x.len;
		buf = (char *)buf + x.len;
		len -= x.len;
		from = 0;
	}
	return r;
}

struct read_job {
	struct work_struct work;
	struct qcow_target *t;
	struct bio *bio;
};

/* Fills the bio's next @len bytes. */
static void bio_fill(struct bio *bio, const char *buf, u32 len)
{
	while (len) {
		struct bio_vec bv = bio_iter_iovec(bio, bio->bi_iter);
		u32 n = min(len, bv.bv_len);

		bv.bv_len = n;
		memcpy_to_bvec(&bv, buf);
		bio_advance_iter_single(bio, &bio->bi_iter, n);
		buf += n;
		len -= n;
	}
}

static void read_work(struct work_struct *work)
{
	struct read_job *j = container_of(work, struct read_job, work);
	unsigned int noio = memalloc_noio_save();
	struct qcow_target *t = j->t;
	void *buf = qcow_copy_buffer(t->dev);
	struct bio *bio = j->bio;
	bool zero = true;
	int r = 0;

	kfree(j);
	while (bio->bi_iter.bi_size && !r) {
		u32 len = min(bio->bi_iter.bi_size, QCOW_COPY_BYTES);

		r = qcow_copy_read(t, qcow_bio_guest(bio), buf, len, &zero);
		if (!r)
			bio_fill(bio, buf, len);
	}
	qcow_copy_buffer_put(t->dev, buf);
	memalloc_noio_restore(noio);
	qcow_bio_end(bio, errno_to_blk_status(r));
}

int qcow_copy_bio(struct qcow_target *t, struct bio *bio)
{
	struct read_job *j = kmalloc(sizeof(*j), GFP_NOWAIT | __GFP_NOWARN);

	if (!j)
		return -ENOMEM;
	INIT_WORK(&j->work, read_work);
	j->t = t;
	j->bio = bio;
	queue_work(t->dev->copy_wq, &j->work);
	return 0;
}
