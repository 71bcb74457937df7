// SPDX-License-Identifier: GPL-2.0-only
/*
 * L2 tables.
 *
 * Owns changes of L1 entries in memory.  A table takes a cluster from the
 * grants, and the claim on it goes from data to metadata.  A table that a
 * snapshot shares (its L1 entry has no COPIED) is copied before anything in it
 * changes: the copy is on its way to the disk before L1 names it in memory,
 * and durable before L1 on disk does (commit.c).
 *
 * Locking: one worker makes tables.  img->load_lock while L1 and the slices in
 * memory move to a copy; claims.lock.
 */
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "copy.h"
#include "device.h"
#include "l2table.h"
#include "slice.h"
#include "target.h"
#include "trace.h"

static int table_claim(struct qcow_image *img, u64 host)
{
	struct qcow_claims *c = &img->claims;
	u64 nr = host >> img->cluster_bits;
	int r;

	mutex_lock(&c->lock);
	r = qcow_claim_set(c, QCOW_CLAIM_KERNEL, nr);
	if (r >= 0)
		qcow_claim_clear(c, QCOW_CLAIM_DATA, nr);
	mutex_unlock(&c->lock);
	return min(r, 0);
}

static void table_unclaim(struct qcow_image *img, u64 host)
{
	struct qcow_claims *c = &img->claims;
	u64 nr = host >> img->cluster_bits;

	mutex_lock(&c->lock);
	qcow_claim_clear(c, QCOW_CLAIM_KERNEL, nr);
	qcow_claim_set(c, QCOW_CLAIM_DATA, nr);
	mutex_unlock(&c->lock);
}

/* No entry of a shared table says that its cluster is used once. */
static void entries_share(struct qcow_image *img, __be64 *buf, u32 words)
{
	u32 i;

	/* there COPIED says that an entry has a cluster */
	if (img->external)
		return;
	for (i = 0; i < words; i += 1 << img->ext)
		if (!(buf[i] & cpu_to_be64(QCOW2_L2_COMPRESSED)))
			buf[i] &= ~cpu_to_be64(QCOW2_ENTRY_COPIED);
}

static int table_copy(struct qcow_target *t, u64 from, u64 to)
{
	struct qcow_image *img = t->img;
	u32 step = min(img->cluster_size, QCOW_COPY_BYTES), at;
	void *buf = qcow_copy_buffer(t->dev);
	int r = 0;

	for (at = 0; at < img->cluster_size && !r; at += step) {
		r = qcow_copy_io(img->bdev, REQ_OP_READ | REQ_META, from + at,
				 buf, step);
		if (r)
			break;
		entries_share(img, buf, step / 8);
		r = qcow_copy_io(img->bdev, REQ_OP_WRITE | REQ_META, to + at,
				 buf, step);
	}
	qcow_copy_buffer_put(t->dev, buf);
	return r;
}

/* A table for an L1 entry that has none. */
static int table_new(struct qcow_target *t, u64 guest, u64 host, bool zeroed)
{
	struct qcow_image *img = t->img;

	return qcow_commit_new_table(img, guest >> img->l2_span_bits, host,
				     zeroed ? QCOW_TABLE_ZEROES :
				     QCOW_TABLE_JUNK);
}

/* A copy of a shared table: from here on it is written, and not the old one. */
static int table_unshare(struct qcow_target *t, u64 guest, u64 host, u64 old)
{
	const gfp_t gfp = GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN;
	struct qcow_image *img = t->img;
	struct qcow_freed *f = kmalloc(sizeof(*f), gfp);
	int r;

	if (!f)
		return -ENOMEM;
	f->offset = old;
	f->length = img->cluster_size;
	f->flags = DM_QCOW_RUN_METADATA;
	r = table_copy(t, old, host);
	if (!r) {
		mutex_lock(&img->load_lock);
		r = qcow_commit_new_table(img, guest >> img->l2_span_bits,
					  host, QCOW_TABLE_COPY);
		if (!r)
			qcow_slices_move(img, guest, host);
		mutex_unlock(&img->load_lock);
	}
	if (r) {
		kfree(f);
		return r;
	}
	/* after the table: the commit that takes it writes L1, too */
	qcow_commit_freed(img, f);
	qcow_commit_start(img, false);
	qcow_stat_inc(t->dev->stats, tables_copied);
	return 0;
}

static int table_place(struct qcow_target *t, u64 guest, u64 old)
{
	struct qcow_image *img = t->img;
	bool zeroed = !old;
	u64 host;
	int r;

	if (!qcow_grant_take(t->dev, 1, &zeroed, true, &host)) {
		zeroed = false;
		if (!qcow_grant_take(t->dev, 1, &zeroed, true, &host))
			return -ENOSPC;
	}
	r = table_claim(img, host);
	if (!r) {
		r = old ? table_unshare(t, guest, host, old) :
			table_new(t, guest, host, zeroed);
		if (!r)
			return 0;
		table_unclaim(img, host);
	}
	qcow_grant_put(t->dev, host, 1);
	return r;
}

int qcow_l2table_make(struct qcow_target *t, u64 guest)
{
	struct qcow_image *img = t->img;
	u64 e = qcow_l1_entry(img, guest);
	u64 old = e & QCOW2_OFFSET_MASK;
	unsigned int epoch, noio;
	int r;

	if (old && e & QCOW2_ENTRY_COPIED)
		return 0;
	noio = memalloc_noio_save();
	/* a cluster that is taken counts until something names it */
	epoch = qcow_inflight_enter(&img->inflight);
	r = table_place(t, guest, old);
	qcow_inflight_end(&img->inflight, epoch);
	memalloc_noio_restore(noio);
	return r;
}
