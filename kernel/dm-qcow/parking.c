// SPDX-License-Identifier: GPL-2.0-only
/*
 * Bios that wait.
 *
 * Owns a device's lists of deferred, parked and throttled bios and their
 * timers.  A parked bio is on no work queue, so flushes and reads pass it; it
 * counts in no epoch.  It never blocks a suspend: between presuspend and
 * resume a bio parks only if a live daemon may still bring grants, and only
 * in a suspend that has to write everything out.
 *
 * Locking: device.bio_lock (irq-safe).  Bios end outside of it.
 */
#include <linux/delay.h>
#include <linux/device-mapper.h>

#include "device.h"
#include "io.h"
#include "parking.h"
#include "target.h"
#include "trace.h"

static void park_expired(struct work_struct *work)
{
	struct qcow_device *dev = container_of(to_delayed_work(work),
					       struct qcow_device, park_timer);

	unsigned long left = qcow_grants_patience(&dev->grants);

	if (!READ_ONCE(dev->nr_parked))
		return;
	/* a daemon takes stock: that is no lack of space */
	if (left) {
		mod_delayed_work(dev->wq, &dev->park_timer, left);
		return;
	}
	/* a cluster may have come meanwhile */
	if (qcow_grants_any(&dev->grants)) {
		qcow_device_unpark(dev);
		return;
	}
	qcow_device_set_mode(dev, DM_QCOW_MODE_OUT_OF_SPACE, -ENOSPC);
	qcow_parking_fail(dev, BLK_STS_NOSPC);
	/* who brought one before the mode fell could not raise it */
	if (qcow_grants_any(&dev->grants))
		qcow_device_unpark(dev);
}

static void throttle_expired(struct work_struct *work)
{
	qcow_parking_unthrottle(container_of(to_delayed_work(work),
					     struct qcow_device,
					     throttle_timer));
}

void qcow_parking_init(struct qcow_device *dev)
{
	spin_lock_init(&dev->bio_lock);
	bio_list_init(&dev->deferred);
	bio_list_init(&dev->parked);
	bio_list_init(&dev->throttled);
	INIT_DELAYED_WORK(&dev->park_timer, park_expired);
	INIT_DELAYED_WORK(&dev->throttle_timer, throttle_expired);
}

void qcow_parking_exit(struct qcow_device *dev)
{
	cancel_delayed_work_sync(&dev->park_timer);
	cancel_delayed_work_sync(&dev->throttle_timer);
	cancel_work_sync(&dev->worker);
}

static void bios_take(struct qcow_device *dev, struct bio_list *from,
		      struct bio_list *to)
{
	unsigned long flags;

	bio_list_init(to);
	spin_lock_irqsave(&dev->bio_lock, flags);
	bio_list_merge(to, from);
	bio_list_init(from);
	if (from == &dev->parked)
		dev->nr_parked = 0;
	spin_unlock_irqrestore(&dev->bio_lock, flags);
}

void qcow_parking_fail(struct qcow_device *dev, blk_status_t status)
{
	struct bio_list bios;
	struct bio *bio;

	bios_take(dev, &dev->parked, &bios);
	while ((bio = bio_list_pop(&bios)))
		qcow_bio_end(bio, status);
}

void qcow_parking_unthrottle(struct qcow_device *dev)
{
	struct bio_list bios;

	bios_take(dev, &dev->throttled, &bios);
	if (!bio_list_empty(&bios))
		qcow_bios_resume(&bios, BLK_STS_OK);
}

void qcow_device_hold(struct qcow_device *dev, struct bio *bio)
{
	struct qcow_io *io = qcow_io(bio);

	if (io->flags & QCOW_IO_HELD)
		return;
	io->flags |= QCOW_IO_HELD;
	atomic_inc(&dev->nr_held);
}

void qcow_device_defer(struct qcow_device *dev, struct bio *bio)
{
	unsigned long flags;

	qcow_device_hold(dev, bio);
	spin_lock_irqsave(&dev->bio_lock, flags);
	bio_list_add(&dev->deferred, bio);
	/* inside: when the bio has ended the device may go */
	queue_work(dev->wq, &dev->worker);
	spin_unlock_irqrestore(&dev->bio_lock, flags);
}

/* How long a write that finds no cluster may wait. */
static unsigned long park_time(struct qcow_device *dev)
{
	return max(READ_ONCE(dev->no_space_timeout),
		   qcow_grants_patience(&dev->grants));
}

/* May a write wait for a grant now? If not, how it ends. */
static bool may_park(struct qcow_device *dev, struct bio *bio,
		     blk_status_t *status)
{
	lockdep_assert_held(&dev->bio_lock);
	*status = BLK_STS_NOSPC;
	if (dev->mode != DM_QCOW_MODE_WRITE || !park_time(dev))
		return false;
	if (!test_bit(QCOW_DEV_SUSPENDING, &dev->flags))
		return true;
	if (test_bit(QCOW_DEV_NOFLUSH, &dev->flags)) {
		/* an interrupted suspend ends before presuspend_undo */
		*status = BLK_STS_DM_REQUEUE;
		return !dm_noflush_suspending(qcow_io(bio)->t->ti);
	}
	return READ_ONCE(dev->portid);
}

void qcow_device_park(struct qcow_device *dev, struct bio *bio)
{
	blk_status_t status;
	bool park;

	spin_lock_irq(&dev->bio_lock);
	park = may_park(dev, bio, &status);
	if (park) {
		bio_list_add(&dev->parked, bio);
		if (!dev->nr_parked++)
			mod_delayed_work(dev->wq, &dev->park_timer,
					 park_time(dev));
	}
	spin_unlock_irq(&dev->bio_lock);
	if (!park && status == BLK_STS_NOSPC && qcow_grants_any(&dev->grants)) {
		/* it came after the worker looked */
		qcow_device_defer(dev, bio);
		return;
	}
	if (!park) {
		if (status == BLK_STS_NOSPC)
			qcow_device_set_mode(dev, DM_QCOW_MODE_OUT_OF_SPACE,
					     -ENOSPC);
		qcow_bio_end(bio, status);
		return;
	}
	trace_qcow_park(dev->nr, dev->nr_parked);
	qcow_stat_inc(dev->stats, parked);
	qcow_device_event(dev, DM_QCOW_EV_PARKED);
	/* a grant may have come after the worker looked */
	if (qcow_grants_any(&dev->grants))
		qcow_device_unpark(dev);
}

void qcow_device_unpark(struct qcow_device *dev)
{
	struct bio_list bios;

	qcow_device_set_mode(dev, DM_QCOW_MODE_WRITE, 0);
	cancel_delayed_work(&dev->park_timer);
	bios_take(dev, &dev->parked, &bios);
	if (!bio_list_empty(&bios))
		qcow_bios_resume(&bios, BLK_STS_OK);
}

void qcow_device_came_back(struct qcow_device *dev)
{
	unsigned long flags;
	bool waits;

	/* under the lock: whoever parks later sees the cluster */
	spin_lock_irqsave(&dev->bio_lock, flags);
	waits = !bio_list_empty(&dev->parked);
	spin_unlock_irqrestore(&dev->bio_lock, flags);
	if (waits && qcow_grants_any(&dev->grants))
		qcow_device_unpark(dev);
}

void qcow_device_repark(struct qcow_device *dev)
{
	spin_lock_irq(&dev->bio_lock);
	if (!bio_list_empty(&dev->parked))
		mod_delayed_work(dev->wq, &dev->park_timer,
				 READ_ONCE(dev->no_space_timeout));
	spin_unlock_irq(&dev->bio_lock);
}

void qcow_device_throttle(struct qcow_device *dev, struct bio *bio)
{
	spin_lock_irq(&dev->bio_lock);
	bio_list_add(&dev->throttled, bio);
	spin_unlock_irq(&dev->bio_lock);
	queue_delayed_work(dev->wq, &dev->throttle_timer,
			   msecs_to_jiffies(10));
}

void qcow_device_presuspend(struct qcow_device *dev, bool noflush)
{
	/* no COMMIT begins after this */
	mutex_lock(&dev->lock);
	spin_lock_irq(&dev->bio_lock);
	assign_bit(QCOW_DEV_NOFLUSH, &dev->flags, noflush);
	set_bit(QCOW_DEV_SUSPENDING, &dev->flags);
	spin_unlock_irq(&dev->bio_lock);
	mutex_unlock(&dev->lock);
	if (noflush)
		qcow_parking_fail(dev, BLK_STS_DM_REQUEUE);
	else if (!READ_ONCE(dev->portid))
		qcow_parking_fail(dev, BLK_STS_NOSPC);
}

void qcow_device_drain(struct qcow_device *dev)
{
	while (atomic_read(&dev->nr_held)) {
		qcow_parking_fail(dev, BLK_STS_NOSPC);
		qcow_parking_unthrottle(dev);
		msleep(1);
	}
	cancel_delayed_work_sync(&dev->park_timer);
}

void qcow_bios_resume(struct bio_list *bios, blk_status_t status)
{
	struct bio *bio;

	while ((bio = bio_list_pop(bios))) {
		if (status)
			qcow_bio_end(bio, status);
		else
			qcow_device_defer(qcow_io(bio)->t->dev, bio);
	}
}

void qcow_bios_end(struct bio_list *bios, blk_status_t status)
{
	struct bio *bio;

	while ((bio = bio_list_pop(bios))) {
		qcow_io(bio)->flags |= QCOW_IO_DONE;
		/* a FUA bio ends for the second time: its accounting was done */
		bio_clear_flag(bio, BIO_QOS_THROTTLED);
		bio_clear_flag(bio, BIO_QOS_MERGED);
		qcow_bio_end(bio, status);
	}
}
