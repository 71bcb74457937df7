/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Entries of a cached slice while a write is giving them a new cluster.
 *
 * On disk, bits 1..8 and 56..61 of an L2 entry are reserved and 0 (slice.c has
 * checked).  In memory they say that the entry is pending:
 *
 *   bit 1      PENDING: writes are in flight that will set the entry
 *   bit 2      JOIN: the new cluster reads as zeroes where nothing was written:
 *              other writes may go there too, and whoever completes first
 *              links it
 *   bit 3      OLD: the offset is still the old cluster's; the new one is in
 *              the fill (cow.c)
 *   4..8, 56..61   number of writes in flight, 1..2047
 *   63 COPIED  the new cluster is the one a preallocated zero entry has owned
 *              all along
 *   bit 0      the entry was a zero entry
 *
 * So a pending cluster costs no memory and no hash: readers take what it was
 * before, writers find the new cluster, and what goes to the disk is always
 * qcow_entry_settled().  An entry is written under slice.lock only.
 *
 * A compressed entry has no reserved bits: while it is replaced, a bit in
 * slice.busy says so.  Neither has the bitmap of an extended entry; it is
 * changed when the write has ended, together with the entry.
 */
#ifndef QCOW_PENDING_H
#define QCOW_PENDING_H

#include <linux/bits.h>

#include "slice.h"

struct qcow_device;
struct qcow_io;

#define QCOW_PEND		BIT_ULL(1)
#define QCOW_PEND_JOIN		BIT_ULL(2)
#define QCOW_PEND_OLD		BIT_ULL(3)
#define QCOW_PEND_MAX_USERS	2047

static inline bool qcow_entry_pending(u64 e)
{
	return (e & (QCOW2_L2_COMPRESSED | QCOW_PEND)) == QCOW_PEND;
}

static inline u32 qcow_pend_users(u64 e)
{
	return ((e >> 4) & 0x1f) | ((e >> 56) & 0x3f) << 5;
}

static inline u64 qcow_pend_with_users(u64 e, u32 users)
{
	e &= ~(GENMASK_ULL(8, 4) | GENMASK_ULL(61, 56));
	return e | (u64)(users & 0x1f) << 4 | (u64)(users >> 5) << 56;
}

/* What the entry is for readers and on disk: without what is pending. */
static inline u64 qcow_entry_settled(u64 e)
{
	if (likely(!qcow_entry_pending(e)))
		return e;
	if (e & QCOW_PEND_OLD)
		return e & (QCOW2_OFFSET_MASK | QCOW2_ENTRY_COPIED |
			    QCOW2_L2_ZERO);
	if (e & QCOW2_ENTRY_COPIED)
		return (e & QCOW2_OFFSET_MASK) | QCOW2_ENTRY_COPIED |
			QCOW2_L2_ZERO;
	return e & QCOW2_L2_ZERO;
}

/* Is somebody changing the entry? */
static inline bool qcow_entry_busy(struct qcow_slice *s, u32 idx)
{
	u64 e = *qcow_ent(s, idx);

	return qcow_entry_pending(e) ||
		(e & QCOW2_L2_COMPRESSED && test_bit(idx, s->busy));
}

/* A zero entry whose cluster is its own: written without a grant. */
static inline bool qcow_entry_owns_zero(u64 e)
{
	return (e & (QCOW2_L2_COMPRESSED | QCOW2_ENTRY_COPIED |
		     QCOW2_L2_ZERO)) ==
		(QCOW2_ENTRY_COPIED | QCOW2_L2_ZERO) &&
		e & QCOW2_OFFSET_MASK;
}

/* An entry with no cluster: unallocated or plain zero, and not pending. */
static inline bool qcow_entry_empty(u64 e)
{
	return !(e & ~(QCOW2_L2_ZERO | QCOW2_ENTRY_COPIED));
}

/**
 * qcow_pend_begin - mark a run of entries as pending
 * @host: the first entry's new cluster, the others follow it
 * @flags: 0 or QCOW_PEND_JOIN
 * The caller holds s->lock.  The slice is pinned; @io remembers the run.
 */
void qcow_pend_begin(struct qcow_slice *s, u32 idx, u32 nr, u64 host,
		     u64 flags, struct qcow_io *io);
/* One more write to a pending cluster; the caller holds s->lock. */
void qcow_pend_join(struct qcow_slice *s, u32 idx, struct qcow_io *io);

/**
 * qcow_pend_end - a write to pending clusters has ended, from any context
 * On success the clusters are linked; a failed one that nobody else uses goes
 * back to the grants as "not zero".
 */
void qcow_pend_end(struct qcow_device *dev, struct qcow_io *io,
		   blk_status_t status);

/*
 * Sets a settled entry (and bitmap, if entries are extended) that is to reach
 * the disk; the caller holds s->lock.  @data_flush: its data must be durable
 * before.
 */
void qcow_entry_link(struct qcow_slice *s, u32 idx, u64 e, u64 bitmap,
		     bool data_flush);
/*
 * Locks an entry for one who replaces it: readers see it as it is, writers
 * wait.  Pins the slice.  The caller holds s->lock, the entry is not busy.
 */
void qcow_entry_lock(struct qcow_slice *s, u32 idx);
/* As it was before qcow_entry_lock(); the caller holds s->lock. */
void qcow_entry_unlock(struct qcow_slice *s, u32 idx);

/* Unpins, wakes what waits for the slice's pending clusters. */
void qcow_slice_unpin(struct qcow_slice *s);

#endif
