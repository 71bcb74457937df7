// SPDX-License-Identifier: GPL-2.0-only
/*
 * The target "qcow": constructor, suspend and resume, status.
 *
 * A table line names the layers; one qcow2 layer is what this version serves.
 * The constructor opens, reads the header and says no; it writes nothing, since
 * an older table of the same device may still be live.  What may write begins
 * in preresume and ends in postsuspend.
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
#include "map.h"
#include "target.h"

static int target_open(struct qcow_target *t)
{
	struct dm_target *ti = t->ti;
	int r;

	r = dm_get_device(ti, t->spec.device, dm_table_get_mode(ti->table),
			  &t->data);
	if (r) {
		ti->error = "cannot open the image's device";
		return r;
	}
	t->dev = qcow_device_join(t);
	if (IS_ERR(t->dev)) {
		ti->error = "out of memory";
		r = PTR_ERR(t->dev);
		goto put_device;
	}
	t->img = qcow_image_get(t->data->bdev, t, &ti->error);
	if (IS_ERR(t->img)) {
		r = PTR_ERR(t->img);
		goto leave;
	}
	r = -EINVAL;
	if (ti->begin || ti->len > t->size >> SECTOR_SHIFT)
		ti->error = "the table is larger than the image, or does not start at 0";
	else if (!qcow_device_add(t->dev, t))
		ti->error = "a reload must name the image that the device has";
	else
		return 0;
	qcow_image_put(t->img, t);
leave:
	qcow_device_leave(t->dev, t);
	qcow_device_put(t->dev);
put_device:
	dm_put_device(ti, t->data);
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
	if (!r)
		r = target_open(t);
	memalloc_noio_restore(noio);
	if (r) {
		kfree(t);
		return r;
	}
	ti->private = t;
	ti->num_flush_bios = 1;
	ti->flush_supported = true;
	ti->per_io_data_size = sizeof(struct qcow_io);
	return 0;
}

static void qcow_dtr(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;
	bool last = qcow_device_leave(t->dev, t);

	qcow_image_put(t->img, t);
	dm_put_device(ti, t->data);
	if (last)
		qcow_device_gone(t->dev);
	qcow_device_put(t->dev);
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
	r = qcow_image_prepare(t->img, t);
	memalloc_noio_restore(noio);
	if (r)
		qcow_device_set_live(dev, NULL);
	return r;
}

static void qcow_resume(struct dm_target *ti)
{
	struct qcow_target *t = ti->private;

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
		qcow_table_emit(&t->spec, t->data->name, result, maxlen);
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

	return fn(ti, t->data, 0, bdev_nr_sectors(t->data->bdev), data);
}

static void qcow_io_hints(struct dm_target *ti, struct queue_limits *limits)
{
	struct qcow_target *t = ti->private;

	limits->io_opt = max(limits->io_opt, t->img->cluster_size);
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
