// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A live device is suspended and gives everything back, or goes on as before.
 *
 * Owns: the order suspend, rest, HANDOVER, take; and the way back: grants,
 * resume, feed.
 * Must not: edit metadata; who uses it may, when the kernel has handed it over
 * clean (docs/design.md, rule 9).
 * Threads: the caller's.  The feeder serves until the device is suspended, as
 * writes that wait for clusters would keep that from ending.
 */
#include <errno.h>
#include <string.h>

#include "base/stop_int.h"
#include "kctl/attachment.h"
#include "kctl/dm.h"

void blk_handover_give_back(struct blk_handover *h)
{
	struct dm_qcow_run *v = h->grants.v;
	size_t n = h->grants.n, part;
	int ret;

	for (; n; v += part, n -= part) {
		part = n < DM_QCOW_MAX_RUNS ? n : DM_QCOW_MAX_RUNS;
		ret = blk_grant_give(h->a, v, part, 0, NULL, NULL);
		if (ret)
			blk_grant_refused(h->a, v, part, ret);
		blk_stop_point("given-back");
	}
	/* taking has closed the grants, also where there were none */
	blk_grant_give(h->a, NULL, 0, 0, NULL, NULL);
	blk_grant_drop(h->a, h->freed.v, h->freed.n);
	blk_handover_free(h);
}

int blk_handover_undo(struct blk_handover *h, struct blk_error *e)
{
	struct blk_error why = { 0 };
	int ret;

	blk_handover_give_back(h);
	ret = blk_dm_resume(h->name, &why);
	if (ret && e)
		blk_error_hint(e, "it is still suspended: %.200s", why.msg);
	blk_feeder_go(h->a);
	return ret;
}

void blk_handover_free(struct blk_handover *h)
{
	blk_run_list_free(&h->grants);
	blk_run_list_free(&h->freed);
}

/* Suspended: everything the kernel has of ours comes back. */
static int collect(struct blk_handover *h, struct blk_error *e)
{
	struct blk_attachment *a = h->a;
	struct blk_kdev k;
	int ret;

	h->clean = false;
	ret = blk_genl_handover(a->genl, a->dev, a->session, NULL, e);
	if (ret && h->failed && !blk_grant_is_lost(ret)) {
		/* its writes and flushes have failed since: no news */
		atomic_store(&a->keep_mark, true);
		return 0;
	}
	if (ret == -EIO)
		blk_error_set(e, BLK_ERR_FAILED, EIO,
			      "device \"%s\" could not write all of its "
			      "metadata to %s", h->name, a->file->path);
	if (!ret)
		ret = blk_run_list_take(a, DM_QCOW_TAKE_GRANTS, &h->grants, e);
	if (!ret)
		ret = blk_run_list_take(a, DM_QCOW_TAKE_FREED, &h->freed, e);
	if (!ret)
		ret = blk_genl_get(a->genl, a->dev, a->session, &k, e);
	if (ret)
		return ret;
	if (k.state & (DM_QCOW_STATE_LEAKED | DM_QCOW_STATE_CORRUPT))
		atomic_store(&a->keep_mark, true);
	h->clean = true;
	return 0;
}

int blk_handover_begin(struct blk_handover *h, struct blk_error *e)
{
	int ret;

	ret = blk_dm_suspend(h->name, false, e);
	if (ret)
		return ret;
	blk_stop_point("suspended");
	blk_feeder_pause(h->a);
	ret = collect(h, e);
	blk_stop_point("handed-over");
	if (ret)
		blk_handover_undo(h, e);
	return ret;
}
