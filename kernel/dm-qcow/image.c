// SPDX-License-Identifier: GPL-2.0-only
/*
 * Images: opening, reading header and L1, who may write.
 *
 * Owns the list of images and each image's life.  The constructor reads and
 * judges the header, whose geometry never changes; a resume reads it again,
 * and the L1 table, when the daemon may have edited them.  Never writes.
 *
 * Locking: images_lock (mutex) guards the list, image.users and image.owner;
 * it nests outside image.lock, which is held while metadata is read.
 */
#define pr_fmt(fmt) "dm-qcow: " fmt

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "decomp.h"
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

/* A snapshot is what the table's top layer shows. */
static bool layer_is_snapshot(const struct qcow_layer *layer)
{
	return layer->t->spec.has_snapshot && layer == layer->t->layers;
}

/* Valid, but not to be written. */
static char *header_unwritable(const struct qcow2_header *h)
{
	if (h->incompatible_features & QCOW2_INCOMPAT_DIRTY)
		return "the image is marked dirty (run qemu-img check -r all)";
	if (h->incompatible_features & QCOW2_INCOMPAT_CORRUPT)
		return "the image is marked corrupt (run qemu-img check -r all)";
	if (h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE &&
	    h->nb_snapshots)
		return "an image with an external data file has internal snapshots";
	return NULL;
}

/* What the header asks of the table, and the table of the header. */
static char *header_fits(const struct qcow2_header *h,
			 const struct qcow_layer *layer)
{
	bool external = h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE;
	u32 block = max(bdev_logical_block_size(layer->dev->bdev),
			bdev_logical_block_size(layer->data));

	if (qcow2_cluster_size(h) < block)
		return "the image's clusters are smaller than the device's logical blocks";
	if (h->crypt_method == QCOW2_CRYPT_AES)
		return "the image is encrypted with AES-CBC, which is not supported";
	if (external && h->crypt_method)
		return "an encrypted image with an external data file is not supported";
	if (external && !layer->data_dev)
		return "the image needs the device of its external data file";
	if (h->crypt_method && !layer->data_dev)
		return "the image is encrypted and needs a device that decrypts it";
	if (layer->data_dev && !external && !h->crypt_method)
		return "the image has no external data file";
	return layer->writable ? header_unwritable(h) : NULL;
}

/* The header as if the snapshot were the active state. */
static void header_set_snapshot(struct qcow2_header *h,
				const struct qcow_table_spec *spec)
{
	h->l1_table_offset = spec->l1_offset;
	h->l1_size = spec->l1_entries;
	h->size = spec->disk_size;
}

/* Reads and judges the header; NULL, or what is wrong. */
static char *header_read(const struct qcow_layer *layer, struct bio_set *bios,
			 struct qcow2_header *h)
{
	struct block_device *bdev = layer->dev->bdev;
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
	if (!why && layer_is_snapshot(layer)) {
		header_set_snapshot(h, &layer->t->spec);
		why = qcow2_header_validate(h, bdev_nr_bytes(bdev));
	}
	return why ? (char *)why : header_fits(h, layer);
}

static void image_set_geometry(struct qcow_image *img)
{
	const struct qcow2_header *h = &img->h;

	img->cluster_bits = h->cluster_bits;
	img->cluster_size = 1U << img->cluster_bits;
	img->ext = !!(h->incompatible_features & QCOW2_INCOMPAT_EXTL2);
	img->sc_bits = img->cluster_bits - (img->ext ? 5 : 0);
	img->slice_bytes = min_t(u32, img->cluster_size, 4096);
	img->entry_bits = ilog2(img->slice_bytes) - 3 - img->ext;
	img->slice_span_bits = img->entry_bits + img->cluster_bits;
	img->l2_span_bits = qcow2_l2_span_bits(h);
	img->external = h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE;
	img->data_raw = img->external &&
		h->autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	img->alloc_mask = QCOW2_OFFSET_MASK |
		(img->external ? QCOW2_ENTRY_COPIED : 0);
}

static void image_free(struct qcow_image *img)
{
	if (img->commit_wq) {
		/* a commit's timer may queue */
		qcow_commit_exit(img);
		destroy_workqueue(img->commit_wq);
	}
	/* a load's end may be queued */
	if (img->wq)
		destroy_workqueue(img->wq);
	qcow_slice_cache_exit(img);
	qcow_decomp_cache_exit(img);
	kvfree(rcu_dereference_protected(img->l1, true));
	qcow_claims_exit(&img->claims);
	if (img->inflight.pcpu)
		qcow_inflight_exit(&img->inflight);
	bioset_exit(&img->bios);
	kfree(img);
}

static struct qcow_image *image_new(const struct qcow_layer *layer,
				    const struct qcow2_header *h)
{
	struct qcow_image *img = kzalloc(sizeof(*img), GFP_KERNEL);

	if (!img)
		return NULL;
	img->bdev = layer->dev->bdev;
	img->data = layer->data;
	img->h = *h;
	img->snapshot = layer_is_snapshot(layer);
	img->stale = true;
	image_set_geometry(img);
	INIT_LIST_HEAD(&img->users);
	mutex_init(&img->lock);
	qcow_claims_init(&img->claims);
	qcow_commit_init(img);
	img->wq = alloc_workqueue("dm-qcow-image", WQ_MEM_RECLAIM | WQ_UNBOUND,
				  0);
	img->commit_wq = alloc_workqueue("dm-qcow-commit", WQ_MEM_RECLAIM |
					 WQ_UNBOUND, 0);
	if (qcow_slice_cache_init(img) || qcow_decomp_cache_init(img) ||
	    !img->wq || !img->commit_wq ||
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

/*
 * One writer, or readers.  A device's own tables do not exclude each other,
 * but a table's own layers do.
 */
static int image_exclude(const struct qcow_image *img,
			 const struct qcow_layer *layer, char **error)
{
	struct qcow_layer *other;

	lockdep_assert_held(&images_lock);
	list_for_each_entry(other, &img->users, image_node) {
		if (other->t == layer->t) {
			*error = "the table names an image twice";
			return -EINVAL;
		}
		if (other->t->dev != layer->t->dev &&
		    (other->writable || layer->writable)) {
			*error = "another device uses this image";
			return -EBUSY;
		}
	}
	return 0;
}

/* Finds what the layer can share; @error, -errno: it must not use the image. */
static int image_find(const struct qcow_layer *layer,
		      const struct qcow2_header *h, struct qcow_image **found,
		      char **error)
{
	dev_t dev = layer->dev->bdev->bd_dev;
	bool snapshot = layer_is_snapshot(layer);
	struct qcow_image *img;
	int r;

	list_for_each_entry(img, &images, node) {
		if (img->bdev->bd_dev != dev)
			continue;
		r = image_exclude(img, layer, error);
		if (r)
			return r;
		if (img->snapshot != snapshot ||
		    (snapshot && img->h.l1_table_offset != h->l1_table_offset))
			continue;
		*error = header_changed(img, h);
		if (!*error && img->data->bd_dev != layer->data->bd_dev)
			*error = "the image is in use with another data device";
		if (*error)
			return -EINVAL;
		*found = img;
	}
	return 0;
}

struct qcow_image *qcow_image_get(struct qcow_layer *layer, char **error)
{
	struct qcow_image *img, *new;
	struct qcow2_header h;
	int r;

	/* no I/O under the lock: the device below may be suspended */
	*error = header_read(layer, &fs_bio_set, &h);
	if (*error)
		return ERR_PTR(-EINVAL);
	new = image_new(layer, &h);
	if (!new) {
		*error = "out of memory";
		return ERR_PTR(-ENOMEM);
	}
	mutex_lock(&images_lock);
	img = new;
	r = image_find(layer, &h, &img, error);
	if (!r) {
		layer->size = h.size;
		list_add_tail(&layer->image_node, &img->users);
		if (img == new) {
			list_add_tail(&img->node, &images);
			new = NULL;
		}
	}
	mutex_unlock(&images_lock);
	if (new)
		image_free(new);
	return r ? ERR_PTR(r) : img;
}

void qcow_image_put(struct qcow_layer *layer)
{
	struct qcow_image *img = layer->img;
	struct qcow_layer *other;
	bool last, owned = false;

	mutex_lock(&images_lock);
	list_del(&layer->image_node);
	last = list_empty(&img->users);
	list_for_each_entry(other, &img->users, image_node)
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

/* What is behind the disk (a snapshot's machine) is kept by a writer only. */
static struct qcow_l1 *l1_read(struct qcow_image *img, bool writable,
			       const char **why)
{
	u32 nr = writable ? img->h.l1_size : qcow2_l1_needed(&img->h);
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

static const char *header_reread(struct qcow_image *img,
				 const struct qcow_layer *layer)
{
	const u64 known = QCOW2_AUTOCLEAR_BITMAPS |
		QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	struct qcow2_header h;
	char *why = header_read(layer, &img->bios, &h);

	why = why ?: header_changed(img, &h);
	/* the daemon has cleared them, as the format asks of a writer */
	if (!why && layer->writable && h.autoclear_features & ~known)
		why = "the image has unknown autoclear features";
	if (!why)
		img->h = h;
	return why;
}

/* Reads everything anew; image.lock is held and no I/O is in flight. */
static const char *image_read(struct qcow_image *img,
			      const struct qcow_layer *layer)
{
	struct qcow_claims *c = &img->claims;
	const char *why = header_reread(img, layer);
	struct qcow_l1 *l1, *old;

	if (why)
		return why;
	l1 = l1_read(img, layer->writable, &why);
	if (!l1)
		return why;
	mutex_lock(&c->lock);
	if (layer->writable)
		why = claim_fixed(img, layer->t->dev);
	if (!why)
		why = l1_check(img, l1, layer->writable);
	mutex_unlock(&c->lock);
	if (why) {
		kvfree(l1);
		return why;
	}
	old = rcu_replace_pointer(img->l1, l1, true);
	qcow_slice_cache_drop(img);
	qcow_decomp_drop(img);
	if (old)
		kvfree_rcu(old, rcu);
	img->generation++;
	img->stale = false;
	img->corrupt = false;
	return NULL;
}

int qcow_image_prepare(struct qcow_layer *layer)
{
	struct qcow_target *t = layer->t;
	struct qcow_image *img = layer->img;
	const char *why = NULL;
	bool fresh;

	if (layer->writable && qcow_commit_prepare(img))
		return -ENOMEM;
	mutex_lock(&images_lock);
	/* a reader's claims are not a writer's */
	if (layer->writable && !img->owner)
		img->stale = true;
	WRITE_ONCE(img->owner, layer->writable ? t->dev : NULL);
	mutex_unlock(&images_lock);

	mutex_lock(&img->lock);
	fresh = img->stale;
	if (fresh && qcow_commit_needed(&img->commit))
		why = "metadata could not be written before: remove the device and create it again";
	else if (fresh)
		why = image_read(img, layer);
	layer->size = round_down(img->h.size, SECTOR_SIZE);
	if (!why && layer == t->layers &&
	    t->ti->len > img->h.size >> SECTOR_SHIFT)
		why = "the table is larger than the image";
	mutex_unlock(&img->lock);
	if (why) {
		pr_err("%pg: cannot use the image: %s\n", img->bdev, why);
		return -EINVAL;
	}
	if (fresh && layer->writable)
		qcow_device_reset_mode(t->dev);
	return 0;
}
