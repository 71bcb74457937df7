// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Detaching, and the other two ends of an attachment: abandoning (the device
 * stays) and forgetting (it went without us).
 *
 * Owns: the order suspend, handover, take, remove, drop, trim, unmark; and
 * that the device goes on as before when a step before the removal fails.
 * Must not: edit metadata unless the kernel has handed it over clean
 * (docs/design.md, rule 9), or remove the mark while anything may be leaked.
 * Threads: the caller's.  The feeder serves until the device is suspended.
 *
 * Killed between any two steps: before the removal the next daemon adopts (and
 * resumes) the device and scans; after it the mark makes the next attach scan.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/stop_int.h"
#include "kctl/attachment.h"
#include "kctl/dm.h"
#include "kctl/holders.h"

#define BUSY_TRIES	20
#define BUSY_NS		100000000L
#define ROUNDS		5
#define SCAN_MS		3000

/* What one call of blk_detach() has in hand. */
struct detaching {
	struct blk_attachment *a;
	struct blk_handover h;
	bool raced;		/* somebody opened it after we looked */
};

static void nap(void)
{
	struct timespec ts = { .tv_nsec = BUSY_NS };

	nanosleep(&ts, NULL);
}

/* What was opened while it was suspended is waiting for us: little patience. */
#define SUSPENDED_TRIES	2

static int busy(const char *name, uint64_t dev, struct blk_error *e)
{
	struct blk_holders h;

	blk_holders_find(dev, &h);
	blk_error_set(e, BLK_ERR_BUSY, EBUSY, "device \"%s\" is in use%s%s",
		      name, h.count ? ": " : "", h.text);
	blk_error_hint(e, "unmount it, or end the programs that have it open");
	return -EBUSY;
}

static int remove_device(const char *name, int tries, struct blk_error *e)
{
	int ret;

	/* udev's blkid opens what has just been resumed or closed */
	while ((ret = blk_dm_remove(name, e)) == -EBUSY && --tries)
		nap();
	return ret;
}

int blk_attachment_remove(const char *name, struct blk_error *e)
{
	return remove_device(name, BUSY_TRIES, e);
}

/* Nobody has it open?  -ENOENT: it is no longer there. */
static int check_idle(struct detaching *d, struct blk_error *e)
{
	struct blk_dm_info info;
	struct blk_holders h;
	int ret, tries = BUSY_TRIES;

	for (;;) {
		ret = blk_dm_info(d->h.name, &info, e);
		if (!ret && (info.dev != d->a->dev ||
			     strcmp(info.uuid, d->a->uuid)))
			ret = -ENOENT;	/* another one of that name */
		if (ret || !info.open_count)
			return ret;
		blk_holders_find(d->a->dev, &h);
		if (h.lasting || !--tries)
			return busy(d->h.name, d->a->dev, e);
		nap();
	}
}

/* The device has gone; the image is ours alone. */
static int settle(struct detaching *d, struct blk_error *e)
{
	struct blk_attachment *a = d->a;
	int ret, err;

	if (!d->h.clean) {
		blk_scan_stop(a);
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "the device had failed: what was written "
				     "since may be missing");
	}
	blk_stop_point("detach-removed");
	ret = blk_grant_drop(a, d->h.grants.v, d->h.grants.n);
	blk_stop_point("detach-grants-dropped");
	err = blk_grant_drop(a, d->h.freed.v, d->h.freed.n);
	ret = ret ? ret : err;
	blk_stop_point("detach-freed-dropped");
	blk_scan_finish(a);
	blk_stop_point("detach-scanned");
	blk_qcow2_set_ops(a->image, NULL, NULL);
	err = blk_qcow2_trim(a->image, NULL);
	blk_stop_point("detach-trimmed");
	ret = ret ? ret : err;
	if (!ret && !atomic_load(&a->keep_mark) && !blk_scan_is_open(a))
		ret = blk_qcow2_unmark(a->image, NULL);
	blk_stop_point("detach-unmarked");
	blk_layers_trim_data(a, a->size);
	err = blk_file_flush(a->file);
	ret = ret ? ret : err;
	if (ret)
		blk_error_set(e, BLK_ERR_FAILED, -ret,
			      "unused clusters of %s could not all be given "
			      "back: %s; the next attach tries again",
			      a->file->path, strerror(-ret));
	return ret;
}

/*
 * The ends
 */

static void finish(struct detaching *d, struct blk_error *e)
{
	struct blk_attachment *a = d->a;

	if (e)
		memset(e, 0, sizeof(*e));	/* of an earlier round */
	blk_feeder_stop(a);
	a->notify = NULL;	/* no news of what the caller is ending */
	/* autoclear: loop devices go with their last user */
	blk_layers_remove(a);
	if (a->writable)
		settle(d, e);
	/* what blkid has read meanwhile is stale for buffered readers */
	blk_layers_drop_buffers(a);
	blk_layers_disown(a, true);
	blk_attachment_free(a);
}

/* One round: on failure everything is as before. */
static int detach(struct detaching *d, struct blk_error *e)
{
	int ret;

	if (d->a->writable) {
		blk_scan_wait(d->a, SCAN_MS);
		ret = blk_handover_begin(&d->h, e);
		if (ret)
			return ret;
	} else {
		blk_feeder_pause(d->a);
	}
	ret = remove_device(d->h.name, SUSPENDED_TRIES, e);
	d->raced = ret == -EBUSY;
	if (d->raced)
		busy(d->h.name, d->a->dev, e);
	if (ret) {
		if (d->a->writable)
			blk_handover_undo(&d->h, e);
		else
			blk_feeder_go(d->a);
		return ret;
	}
	finish(d, e);
	return 0;
}

/* Looks first; *@gone: there is nothing to detach. */
static int look_and_detach(struct detaching *d, bool *gone,
			   struct blk_error *e)
{
	struct blk_kdev k;
	int ret;

	d->raced = false;
	ret = blk_attach_get(d->a, &k, e);
	if (!ret) {
		if (k.name[0])
			snprintf(d->h.name, sizeof(d->h.name), "%s", k.name);
		d->h.failed = k.mode >= DM_QCOW_MODE_READ_ONLY;
		ret = check_idle(d, e);
	}
	*gone = ret == -ENODEV || ret == -ENXIO || ret == -ENOENT;
	return ret ? ret : detach(d, e);
}

int blk_detach(struct blk_attachment *a, struct blk_error *e)
{
	struct detaching d = { .a = a, .h.a = a };
	int ret, rounds = ROUNDS;
	bool gone;

	if (e)
		memset(e, 0, sizeof(*e));
	snprintf(d.h.name, sizeof(d.h.name), "%s", a->name);
	/*
	 * udev probes a device that was just closed by a writer.  It may open
	 * it when it is suspended already, and can only end once it is resumed.
	 */
	do {
		ret = look_and_detach(&d, &gone, e);
	} while (d.raced && --rounds);
	if (gone) {
		if (e)
			memset(e, 0, sizeof(*e));
		blk_attach_forget(a);
		return 0;
	}
	blk_handover_free(&d.h);
	return ret;
}

void blk_attach_abandon(struct blk_attachment *a)
{
	blk_feeder_stop(a);
	blk_scan_stop(a);
	blk_layers_disown(a, false);
	blk_attachment_free(a);
}

void blk_attach_forget(struct blk_attachment *a)
{
	blk_feeder_stop(a);
	blk_scan_stop(a);
	blk_layers_disown(a, true);
	blk_attachment_free(a);
}
