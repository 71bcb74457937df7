// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Another size for a device that is in use, and for its image.
 *
 * Owns: the order suspend, HANDOVER, edit the image, CLAIM anew, load a table
 * of the new length (before the edit if it is shorter), resume; and that a
 * failure of any step ends in a device that goes on with its old size.
 * Must not: edit the image unless the kernel has handed it over clean
 * (docs/design.md, rule 9), or let a leak scan run meanwhile: it reads tables
 * that may move.
 * Threads: the caller's; the feeder rests while the device is suspended.
 *
 * Killed between any two steps: the next daemon adopts and resumes the device
 * with the newest table that it has; the image may be larger than that, and
 * the next attachment shows it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/stop_int.h"
#include "kctl/attachment.h"
#include "kctl/dm.h"

/**
 * struct resizing - what one call of blk_attach_resize() has in hand
 * @old: the size that the device has
 * @scanning: a leak scan was stopped for it
 */
struct resizing {
	struct blk_attachment *a;
	struct blk_handover h;
	uint64_t old;
	bool scanning;
};

static uint64_t image_size(const struct blk_attachment *a)
{
	return blk_qcow2_header(a->image)->size;
}

static int check(const struct blk_attachment *a, uint64_t size, bool shrink,
		 struct blk_error *e)
{
	if (!a->writable)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "device \"%s\" is read-only", a->name);
	if (size & 511)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "The new size must be a multiple of 512");
	if (!size)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "a device cannot have no size");
	if (size >= a->size || shrink)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "%llu bytes are less than device \"%s\" has (%llu): what is behind them would be lost",
		      (unsigned long long)size, a->name,
		      (unsigned long long)a->size);
	blk_error_hint(e, "make the file system smaller first, then say \"shrink\"");
	return -EINVAL;
}

/* The same table as before, over another length. */
static int load(const struct resizing *r, uint64_t size, struct blk_error *e)
{
	char *target blk_auto_free = NULL, *params blk_auto_free = NULL;
	int ret;

	ret = blk_dm_table(r->h.name, NULL, &target, &params, e);
	return ret ? ret : blk_dm_load(r->h.name, size >> 9, target, params,
				       false, e);
}

static int edit(struct resizing *r, uint64_t size, bool shrink,
		struct blk_error *e)
{
	struct blk_attachment *a = r->a;
	int ret = 0, err;

	if (image_size(a) != size) {
		blk_attachment_connect_unclaimed(a);
		ret = blk_qcow2_resize(a->image, size, shrink,
				       blk_layers_backing_size(a), e);
		blk_stop_point("resize-edited");
		blk_attachment_connect(a);
	}
	/* it may have moved something before it failed */
	err = blk_attachment_claim(a, true, ret ? NULL : e);
	blk_stop_point("resize-claimed");
	return ret ? ret : err;
}

/*
 * The device is suspended and handed over.  Whatever is resumed, by whom ever:
 * no table may be larger than the image.
 */
static int apply(struct resizing *r, uint64_t size, struct blk_error *e)
{
	bool shrink;
	int ret = 0;

	/* a daemon died while it made the disk smaller, and left its end */
	if (size > r->old && image_size(r->a) > r->old)
		ret = edit(r, r->old, true, e);
	shrink = size < image_size(r->a);
	if (!ret && shrink)
		ret = load(r, size, e);
	if (!ret)
		ret = edit(r, size, shrink, e);
	if (!ret && !shrink)
		ret = load(r, size, e);
	return ret;
}

/* New clusters that the scan will not take for leaks. */
static void grant_anew(struct blk_attachment *a)
{
	struct blk_kdev k;

	blk_scan_begin(a, NULL);
	if (!blk_genl_get(a->genl, a->dev, a->session, &k, NULL))
		blk_grant_fill(a, &k);
}

static void feed(struct resizing *r)
{
	r->a->feeder.cap = 0;	/* by the new size */
	if (r->scanning)
		grant_anew(r->a);
	else
		blk_handover_give_back(&r->h);
}

/* What a stopped scan has seen is void, and so are clusters on their way. */
static void stop_scan(struct resizing *r)
{
	struct blk_handover *h = &r->h;

	blk_grant_drop(r->a, h->freed.v, h->freed.n);
	h->freed.n = 0;
	r->scanning = blk_scan_cancel(r->a);
	if (!r->scanning)
		return;
	blk_grant_drop(r->a, h->grants.v, h->grants.n);
	blk_handover_free(h);
}

/* Back to the old size; @e keeps why. */
static void undo(struct resizing *r, struct blk_error *e)
{
	struct blk_error why = { 0 };

	/* if this fails too, the kernel judges whether the image still fits */
	apply(r, r->old, NULL);
	feed(r);
	if (blk_dm_resume(r->h.name, &why) && e)
		blk_error_hint(e, "the device is still suspended: %.200s",
			       why.msg);
}

static int change(struct resizing *r, uint64_t size, struct blk_error *e)
{
	struct blk_attachment *a = r->a;
	int ret;

	ret = apply(r, size, e);
	if (ret) {
		undo(r, e);
		return ret;
	}
	blk_stop_point("resize-loaded");
	feed(r);
	blk_stop_point("resize-fed");
	ret = blk_dm_resume(r->h.name, e);
	blk_stop_point("resize-resumed");
	if (!ret) {
		a->size = size;
		return 0;
	}
	if (e && !e->hint[0])
		blk_error_hint(e, "dmesg has the reason");
	blk_run_list_take(a, DM_QCOW_TAKE_GRANTS, &r->h.grants, NULL);
	stop_scan(r);
	undo(r, e);
	return ret;
}

static int resize(struct resizing *r, uint64_t size, struct blk_error *e)
{
	struct blk_attachment *a = r->a;
	int ret;

	ret = blk_handover_begin(&r->h, e);
	if (ret)
		return ret;
	if (r->h.clean) {
		stop_scan(r);
		ret = change(r, size, e);
	} else {
		ret = blk_error_set(e, BLK_ERR_FAILED, EROFS,
				    "device \"%s\" has failed", r->h.name);
		blk_handover_give_back(&r->h);
		blk_dm_resume(r->h.name, NULL);
	}
	blk_handover_free(&r->h);
	blk_scan_start(a);
	blk_feeder_go(a);
	return ret;
}

int blk_attach_resize(struct blk_attachment *a, uint64_t size, bool shrink,
		      struct blk_error *e)
{
	struct resizing r = { .a = a, .h.a = a, .old = a->size };
	struct blk_kdev k;
	int ret;

	ret = check(a, size, shrink, e);
	if (!ret)
		ret = blk_attach_get(a, &k, e);
	if (ret)
		return ret;
	if (k.mode >= DM_QCOW_MODE_READ_ONLY)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "device \"%s\" has failed: it cannot be given another size",
				     a->name);
	if (size == a->size && size == image_size(a))
		return 0;
	snprintf(r.h.name, sizeof(r.h.name), "%s",
		 k.name[0] ? k.name : a->name);
	ret = blk_layers_grow_data(a, size, e);
	if (!ret)
		ret = resize(&r, size, e);
	if (ret)
		blk_layers_trim_data(a, r.old);
	else if (size < r.old)
		blk_layers_cut_data(a, size);
	return ret;
}
