// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pending clusters: from the moment a write is given a cluster until the
 * first write to it has completed and the entry names it.
 *
 * Locking: slice.lock (irq-safe); end_io runs in any context.  Inside it:
 * commit.lock and the grants' locks.
 */
#include "commit.h"
#include "cow.h"
#include "device.h"
#include "grant.h"
#include "io.h"
#include "pending.h"
#include "trace.h"

void qcow_pend_begin(struct qcow_slice *s, u32 idx, u32 nr, u64 host,
		     u64 flags, struct qcow_io *io)
{
	u32 bits = s->img->cluster_bits;
	u32 i;

	lockdep_assert_held(&s->lock);
	/* extended entries are only ever locked */
	for (i = 0; i < nr; i++) {
		u64 old = s->ent[idx + i] &
			(QCOW2_L2_ZERO | QCOW2_ENTRY_COPIED);

		if (!qcow_entry_owns_zero(s->ent[idx + i]))
			old &= ~QCOW2_ENTRY_COPIED;
		WRITE_ONCE(s->ent[idx + i],
			   qcow_pend_with_users((host + ((u64)i << bits)) |
						old | QCOW_PEND | flags, 1));
	}
	s->pins++;
	io->slice = s;
	io->idx = idx;
	io->nr = nr;
	io->host = host;
	if (flags & QCOW_PEND_JOIN)
		io->flags |= QCOW_IO_JOIN;
}

void qcow_pend_join(struct qcow_slice *s, u32 idx, struct qcow_io *io)
{
	u64 e = s->ent[idx];

	lockdep_assert_held(&s->lock);
	WRITE_ONCE(s->ent[idx],
		   qcow_pend_with_users(e, qcow_pend_users(e) + 1));
	s->pins++;
	io->slice = s;
	io->idx = idx;
	io->nr = 1;
	io->host = e & QCOW2_OFFSET_MASK;
	io->flags |= QCOW_IO_JOIN;
}

void qcow_entry_link(struct qcow_slice *s, u32 idx, u64 e, u64 bitmap,
		     bool data_flush)
{
	u64 *ent = qcow_ent(s, idx);

	lockdep_assert_held(&s->lock);
	if (data_flush)
		s->state |= QCOW_SLICE_DATA_FLUSH;
	if (!(s->state & QCOW_SLICE_DIRTY))
		qcow_commit_dirty(s);
	if (!s->img->ext) {
		/* a FUA write that sees it must see that it is not durable */
		smp_store_release(ent, e);
		return;
	}
	smp_wmb();	/* as above */
	write_seqcount_begin(&s->seq);
	WRITE_ONCE(ent[0], e);
	WRITE_ONCE(ent[1], bitmap);
	write_seqcount_end(&s->seq);
}

void qcow_entry_lock(struct qcow_slice *s, u32 idx)
{
	u64 *ent = qcow_ent(s, idx);

	lockdep_assert_held(&s->lock);
	if (*ent & QCOW2_L2_COMPRESSED)
		set_bit(idx, s->busy);
	else
		WRITE_ONCE(*ent, qcow_pend_with_users(*ent | QCOW_PEND |
						      QCOW_PEND_OLD, 1));
	s->pins++;
}

void qcow_entry_unlock(struct qcow_slice *s, u32 idx)
{
	u64 *ent = qcow_ent(s, idx);

	lockdep_assert_held(&s->lock);
	if (*ent & QCOW2_L2_COMPRESSED)
		clear_bit(idx, s->busy);
	else
		WRITE_ONCE(*ent, qcow_entry_settled(*ent));
}

/* The last write to a pending cluster has failed. */
static void pend_revert(struct qcow_device *dev, struct qcow_slice *s, u32 idx)
{
	u64 e = s->ent[idx];

	WRITE_ONCE(s->ent[idx], qcow_entry_settled(e));
	if (!(e & QCOW2_ENTRY_COPIED) && !s->img->external)
		qcow_grant_put(dev, e & QCOW2_OFFSET_MASK, 1);
}

/* Is the entry still in the state in which the write was given it? */
static bool pend_is_mine(u64 e, u64 host, bool join)
{
	/*
	 * Another write may have linked it already, and others have zeroed it,
	 * locked it or given it the same cluster again since.
	 */
	return qcow_entry_pending(e) && !(e & QCOW_PEND_OLD) &&
		!!(e & QCOW_PEND_JOIN) == join &&
		(e & QCOW2_OFFSET_MASK) == host;
}

static void pend_end_one(struct qcow_device *dev, struct qcow_slice *s,
			 u32 idx, u64 host, bool join, bool ok)
{
	u64 e = s->ent[idx];
	u32 users;

	if (!pend_is_mine(e, host, join))
		return;
	if (ok) {
		qcow_entry_link(s, idx, host | QCOW2_ENTRY_COPIED, 0,
				!(e & QCOW_PEND_JOIN));
		return;
	}
	users = qcow_pend_users(e) - 1;
	if (users)
		WRITE_ONCE(s->ent[idx], qcow_pend_with_users(e, users));
	else
		pend_revert(dev, s, idx);
}

void qcow_slice_unpin(struct qcow_slice *s)
{
	struct bio_list bios;
	unsigned long flags;

	spin_lock_irqsave(&s->lock, flags);
	s->pins--;
	bios = s->waiters;
	bio_list_init(&s->waiters);
	spin_unlock_irqrestore(&s->lock, flags);
	/* s may be reclaimed from here on */
	if (unlikely(!bio_list_empty(&bios)))
		qcow_bios_resume(&bios, BLK_STS_OK);
}

void qcow_pend_end(struct qcow_device *dev, struct qcow_io *io,
		   blk_status_t status)
{
	struct qcow_slice *s = io->slice;
	u32 bits = s->img->cluster_bits;
	unsigned long flags;
	u32 i;

	io->slice = NULL;
	if (io->fill) {
		qcow_fill_end(dev, io, s, status);
		return;
	}
	spin_lock_irqsave(&s->lock, flags);
	for (i = 0; i < io->nr; i++)
		pend_end_one(dev, s, io->idx + i, io->host + ((u64)i << bits),
			     io->flags & QCOW_IO_JOIN, !status);
	spin_unlock_irqrestore(&s->lock, flags);
	trace_qcow_link(s->img, s->nr, io->idx, io->nr, io->host,
			blk_status_to_errno(status));
	qcow_slice_unpin(s);
}
