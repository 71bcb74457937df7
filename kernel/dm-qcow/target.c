// SPDX-License-Identifier: GPL-2.0-only
/*
 * The target "qcow": constructor, suspend and resume, status.
 *
 * A table line names the layers, the top one first.  The constructor opens,
 * reads the headers and says no; it writes nothing, since an older table of
 * the same device may still be live.  What may write begins in preresume and
 * ends in postsuspend.
 *
 * Locking: device-mapper calls constructor, destructor, suspend and resume one
 * at a time for a device.
 */
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "compat.h"
#include "device.h"
#include "io.h"
#include "lookup.h"
#include "map.h"
#include "target.h"
#include "zero.h"

static int layer_open(struct qcow_target *t, unsigned int i)
{
	const struct qcow_layer_spec *spec = &t->spec.layers[i];
	struct qcow_layer *layer = &t->layers[i];
	struct dm_target *ti = t->ti;
	int r;

	layer->t = t;
	layer->writable = t->writable && !i;
	r = qcow_get_device(ti, spec->device, layer->writable, &layer->dev);
	if (!r && spec->data)
		r = qcow_get_device(ti, spec->data, layer->writable,
				    &layer->data_dev);
	if (r) {
		ti->error = "cannot open a layer's device";
		return r;
	}
	layer->data = (layer->data_dev ?: layer->dev)->bdev;
	layer->size = bdev_nr_bytes(layer->data);
	if (spec->raw)
		return 0;
	layer->img = qcow_image_get(layer, &ti->error);
	if (!IS_ERR(layer->img))
		return 0;
	r = PTR_ERR(layer->img);
	layer->img = NULL;
	return r;
}

static void layers_close(struct qcow_target *t)
{
	unsigned int i;

	for (i = 0; i < t->nr_layers; i++) {
		struct qcow_layer *layer = &t->layers[i];

		if (layer->img)
			qcow_image_put(layer);
		if (layer->data_dev)
			dm_put_device(t->ti, layer->data_dev);
		if (layer->dev)
			dm_put_device(t->ti, layer->dev);
	}
}

/*
 * The device's blocks are the largest of all: no layer may change or end
 * within one.
 */
static bool layers_fit(const struct qcow_target *t)
{
	u64 units = 0;
	u32 block = 0;
	unsigned int i;

	for (i = 0; i < t->nr_layers; i++) {
		const struct qcow_layer *layer = &t->layers[i];

		block = max(block, bdev_logical_block_size(layer->data));
		if (layer->img)
			units |= 1U << layer->img->sc_bits;
		if (layer->size < t->layers[0].size)
			units |= layer->size;
	}
	return !(units & (block - 1));
}

static int layers_open(struct qcow_target *t)
{
	unsigned int i;
	int r = 0;

	for (i = 0; i < t->nr_layers && !r; i++)
		r = layer_open(t, i);
	if (r)
		return r;
	if (!layers_fit(t)) {
		t->ti->error = "a layer's clusters or subclusters are smaller than a device's blocks, or its size is no multiple of them";
		return -EINVAL;
	}
	t->img = t->layers[0].img;
	if (t->ti->begin || t->ti->len > t->layers[0].size >> SECTOR_SHIFT) {
		t->ti->error = "the table is larger than the image, or does not start at 0";
		return -EINVAL;
	}
	r = qcow_skip_init(t);
	if (r)
		t->ti->error = "out of memory";
	return r;
}

static int target_open(struct qcow_target *t)
{
	struct dm_target *ti = t->ti;
	int r;

	t->nr_layers = t->spec.nr_layers;
	t->layers = kcalloc(t->nr_layers, sizeof(*t->layers), GFP_KERNEL);
	t->dev = t->layers ? qcow_device_join(t) : ERR_PTR(-ENOMEM);
	if (IS_ERR(t->dev)) {
		ti->error = "out of memory";
		kfree(t->layers);
		return PTR_ERR(t->dev);
	}
	r = layers_open(t);
	if (!r && !qcow_device_add(t->dev, t)) {
		ti->error = "a reload must name the image that the device has";
		r = -EINVAL;
	}
	if (!r)
		return 0;
	layers_close(t);
	kvfree(t->skip);
	kfree(t->layers);
	qcow_device_leave(t->dev, t);
	qcow_device_put(t->dev);
	return r;
}

static int qcow_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct qcow_target *t = kzalloc(sizeof(*t), GFP_KERNEL);
	unsigned int noio;
	int r;

	if (!t) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	noio = memalloc_noio_save();
	t->ti = ti;
	INIT_LIST_HEAD(&t->dev_node);
	t->writable = qcow_table_writable(ti->table);
	r = qcow_table_parse(ti, argc, argv, &t->spec);
	if (!r && t->writable && t->spec.has_snapshot) {
		ti->error = "a snapshot can only be loaded read-only";
		r = -EINVAL;
	}
	if (!r)
		r = target_open(t);
	kfree(t->spec.layers);
	t->spec.layers = NULL;
	memalloc_noio_restore(noio);
	if (r) {
		kfree(t);
		return r;
	}
	ti->private = t;
	ti->num_flush_bios = 1;
	ti->flush_supported = true;
	ti->num_discard_bios = t->writable;
	ti->discards_supported = t->writable;
	ti->num_write_zeroes_bios = t->writable;
	ti->per_io_data_size = sizeof(struct qcow_io);
	return 0;
}

static void qcow_dtr(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;
	bool last = qcow_device_leave(t->dev, t);

	layers_close(t);
	if (last)
		qcow_device_gone(t->dev);
	qcow_device_put(t->dev);
	kvfree(t->skip);
	kfree(t->layers);
	kfree(t);
}

static void qcow_presuspend(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;

	qcow_device_presuspend(t->dev, dm_noflush_suspending(ti));
}

static void qcow_presuspend_undo(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;

	clear_bit(QCOW_DEV_SUSPENDING, &t->dev->flags);
}

static void qcow_postsuspend(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;

	/* what is in flight may become ours, but not the other way */
	qcow_inflight_drain(&t->img->inflight);
	qcow_device_drain(t->dev);
	if (t->img->owner == t->dev)
		qcow_commit_quiesce(t->img);
	clear_bit(QCOW_DEV_ACTIVE, &t->dev->flags);
}

/* Reads what is due of every layer's metadata. */
static int layers_prepare(struct qcow_target *t)
{
	unsigned int i;
	int r = 0;

	for (i = t->nr_layers; i-- && !r;) {
		struct qcow_layer *layer = &t->layers[i];

		if (layer->img)
			r = qcow_image_prepare(layer);
		else
			layer->size = bdev_nr_bytes(layer->data);
	}
	qcow_skip_forget(t);
	return r;
}

static int qcow_preresume(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;
	struct qcow_device *dev = t->dev;
	unsigned int noio;
	int r;

	WRITE_ONCE(dev->commit_interval,
		   msecs_to_jiffies(t->spec.commit_interval));
	WRITE_ONCE(dev->no_space_timeout,
		   (unsigned long)t->spec.no_space_timeout * HZ);
	/* from here on nobody is handed the metadata */
	qcow_device_set_live(dev, t);
	/* reclaim must not wait for this device, which is suspended */
	noio = memalloc_noio_save();
	r = layers_prepare(t);
	memalloc_noio_restore(noio);
	if (r)
		qcow_device_set_live(dev, NULL);
	return r;
}

static void qcow_resume(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;

	/* device-mapper has switched it off if a device below has none */
	if (t->writable)
		qcow_set_write_zeroes(dm_table_get_md(ti->table),
				      QCOW_ZERO_MAX_SECTORS);
	clear_bit(QCOW_DEV_SUSPENDING, &t->dev->flags);
}

static const char *const mode_names[] = {
	[DM_QCOW_MODE_WRITE] = "rw",
	[DM_QCOW_MODE_OUT_OF_SPACE] = "out_of_space",
	[DM_QCOW_MODE_READ_ONLY] = "ro",
	[DM_QCOW_MODE_FAIL] = "fail",
};

static void status_info(struct qcow_target *t, char *result,
			unsigned int maxlen)
{
	struct qcow_device *dev = t->dev;
	enum dm_qcow_mode mode = READ_ONCE(dev->mode);
	unsigned int sz = 0;

	if (!t->writable && mode < DM_QCOW_MODE_READ_ONLY)
		mode = DM_QCOW_MODE_READ_ONLY;
	DMEMIT("%s %s %u %lld %u %d %ld %u %llu ", mode_names[mode],
	       READ_ONCE(dev->portid) ? "live" : "none", t->img->cluster_size,
	       (long long)atomic64_read(&dev->grants.left), dev->nr_freed,
	       atomic_read(&t->img->commit.nr_dirty),
	       atomic_long_read(&t->img->nr_slices), dev->nr_parked,
	       t->img->generation);
	if (dev->error)
		DMEMIT("%d", dev->error);
	else
		DMEMIT("-");
}

/* The arguments as qcow_table_parse() takes them. */
static void status_table(const struct qcow_target *t, char *result,
			 unsigned int maxlen)
{
	const struct qcow_table_spec *spec = &t->spec;
	unsigned int n, i, sz = 0;

	DMEMIT("%u", t->nr_layers);
	for (i = 0; i < t->nr_layers; i++) {
		const struct qcow_layer *layer = &t->layers[i];

		if (!layer->img)
			DMEMIT(" raw %s", layer->dev->name);
		else
			DMEMIT(" qcow2 %s %s", layer->dev->name,
			       layer->data_dev ? layer->data_dev->name : "-");
	}
	n = spec->has_timeout + spec->has_interval + spec->has_snapshot;
	if (n)
		DMEMIT(" %u", 2 * n);
	if (spec->has_timeout)
		DMEMIT(" no_space_timeout %u", spec->no_space_timeout);
	if (spec->has_interval)
		DMEMIT(" commit_interval %u", spec->commit_interval);
	if (spec->has_snapshot)
		DMEMIT(" snapshot %llu,%u,%llu", spec->l1_offset,
		       spec->l1_entries, spec->disk_size);
}

static void qcow_status(struct dm_target *ti, status_type_t type,
			unsigned int status_flags, char *result,
			unsigned int maxlen)
{
	struct qcow_target *t = ti->private;

	switch (type) {
	case STATUSTYPE_INFO:
		status_info(t, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		status_table(t, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		*result = '\0';
		break;
	}
}

static int qcow_iterate_devices(struct dm_target *ti,
				iterate_devices_callout_fn fn, void *data)
{
	struct qcow_target *t = ti->private;
	unsigned int i;
	int r = 0;

	/* each with its own length: a layer may be shorter than the disk */
	for (i = 0; i < t->nr_layers && !r; i++) {
		struct qcow_layer *layer = &t->layers[i];

		r = fn(ti, layer->dev, 0, bdev_nr_sectors(layer->dev->bdev),
		       data);
		if (!r && layer->data_dev)
			r = fn(ti, layer->data_dev, 0,
			       bdev_nr_sectors(layer->data), data);
	}
	return r;
}

static void qcow_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct qcow_target *t = ti->private;

	limits->io_opt = max(limits->io_opt, t->img->cluster_size);
	if (!t->writable)
		return;
	limits->discard_granularity = 1U << t->img->sc_bits;
	limits->discard_alignment = 0;
	qcow_set_discard(limits, QCOW_ZERO_MAX_SECTORS);
	limits->max_write_zeroes_sectors = QCOW_ZERO_MAX_SECTORS;
}

struct target_type qcow_target_type = {
	.name = DM_QCOW_TARGET_NAME,
	.version = {1, 0, 0},
	.features = DM_TARGET_NOWAIT | DM_TARGET_SINGLETON,
	.module = THIS_MODULE,
	.ctr = qcow_ctr,
	.dtr = qcow_dtr,
	.map = qcow_map,
	.end_io = qcow_end_io,
	.presuspend = qcow_presuspend,
	.presuspend_undo = qcow_presuspend_undo,
	.postsuspend = qcow_postsuspend,
	.preresume = qcow_preresume,
	.resume = qcow_resume,
	.status = qcow_status,
	.iterate_devices = qcow_iterate_devices,
	.io_hints = qcow_io_hints,
};
