// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Adopting a device whose daemon has gone.
 *
 * Owns: the order: everything that can fail comes before the kernel's grants
 * are taken; after that the device is served, whatever happens.
 * Must not: take locks (the open files in the kernel have them), and must not
 * begin the leak scan while clusters are on their way: taken from a grant,
 * not yet linked.  Hence: take all grants, let a commit cover every write that
 * had begun, take again what such writes may have put back (which nobody can
 * have meanwhile: the first take has closed the grants), drop all of it.  Only
 * then the refcounts are looked at, and anew granted.
 * Threads: the caller's; the feeder rests until all is done.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/stop_int.h"
#include "base/cleanup.h"
#include "kctl/attachment.h"
#include "kctl/dm.h"

#define SESSION_TRIES	40	/* a killed daemon's socket closes late */
#define SESSION_NS	50000000L
#define COMMIT_MS	30000
/* with the grants taken writes wait, for 60 seconds if need be */
#define CLOSED_MS	15000
#define COMMIT_POLL_MS	50

/* A device without a live table was never used: its maker died. */
static int remove_half_made(const struct blk_kdev *k, struct blk_error *e)
{
	int ret = blk_attachment_remove(k->name, e);

	if (ret)
		return ret;
	return blk_error_set(e, BLK_ERR_NOT_FOUND, ENODEV,
			     "device \"%s\" was left half made; it has been "
			     "removed", k->name);
}

static int check_device(const struct blk_kdev *k, struct blk_dm_info *info,
			struct blk_error *e)
{
	int ret;

	if (k->state & DM_QCOW_STATE_SESSION)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "another daemon controls device \"%s\"",
				     k->name);
	ret = blk_dm_info(k->name, info, e);
	if (ret)
		return ret;
	if (strncmp(info->uuid, BLK_DM_UUID_PREFIX,
		    strlen(BLK_DM_UUID_PREFIX)))
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "device \"%s\" was not made by blkctld",
				     k->name);
	return info->live_table ? 0 : remove_half_made(k, e);
}

/* Waits for the last daemon's socket to be closed. */
static int look(struct blk_attachment *a, struct blk_kdev *k,
		struct blk_dm_info *info, struct blk_error *e)
{
	struct timespec ts = { .tv_nsec = SESSION_NS };
	int ret, tries = SESSION_TRIES;

	for (;;) {
		ret = blk_genl_get(a->genl, a->dev, 0, k, e);
		if (!ret)
			ret = check_device(k, info, e);
		if (ret != -EBUSY || !--tries)
			return ret;
		nanosleep(&ts, NULL);
	}
}

/* How large the device is, and what is below, from the table that is live. */
static int look_at_table(struct blk_attachment *a, char **params,
			 struct blk_error *e)
{
	char *target blk_auto_free = NULL;
	uint64_t sectors;
	int ret = blk_dm_table(a->name, &sectors, &target, params, e);

	if (!ret)
		a->size = sectors << 9;
	return ret;
}

static int open_layers(struct blk_attachment *a, struct blk_error *e)
{
	char *params blk_auto_free = NULL;
	int ret = look_at_table(a, &params, e);

	return ret ? ret : blk_layers_adopt(a, params, e);
}

/* A table that a resize has loaded becomes live here, with its size. */
static int resume(struct blk_attachment *a, struct blk_error *e)
{
	char *params blk_auto_free = NULL;
	int ret = blk_dm_resume(a->name, e);

	return ret ? ret : look_at_table(a, &params, e);
}

/*
 * Taking stock
 */

/* Everything that was written before now is on disk when this returns 0. */
static int barrier(struct blk_attachment *a, bool suspended, unsigned int ms)
{
	struct pollfd p = { .fd = blk_genl_fd(a->feeder.events),
			    .events = POLLIN };
	uint64_t until = blk_now_ns() + ms * 1000000ULL;
	struct blk_kdev k;
	int ret;

	if (suspended)
		return blk_genl_handover(a->genl, a->dev, a->session, NULL,
					 NULL);
	ret = blk_genl_commit(a->genl, a->dev, a->session, ++a->cookie, NULL);
	while (!ret) {
		ret = blk_genl_get(a->genl, a->dev, 0, &k, NULL);
		if (ret)
			return ret;
		/* first: a commit that has failed has ended, too */
		if (k.mode >= DM_QCOW_MODE_READ_ONLY)
			return -EROFS;
		if (k.cookie >= a->cookie)
			return 0;
		if (blk_now_ns() > until)
			return -ETIMEDOUT;
		poll(&p, 1, COMMIT_POLL_MS);
		blk_genl_events_read(a->feeder.events, NULL, NULL);
	}
	return ret;
}

static void take_stock(struct blk_attachment *a, bool suspended)
{
	struct blk_run_list l = { 0 };
	int ret;

	/* what is dirty now need not be waited for without grants */
	ret = barrier(a, suspended, COMMIT_MS);
	blk_stop_point("adopt-barrier");
	if (!ret)
		ret = blk_run_list_take(a, DM_QCOW_TAKE_GRANTS, &l, NULL);
	blk_stop_point("adopt-grants-taken");
	if (!ret)
		ret = barrier(a, suspended, CLOSED_MS);
	blk_stop_point("adopt-second-barrier");
	if (!ret)
		ret = blk_run_list_take(a, DM_QCOW_TAKE_GRANTS, &l, NULL);
	if (!ret)
		ret = blk_run_list_take(a, DM_QCOW_TAKE_FREED, &l, NULL);
	blk_stop_point("adopt-freed-taken");
	if (blk_grant_drop(a, l.v, l.n))
		ret = -EIO;
	blk_run_list_free(&l);
	/* its daemon has moved metadata: where that was there is space now */
	if (!ret)
		ret = blk_attachment_claim(a, true, NULL);
	blk_stop_point("adopt-claimed");
	/* without a certain state no scan: the mark stays for the next user */
	if (ret)
		atomic_store(&a->keep_mark, true);
	else
		blk_scan_begin(a, NULL);
}

static void serve(struct blk_attachment *a, bool suspended)
{
	struct blk_kdev k;

	if (blk_genl_get(a->genl, a->dev, a->session, &k, NULL))
		return;
	a->was_marked = true;
	if (k.mode >= DM_QCOW_MODE_READ_ONLY) {
		atomic_store(&a->keep_mark, true);
		return;
	}
	take_stock(a, suspended);
	if (!blk_genl_get(a->genl, a->dev, a->session, &k, NULL))
		blk_grant_fill(a, &k);
	/* if there was nothing to give: clusters that come back may be taken */
	blk_grant_give(a, NULL, 0, 0, NULL, NULL);
}

static int adopt(struct blk_attachment *a, char **label, struct blk_error *e)
{
	struct blk_dm_info info;
	struct blk_kdev k;
	int ret;

	ret = blk_genl_open(&a->genl, e);
	if (!ret)
		ret = look(a, &k, &info, e);
	if (ret)
		return ret;
	snprintf(a->name, sizeof(a->name), "%s", k.name);
	snprintf(a->uuid, sizeof(a->uuid), "%s", info.uuid);
	a->writable = k.state & DM_QCOW_STATE_WRITABLE;
	*label = strdup(k.label);
	if (!*label)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = blk_genl_adopt(a->genl, a->dev, NULL, &a->session, &a->seq, e);
	blk_stop_point("adopt-session");
	blk_attachment_session(a);
	if (!ret)
		ret = open_layers(a, e);
	if (!ret)
		ret = blk_feeder_init(a, e);
	if (!ret)
		ret = blk_feeder_start(a, e);
	if (ret)
		return ret;
	if (a->writable) {
		blk_attachment_connect(a);
		serve(a, info.suspended);
	}
	blk_stop_point("adopt-served");
	/* its daemon died while it had it suspended */
	return info.suspended ? resume(a, e) : 0;
}

int blk_attach_adopt(uint64_t dev,
		     void (*notify)(void *opaque, unsigned int what),
		     void *opaque, struct blk_attachment **out, char **label,
		     struct blk_error *e)
{
	struct blk_attachment *a = blk_attachment_new();
	int ret;

	*out = NULL;
	*label = NULL;
	if (!a)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	a->dev = dev;
	a->live = true;
	a->notify = notify;
	a->opaque = opaque;
	ret = adopt(a, label, e);
	if (ret) {
		free(*label);
		*label = NULL;
		blk_attach_abandon(a);
		return ret;
	}
	blk_scan_start(a);
	blk_feeder_go(a);
	*out = a;
	return 0;
}
