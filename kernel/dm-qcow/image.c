// SPDX-License-Identifier: GPL-2.0-only
/*
 * Images: opening, reading header and L1, who may write.
 *
 * Owns the list of images and each image's life.  The constructor reads and
 * judges the header, whose geometry never changes; a resume reads it again,
 * and the L1 table, when the daemon may have edited them.  Never writes.
 *
 * Locking: images_lock (mutex) guards the list, image.targets and image.owner;
 * it nests outside image.lock, which is held while metadata is read.
 */
#define pr_fmt(fmt) "dm-qcow: " fmt

#include <linux/dm-kcopyd.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "device.h"
#include "image.h"
#include "metaio.h"
#include "slice.h"
#include "target.h"

static DEFINE_MUTEX(images_lock);
static LIST_HEAD(images);

void qcow_image_for_each(void (*fn)(struct qcow_image *img, void *arg),
			 void *arg)
{
	struct qcow_image *img;

	mutex_lock(&images_lock);
	list_for_each_entry(img, &images, node)
		fn(img, arg);
	mutex_unlock(&images_lock);
}

bool qcow_image_for_each_try(void (*fn)(struct qcow_image *img, void *arg),
			     void *arg)
{
	struct qcow_image *img;

	if (!mutex_trylock(&images_lock))
		return false;
	list_for_each_entry(img, &images, node)
		fn(img, arg);
	mutex_unlock(&images_lock);
	return true;
}

void qcow_image_corrupt(struct qcow_image *img, u64 guest, const char *why)
{
	pr_err_ratelimited("%pg: bad metadata for guest offset %llu: %s\n",
			   img->bdev, guest, why);
	WRITE_ONCE(img->corrupt, true);
	if (img->owner) {
		qcow_device_set_mode(img->owner, DM_QCOW_MODE_READ_ONLY,
				     -EUCLEAN);
		qcow_device_event(img->owner, DM_QCOW_EV_CORRUPT);
	}
}

struct feature_name {
	u64 bit;
	const char *why;
	bool writable_only;
};

static const struct feature_name unsupported[] = {
	{ QCOW2_INCOMPAT_DIRTY, "the image is marked dirty (run qemu-img check -r all)", true },
	{ QCOW2_INCOMPAT_CORRUPT, "the image is marked corrupt (run qemu-img check -r all)", true },
	{ QCOW2_INCOMPAT_DATA_FILE, "external data files are not supported", false },
	{ QCOW2_INCOMPAT_COMPRESSION, "zstd compression is not supported", false },
	{ QCOW2_INCOMPAT_EXTL2, "extended L2 entries are not supported", false },
};

/* Valid, but not for this version. */
static char *header_unsupported(const struct qcow2_header *h, bool writable)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(unsupported); i++)
		if (h->incompatible_features & unsupported[i].bit &&
		    (writable || !unsupported[i].writable_only))
			return (char *)unsupported[i].why;
	if (h->crypt_method)
		return "encrypted images are not supported";
	if (h->backing_file_offset)
		return "backing files are not supported";
	if (writable && h->nb_snapshots)
		return "writing to an image with internal snapshots is not supported";
	if (writable && h->autoclear_features)
		return "writing to an image with autoclear features (bitmaps) is not supported";
	return NULL;
}

/* Reads and judges the header; NULL, or what is wrong. */
static char *header_read(struct block_device *bdev, struct bio_set *bios,
			 struct qcow2_header *h, bool writable)
{
	void *buf = vmalloc(PAGE_SIZE);
	const char *why;

	if (!buf)
		return "out of memory";
	if (qcow_meta_read(bdev, bios, 0, buf, PAGE_SIZE))
		why = "cannot read the image's header";
	else
		why = qcow2_header_decode(buf, h);
	vfree(buf);
	if (!why)
		why = qcow2_header_validate(h, bdev_nr_bytes(bdev));
	if (why)
		return (char *)why;
	if (qcow2_cluster_size(h) < bdev_logical_block_size(bdev))
		return "the image's clusters are smaller than the device's logical blocks";
	return header_unsupported(h, writable);
}

static void image_set_geometry(struct qcow_image *img)
{
	img->cluster_bits = img->h.cluster_bits;
	img->cluster_size = 1U << img->cluster_bits;
	img->slice_bytes = min_t(u32, img->cluster_size, 4096);
	img->entry_bits = ilog2(img->slice_bytes) - 3;
	img->slice_span_bits = img->entry_bits + img->cluster_bits;
	img->l2_span_bits = qcow2_l2_span_bits(&img->h);
}

static void image_free(struct qcow_image *img)
{
	if (img->wq) {
		/* a commit's timer may queue, and a load's end */
		qcow_commit_exit(img);
		destroy_workqueue(img->wq);
	}
	qcow_slice_cache_exit(img);
	kvfree(rcu_dereference_protected(img->l1, true));
	if (img->kcopyd)
		dm_kcopyd_client_destroy(img->kcopyd);
	qcow_claims_exit(&img->claims);
	if (img->inflight.pcpu)
		qcow_inflight_exit(&img->inflight);
	bioset_exit(&img->bios);
	if (img->held)
		fput(img->held);
	kfree(img);
}

static struct qcow_image *image_new(struct block_device *bdev,
				    const struct qcow2_header *h)
{
	struct qcow_image *img = kzalloc(sizeof(*img), GFP_KERNEL);

	if (!img)
		return NULL;
	img->bdev = bdev;
	img->h = *h;
	img->stale = true;
	image_set_geometry(img);
	INIT_LIST_HEAD(&img->targets);
	mutex_init(&img->lock);
	qcow_claims_init(&img->claims);
	qcow_commit_init(img);
	img->wq = alloc_workqueue("dm-qcow-image", WQ_MEM_RECLAIM | WQ_UNBOUND,
				  0);
	img->kcopyd = dm_kcopyd_client_create(NULL);
	if (IS_ERR(img->kcopyd))
		img->kcopyd = NULL;
	if (qcow_slice_cache_init(img) || !img->wq || !img->kcopyd ||
	    bioset_init(&img->bios, BIO_POOL_SIZE, 0, BIOSET_NEED_BVECS) ||
	    qcow_inflight_init(&img->inflight)) {
		image_free(img);
		return NULL;
	}
	return img;
}

/* Has something changed that must not? */
static char *header_changed(const struct qcow_image *img,
			    const struct qcow2_header *h)
{
	if (h->version != img->h.version ||
	    h->cluster_bits != img->h.cluster_bits ||
	    (h->incompatible_features ^ img->h.incompatible_features) &
	    ~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT))
		return "the image's geometry has changed since it was opened";
	return NULL;
}

static struct qcow_image *image_find(struct block_device *bdev)
{
	struct qcow_image *img;

	lockdep_assert_held(&images_lock);
	list_for_each_entry(img, &images, node)
		if (img->bdev->bd_dev == bdev->bd_dev)
			return img;
	return NULL;
}

/* One writer, or readers; a device's own tables do not exclude each other. */
static int image_join(struct qcow_image *img, const struct qcow2_header *h,
		      struct qcow_target *t, char **error)
{
	struct qcow_target *other;

	list_for_each_entry(other, &img->targets, image_node)
		if (other->dev != t->dev && (other->writable || t->writable)) {
			*error = "another device uses this image";
			return -EBUSY;
		}
	*error = header_changed(img, h);
	if (*error)
		return -EINVAL;
	t->size = h->size;
	list_add_tail(&t->image_node, &img->targets);
	return 0;
}

struct qcow_image *qcow_image_get(struct block_device *bdev,
				  struct qcow_target *t, char **error)
{
	struct qcow_image *img, *new;
	struct qcow2_header h;
	int r;

	/* no I/O under the lock: the device below may be suspended */
	*error = header_read(bdev, &fs_bio_set, &h, t->writable);
	if (*error)
		return ERR_PTR(-EINVAL);
	new = image_new(bdev, &h);
	if (!new) {
		*error = "out of memory";
		return ERR_PTR(-ENOMEM);
	}
	mutex_lock(&images_lock);
	img = image_find(bdev) ?: new;
	r = image_join(img, &h, t, error);
	if (!r && img == new) {
		list_add_tail(&img->node, &images);
		new = NULL;
	}
	mutex_unlock(&images_lock);
	if (new)
		image_free(new);
	return r ? ERR_PTR(r) : img;
}

void qcow_image_put(struct qcow_image *img, struct qcow_target *t)
{
	struct qcow_target *other;
	bool last, owned = false;

	mutex_lock(&images_lock);
	list_del(&t->image_node);
	last = list_empty(&img->targets);
	list_for_each_entry(other, &img->targets, image_node)
		owned |= other->writable;
	if (last)
		list_del(&img->node);
	else if (!owned)
		WRITE_ONCE(img->owner, NULL);
	mutex_unlock(&images_lock);
	if (last)
		image_free(img);
}

/* Judges the L1 table; a writable image claims its tables. */
static const char *l1_check(struct qcow_image *img, struct qcow_l1 *l1,
			    bool writable)
{
	struct qcow_claims *c = &img->claims;
	u64 bytes = qcow_image_bytes(img);
	const char *why = NULL;
	u32 i;
	int r;

	for (i = 0; i < l1->nr && !why; i++) {
		u64 e = l1->entry[i];

		why = qcow2_l1_check(e, img->cluster_bits, bytes);
		if (why || !writable || !(e & QCOW2_OFFSET_MASK))
			continue;
		r = qcow_claim_range(c, QCOW_CLAIM_KERNEL,
				     (e & QCOW2_OFFSET_MASK) >>
				     img->cluster_bits, 1);
		if (r)
			why = r == -EUCLEAN ?
				"an L2 table is used twice or is other metadata" :
				"out of memory";
	}
	return why;
}

static const char *claim_fixed(struct qcow_image *img, struct qcow_device *dev)
{
	struct qcow_claims *c = &img->claims;
	u64 l1_bytes = (u64)img->h.l1_size * 8;
	int r;

	lockdep_assert_held(&c->lock);
	qcow_claims_reset(c, QCOW_CLAIM_KERNEL);
	qcow_claims_reset(c, QCOW_CLAIM_DATA);
	qcow_claims_reset(c, QCOW_CLAIM_SEEN);
	r = qcow_claim_range(c, QCOW_CLAIM_KERNEL, 0, 1);
	if (!r)
		r = qcow_claim_range(c, QCOW_CLAIM_KERNEL,
				     img->h.l1_table_offset >>
				     img->cluster_bits,
				     DIV_ROUND_UP_ULL(l1_bytes,
						      img->cluster_size));
	if (!r)
		r = qcow_grants_claim(dev, c);
	if (!r)
		return NULL;
	return r == -EUCLEAN ? "the L1 table overlaps other metadata or a grant" :
		"out of memory";
}

static struct qcow_l1 *l1_read(struct qcow_image *img, const char **why)
{
	u32 nr = img->h.l1_size;
	struct qcow_l1 *l1 = kvmalloc(struct_size(l1, entry, nr), GFP_KERNEL);
	size_t bytes = (size_t)nr * 8;
	__be64 *buf = vmalloc(max_t(size_t, round_up(bytes, PAGE_SIZE),
				    PAGE_SIZE));
	u32 i;

	*why = "out of memory";
	if (l1 && buf) {
		*why = NULL;
		if (qcow_meta_read(img->bdev, &img->bios,
				   img->h.l1_table_offset, buf, bytes))
			*why = "cannot read the L1 table";
	}
	if (*why) {
		vfree(buf);
		kvfree(l1);
		return NULL;
	}
	l1->nr = nr;
	for (i = 0; i < nr; i++)
		l1->entry[i] = be64_to_cpu(buf[i]);
	vfree(buf);
	return l1;
}

static const char *header_reread(struct qcow_image *img, bool writable)
{
	struct qcow2_header h;
	char *why = header_read(img->bdev, &img->bios, &h, writable);

	why = why ?: header_changed(img, &h);
	if (!why)
		img->h = h;
	return why;
}

/* Reads everything anew; image.lock is held and no I/O is in flight. */
static const char *image_read(struct qcow_image *img, struct qcow_target *t)
{
	struct qcow_claims *c = &img->claims;
	const char *why = header_reread(img, t->writable);
	struct qcow_l1 *l1, *old;

	if (why)
		return why;
	l1 = l1_read(img, &why);
	if (!l1)
		return why;
	mutex_lock(&c->lock);
	if (t->writable)
		why = claim_fixed(img, t->dev);
	if (!why)
		why = l1_check(img, l1, t->writable);
	mutex_unlock(&c->lock);
	if (why) {
		kvfree(l1);
		return why;
	}
	old = rcu_replace_pointer(img->l1, l1, true);
	qcow_slice_cache_drop(img);
	if (old)
		kvfree_rcu(old, rcu);
	img->generation++;
	img->stale = false;
	img->corrupt = false;
	return NULL;
}

int qcow_image_prepare(struct qcow_image *img, struct qcow_target *t)
{
	const char *why = NULL;
	bool fresh;

	if (t->writable && qcow_commit_prepare(img))
		return -ENOMEM;
	mutex_lock(&images_lock);
	/* a reader's claims are not a writer's */
	if (t->writable && !img->owner)
		img->stale = true;
	WRITE_ONCE(img->owner, t->writable ? t->dev : NULL);
	mutex_unlock(&images_lock);

	mutex_lock(&img->lock);
	fresh = img->stale;
	if (fresh && qcow_commit_needed(&img->commit))
		why = "metadata could not be written before: remove the device and create it again";
	else if (fresh)
		why = image_read(img, t);
	if (!why && t->ti->len > img->h.size >> SECTOR_SHIFT)
		why = "the table is larger than the image";
	mutex_unlock(&img->lock);
	if (why) {
		pr_err("%pg: cannot use the image: %s\n", img->bdev, why);
		return -EINVAL;
	}
	if (fresh && t->writable)
		qcow_device_reset_mode(t->dev);
	return 0;
}
