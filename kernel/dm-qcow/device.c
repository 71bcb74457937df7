// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mapped devices.
 *
 * Owns the list of devices, their modes, events and freed runs.  What it does
 * with bios that wait is in parking.c.
 *
 * Locking: devices_lock (mutex) guards the list; device.lock (mutex) nests
 * inside it; bio_lock and freed_lock are irq-safe leaves.
 */
#define pr_fmt(fmt) "dm-qcow: " fmt

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/file.h>
#include <linux/slab.h>

#include "copy.h"
#include "cow.h"
#include "device.h"
#include "netlink.h"
#include "parking.h"
#include "target.h"
#include "trace.h"
#include "worker.h"

#define FREED_MAX	65536

static DEFINE_MUTEX(devices_lock);
static LIST_HEAD(devices);

static void event_work(struct work_struct *work)
{
	struct qcow_device *dev = container_of(work, struct qcow_device,
					       event_work);
	u32 events = atomic_xchg(&dev->events, 0);
	struct qcow_target *t;

	if (!events)
		return;
	qcow_netlink_event(dev->nr, events);
	if (!(events & (DM_QCOW_EV_MODE | DM_QCOW_EV_CORRUPT)))
		return;
	mutex_lock(&dev->lock);
	list_for_each_entry(t, &dev->targets, dev_node)
		dm_table_event(t->ti->table);
	mutex_unlock(&dev->lock);
}

void qcow_device_event(struct qcow_device *dev, u32 events)
{
	atomic_or(events, &dev->pending);
	atomic_or(events, &dev->events);
	schedule_work(&dev->event_work);
}

static void device_free(struct qcow_device *dev)
{
	struct qcow_freed *f, *next;
	struct file *file;
	unsigned long i;

	if (dev->wq)
		destroy_workqueue(dev->wq);
	qcow_copy_exit(dev);
	mempool_exit(&dev->fills);
	xa_for_each(&dev->files, i, file)
		fput(file);
	xa_destroy(&dev->files);
	list_for_each_entry_safe(f, next, &dev->freed, node)
		kfree(f);
	qcow_grants_exit(&dev->grants);
	free_percpu(dev->stats);
	mutex_destroy(&dev->lock);
	kfree(dev);
}

static struct qcow_device *device_new(struct mapped_device *md)
{
	dev_t nr = disk_devt(dm_disk(md));
	struct qcow_device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);

	if (!dev)
		return NULL;
	kref_init(&dev->ref);
	dev->md = md;
	dev->nr = DM_QCOW_DEV(MAJOR(nr), MINOR(nr));
	mutex_init(&dev->lock);
	INIT_LIST_HEAD(&dev->targets);
	INIT_LIST_HEAD(&dev->freed);
	spin_lock_init(&dev->freed_lock);
	INIT_WORK(&dev->event_work, event_work);
	INIT_WORK(&dev->worker, qcow_worker);
	qcow_parking_init(dev);
	dev->stats = alloc_percpu(struct dm_qcow_stats);
	dev->wq = alloc_workqueue("dm-qcow-%u:%u", WQ_MEM_RECLAIM, 0,
				  MAJOR(nr), MINOR(nr));
	xa_init(&dev->files);
	if (qcow_grants_init(&dev->grants) || qcow_copy_init(dev) ||
	    qcow_fill_pool_init(dev) ||
	    !dev->stats || !dev->wq) {
		device_free(dev);
		return NULL;
	}
	return dev;
}

static void device_release(struct kref *ref)
{
	device_free(container_of(ref, struct qcow_device, ref));
}

void qcow_device_put(struct qcow_device *dev)
{
	kref_put(&dev->ref, device_release);
}

struct qcow_device *qcow_device_join(struct qcow_target *t)
{
	struct mapped_device *md = dm_table_get_md(t->ti->table);
	/* not under the lock, which the daemon needs to grant */
	struct qcow_device *new = device_new(md), *dev;

	if (!new)
		return ERR_PTR(-ENOMEM);
	mutex_lock(&devices_lock);
	list_for_each_entry(dev, &devices, node)
		if (dev->md == md) {
			kref_get(&dev->ref);
			goto found;
		}
	dev = new;
	new = NULL;
	list_add_tail(&dev->node, &devices);
found:
	dev->nr_tables++;
	mutex_unlock(&devices_lock);
	if (new)
		qcow_device_put(new);
	return dev;
}

bool qcow_device_add(struct qcow_device *dev, struct qcow_target *t)
{
	bool ok;

	mutex_lock(&dev->lock);
	ok = list_empty(&dev->targets) || qcow_device_image(dev) == t->img;
	if (ok) {
		dev->cluster_bits = t->img->cluster_bits;
		list_add_tail(&t->dev_node, &dev->targets);
	}
	mutex_unlock(&dev->lock);
	return ok;
}

void qcow_device_set_live(struct qcow_device *dev, struct qcow_target *t)
{
	mutex_lock(&dev->lock);
	if (t) {
		dev->live = t;
		set_bit(QCOW_DEV_ACTIVE, &dev->flags);
	} else {
		clear_bit(QCOW_DEV_ACTIVE, &dev->flags);
	}
	mutex_unlock(&dev->lock);
}

struct qcow_target *qcow_device_target(struct qcow_device *dev)
{
	lockdep_assert_held(&dev->lock);
	return dev->live ?: list_last_entry(&dev->targets, struct qcow_target,
					    dev_node);
}

bool qcow_device_leave(struct qcow_device *dev, struct qcow_target *t)
{
	bool last;

	mutex_lock(&dev->lock);
	list_del_init(&t->dev_node);
	if (dev->live == t)
		dev->live = NULL;
	mutex_unlock(&dev->lock);
	mutex_lock(&devices_lock);
	last = !--dev->nr_tables;
	if (last)
		list_del(&dev->node);
	mutex_unlock(&devices_lock);
	if (last)
		qcow_parking_exit(dev);
	return last;
}

void qcow_device_gone(struct qcow_device *dev)
{
	cancel_work_sync(&dev->event_work);
	qcow_netlink_event(dev->nr, DM_QCOW_EV_GONE);
}

struct qcow_device *qcow_device_get(u64 nr)
{
	struct qcow_device *dev, *found = NULL;

	mutex_lock(&devices_lock);
	list_for_each_entry(dev, &devices, node)
		if (dev->nr == nr) {
			kref_get(&dev->ref);
			found = dev;
			break;
		}
	mutex_unlock(&devices_lock);
	return found;
}

struct qcow_device *qcow_device_next(u64 nr)
{
	struct qcow_device *dev, *best = NULL;

	mutex_lock(&devices_lock);
	list_for_each_entry(dev, &devices, node)
		if (dev->nr > nr && (!best || dev->nr < best->nr))
			best = dev;
	if (best)
		kref_get(&best->ref);
	mutex_unlock(&devices_lock);
	return best;
}

int qcow_device_name(struct qcow_device *dev, char *name)
{
	int r = -ENXIO;

	/* as long as it has a table, its md exists */
	mutex_lock(&dev->lock);
	if (!list_empty(&dev->targets))
		r = dm_copy_name_and_uuid(dev->md, name, NULL);
	mutex_unlock(&dev->lock);
	return r;
}

void qcow_devices_port_closed(u32 portid)
{
	struct qcow_device *dev;

	mutex_lock(&devices_lock);
	list_for_each_entry(dev, &devices, node) {
		mutex_lock(&dev->lock);
		if (dev->portid == portid) {
			WRITE_ONCE(dev->portid, 0);
			if (test_bit(QCOW_DEV_SUSPENDING, &dev->flags))
				qcow_parking_fail(dev, BLK_STS_NOSPC);
		}
		mutex_unlock(&dev->lock);
	}
	mutex_unlock(&devices_lock);
}

struct qcow_image *qcow_device_image(struct qcow_device *dev)
{
	return list_last_entry(&dev->targets, struct qcow_target,
			       dev_node)->img;
}

void qcow_device_set_mode(struct qcow_device *dev, enum dm_qcow_mode mode,
			  int error)
{
	unsigned long flags;
	bool changed;

	spin_lock_irqsave(&dev->bio_lock, flags);
	changed = mode > dev->mode ||
		(mode == DM_QCOW_MODE_WRITE &&
		 dev->mode == DM_QCOW_MODE_OUT_OF_SPACE);
	if (changed) {
		WRITE_ONCE(dev->mode, mode);
		dev->error = -error;
	}
	spin_unlock_irqrestore(&dev->bio_lock, flags);
	if (!changed)
		return;
	trace_qcow_mode(dev->nr, mode, error);
	if (mode >= DM_QCOW_MODE_READ_ONLY)
		pr_err("device %u:%u: a write of metadata failed (%d): no more writes until it is removed and created again\n",
		       (u32)(dev->nr >> 32), (u32)dev->nr, error);
	qcow_device_event(dev, DM_QCOW_EV_MODE);
}

void qcow_device_reset_mode(struct qcow_device *dev)
{
	spin_lock_irq(&dev->bio_lock);
	WRITE_ONCE(dev->mode, DM_QCOW_MODE_WRITE);
	dev->error = 0;
	spin_unlock_irq(&dev->bio_lock);
}

void qcow_device_committed(struct qcow_device *dev)
{
	struct qcow_image *img;
	bool ring = false;

	qcow_parking_unthrottle(dev);
	mutex_lock(&dev->lock);
	if (dev->cookie != dev->cookie_done && !list_empty(&dev->targets)) {
		img = qcow_device_image(dev);
		ring = qcow_commit_is_done(img, dev->cookie_ticket);
		if (ring)
			dev->cookie_done = dev->cookie;
	}
	if (ring)
		qcow_device_event(dev, DM_QCOW_EV_COMMITTED);
	mutex_unlock(&dev->lock);
}

/* The clusters are nobody's now: they may be granted again. */
static void freed_unclaim(struct qcow_image *img, const struct qcow_freed *f)
{
	struct qcow_claims *c = &img->claims;
	u64 first = f->offset >> img->cluster_bits;

	if (f->flags & QCOW_FREED_SHARED)
		return;
	mutex_lock(&c->lock);
	qcow_unclaim_range(c, f->flags & DM_QCOW_RUN_METADATA ?
			   QCOW_CLAIM_KERNEL : QCOW_CLAIM_DATA,
			   first, f->length >> img->cluster_bits);
	/* a snapshot may have it: then it is the daemon's metadata */
	if (f->flags & DM_QCOW_RUN_METADATA) {
		qcow_claim_set(c, QCOW_CLAIM_DAEMON, first);
		if (c->anew)
			qcow_claim_set(c, QCOW_CLAIM_ANEW, first);
	}
	mutex_unlock(&c->lock);
}

void qcow_device_freed(struct qcow_device *dev, struct qcow_image *img,
		       struct list_head *freed)
{
	struct qcow_freed *f, *next;

	list_for_each_entry_safe(f, next, freed, node) {
		list_del(&f->node);
		spin_lock_irq(&dev->freed_lock);
		if (dev->nr_freed < FREED_MAX) {
			list_add_tail(&f->node, &dev->freed);
			dev->nr_freed++;
			f = NULL;
		}
		spin_unlock_irq(&dev->freed_lock);
		if (f) {
			/* a scan finds it: then it may be granted again */
			freed_unclaim(img, f);
			set_bit(QCOW_DEV_LEAKED, &dev->flags);
			kfree(f);
		}
	}
	qcow_device_event(dev, DM_QCOW_EV_FREED);
}

unsigned int qcow_device_take_freed(struct qcow_device *dev,
				    struct dm_qcow_run *runs, unsigned int max)
{
	struct qcow_freed *f;
	unsigned int n;

	lockdep_assert_held(&dev->lock);
	for (n = 0; n < max; n++) {
		spin_lock_irq(&dev->freed_lock);
		f = list_first_entry_or_null(&dev->freed, struct qcow_freed,
					     node);
		if (f) {
			list_del(&f->node);
			dev->nr_freed--;
		}
		spin_unlock_irq(&dev->freed_lock);
		if (!f)
			break;
		freed_unclaim(qcow_device_image(dev), f);
		runs[n].offset = f->offset;
		runs[n].length = f->length;
		runs[n].flags = f->flags & ~QCOW_FREED_SHARED;
		runs[n].reserved = 0;
		kfree(f);
	}
	return n;
}
