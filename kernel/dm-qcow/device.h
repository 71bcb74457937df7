/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A mapped device: what outlives a table reload.  Grants, freed clusters,
 * bios that cannot be mapped now, the daemon's session, the mode, statistics.
 */
#ifndef QCOW_DEVICE_H
#define QCOW_DEVICE_H

#include <linux/bio.h>
#include <linux/kref.h>
#include <linux/mempool.h>
#include <linux/mutex.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <linux/dm_qcow.h>

#include "grant.h"
#include "image.h"
#include "stats.h"

struct qcow_freed;
struct qcow_target;

#define QCOW_DEV_SUSPENDING	0	/* presuspend .. resume: nothing parks */
#define QCOW_DEV_ACTIVE		1	/* preresume .. postsuspend */
#define QCOW_DEV_HOST_FULL	2	/* the daemon has said so */
#define QCOW_DEV_LEAKED		3	/* a freed run was dropped */
#define QCOW_DEV_NOFLUSH	4	/* the suspend that goes on is noflush */

/**
 * struct qcow_device - one mapped device
 * @md: never followed by us; dm_copy_name_and_uuid() only
 * @nr: DM_QCOW_DEV() number
 * @node: in the list of devices; its mutex guards @nr_tables too
 * @nr_tables: tables that have joined and not left
 * @ref: netlink and @targets hold references
 * @mode: written by qcow_device_set_mode() under @bio_lock
 * @error: positive errno behind the mode
 * @flags: QCOW_DEV_*
 * @commit_interval: jiffies
 * @no_space_timeout: jiffies
 * @lock: outermost; guards all up to @files; never held while waiting for I/O
 * @targets: tables of this device, the newest last (qcow_target.dev_node)
 * @live: the table that was resumed last, NULL if none or if it is gone
 * @session: number of the last session, 0: none ever
 * @portid: the socket that owns it, 0: it is closed
 * @seq: of the last grant
 * @cookie, @cookie_ticket: the last COMMIT command
 * @files: open files whose locks protect the layers, by 2 * layer, and that
 *         plus 1 for the layer's data file
 * @bio_lock: irq-safe; guards @deferred, @parked, @throttled
 * @deferred: bios for the worker
 * @parked: writes that wait for a grant
 * @throttled: writes that wait for a commit (too much is dirty, no memory)
 * @nr_held: bios that are ours between map and end_io, in whatever list
 * @freed: runs for the daemon, @nr_freed of them, under @freed_lock
 * @events: raised, not yet multicast; @pending: not yet fetched
 * @copy_wq, @copy_buffers: the copier's (copy.c)
 * @fills: a reserve for copy-on-write (cow.c)
 */
struct qcow_device {
	enum dm_qcow_mode mode;
	u8 cluster_bits;
	unsigned long flags;
	struct dm_qcow_stats __percpu *stats;
	struct qcow_grants grants;
	unsigned long commit_interval;
	unsigned long no_space_timeout;

	struct list_head node;
	struct kref ref;
	unsigned int nr_tables;
	struct mapped_device *md;
	u64 nr;
	int error;

	struct mutex lock;
	struct list_head targets;
	struct qcow_target *live;
	u64 session;
	u32 portid;
	u64 seq;
	u64 cookie;
	u64 cookie_done;
	u64 cookie_ticket;
	char label[DM_QCOW_LABEL_MAX];
	struct xarray files;

	spinlock_t bio_lock;
	struct bio_list deferred;
	struct bio_list parked;
	struct bio_list throttled;
	u32 nr_parked;
	atomic_t nr_held;
	struct work_struct worker;
	struct delayed_work park_timer;
	struct delayed_work throttle_timer;

	spinlock_t freed_lock;
	struct list_head freed;
	u32 nr_freed;

	atomic_t events;
	atomic_t pending;
	struct work_struct event_work;
	struct workqueue_struct *wq;
	struct workqueue_struct *copy_wq;
	mempool_t copy_buffers;
	mempool_t fills;
};

/**
 * qcow_device_join - the device of a table, made if it is the first
 * Return: the device, with a reference, or an ERR_PTR.  Netlink does not see
 * the table before qcow_device_add().
 */
struct qcow_device *qcow_device_join(struct qcow_target *t);
/*
 * The table is complete: it is the newest of @targets.  False: its image is
 * not that of the others, whose grants are of no use there.
 */
bool qcow_device_add(struct qcow_device *dev, struct qcow_target *t);
/*
 * Takes the table out of @targets.  The caller still has its reference, and
 * must keep it until its image is put.  Return: it was the last table.
 */
bool qcow_device_leave(struct qcow_device *dev, struct qcow_target *t);

/* By number; NULL if there is none; put it afterwards. */
struct qcow_device *qcow_device_get(u64 nr);
void qcow_device_put(struct qcow_device *dev);
/* The device after @nr in the list (0: the first), for dumps. */
struct qcow_device *qcow_device_next(u64 nr);
/* The name by which device-mapper knows it; -ENXIO if it is going away. */
int qcow_device_name(struct qcow_device *dev, char *name);
/* A netlink socket was closed. */
void qcow_devices_port_closed(u32 portid);

/* The last table's image has been put: nobody rings any more. */
void qcow_device_gone(struct qcow_device *dev);
/* A resume of @t begins; NULL: it has failed. */
void qcow_device_set_live(struct qcow_device *dev, struct qcow_target *t);
/*
 * The table that is live, or was before a suspend; before the first resume the
 * newest one.  dev->lock is held and the device has a table.
 */
struct qcow_target *qcow_device_target(struct qcow_device *dev);
/* The image that all of its tables have as layer 0. */
struct qcow_image *qcow_device_image(struct qcow_device *dev);

/**
 * qcow_device_set_mode - the one place where the mode changes
 * @error: negative errno, the reason
 * Falls, or returns from OUT_OF_SPACE to WRITE; anything else is ignored.
 * Any context.
 */
void qcow_device_set_mode(struct qcow_device *dev, enum dm_qcow_mode mode,
			  int error);
/* A resume has read the metadata anew: the device may write again. */
void qcow_device_reset_mode(struct qcow_device *dev);

/* Rings the daemon; any context. */
void qcow_device_event(struct qcow_device *dev, u32 events);
/* A commit has ended (process context). */
void qcow_device_committed(struct qcow_device *dev);

/* Replaced clusters that nothing refers to any more; takes the records. */
void qcow_device_freed(struct qcow_device *dev, struct qcow_image *img,
		       struct list_head *freed);
/* For the daemon: at most @max runs leave the kernel. */
unsigned int qcow_device_take_freed(struct qcow_device *dev,
				    struct dm_qcow_run *runs, unsigned int max);

/*
 * Bios
 */

/* The bio is ours from here on until it ends.  Any context. */
void qcow_device_hold(struct qcow_device *dev, struct bio *bio);
/* Hands a held bio to the worker; it counts in no epoch.  Any context. */
void qcow_device_defer(struct qcow_device *dev, struct bio *bio);
/* It needs a cluster and there is none.  From the worker. */
void qcow_device_park(struct qcow_device *dev, struct bio *bio);
/* It waits for the next commit's end, or a moment.  From the worker. */
void qcow_device_throttle(struct qcow_device *dev, struct bio *bio);
/* Grants have come: parked bios try again. */
void qcow_device_unpark(struct qcow_device *dev);
/* A cluster that was taken is there again: who is parked may have it.  Any context. */
void qcow_device_came_back(struct qcow_device *dev);
/* The daemon has taken stock and has nothing: parked bios wait as ever. */
void qcow_device_repark(struct qcow_device *dev);
/* Ends or requeues parked bios as a beginning suspend demands. */
void qcow_device_presuspend(struct qcow_device *dev, bool noflush);
/* Suspended: waits until no bio is left in our hands. */
void qcow_device_drain(struct qcow_device *dev);

/* Each bio's own device: deferred again, or ended with the error. */
void qcow_bios_resume(struct bio_list *bios, blk_status_t status);
/* Ends bios that waited for a commit. */
void qcow_bios_end(struct bio_list *bios, blk_status_t status);

#endif
