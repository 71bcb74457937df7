/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Write-back of the mapping: refcount (the daemon's, before), data, L2, L1.
 */
#ifndef QCOW_COMMIT_H
#define QCOW_COMMIT_H

#include <linux/bio.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

struct qcow_device;
struct qcow_image;
struct qcow_slice;

#define QCOW_COMMIT_BATCH	256	/* slices copied at once */

/**
 * struct qcow_table - an L2 table that no L1 entry on disk names yet
 * @l1: its index in the L1 table
 * @entry: the L1 entry it will get
 * @old: the one that is on disk until then
 * @zeroed: its cluster reads as zeroes on the device
 * @copied: its cluster has the content of the table that it replaces
 * @frozen: part of the commit that runs
 */
struct qcow_table {
	struct rcu_head rcu;
	u32 l1;
	u64 entry;
	u64 old;
	bool zeroed;
	bool copied;
	bool frozen;
};

/* In qcow_freed.flags: others may use it too, so it was never claimed. */
#define QCOW_FREED_SHARED	(1U << 31)

/* An old cluster that a write has replaced: freed when that is durable. */
struct qcow_freed {
	struct list_head node;
	u64 offset;
	u64 length;
	u32 flags;		/* DM_QCOW_RUN_*, QCOW_FREED_SHARED */
};

/* Fills in what an entry owned.  False: nothing. */
bool qcow_freed_set(const struct qcow_image *img, struct qcow_freed *f, u64 e);

/**
 * struct qcow_commit - the commit state of a writable image
 * @lock: irq-safe; inside slice.lock; guards all up to @barrier
 * @dirty: slices with changes that no commit has copied
 * @waiters: flush and FUA bios that wait for the next commit
 * @freed: replaced clusters, to be handed on by the next commit
 * @requested, @done: tickets of qcow_commit_start()
 * @barrier: the next commit first waits for the I/O in flight
 * @unclean: > 0 while anything is not durable, or a commit runs
 * @nr_dirty: slices on @dirty
 * @tables: new L2 tables by L1 index; the worker adds, the commit removes
 * @bounce: QCOW_COMMIT_BATCH pages
 */
struct qcow_commit {
	spinlock_t lock;
	struct list_head dirty;
	struct bio_list waiters;
	struct list_head freed;
	u64 requested;
	u64 done;
	bool barrier;
	atomic_t unclean;
	atomic_t nr_dirty;
	struct xarray tables;
	wait_queue_head_t wait;
	struct work_struct work;
	struct delayed_work timer;
	struct page *bounce[QCOW_COMMIT_BATCH];
};

void qcow_commit_init(struct qcow_image *img);
/* Before the first writable resume: the bounce pages.  0 or -ENOMEM */
int qcow_commit_prepare(struct qcow_image *img);
void qcow_commit_exit(struct qcow_image *img);

/* Is there anything that a flush must write first?  Any context. */
static inline bool qcow_commit_needed(struct qcow_commit *c)
{
	return atomic_read(&c->unclean);
}

/* A slice gets its first change; the caller holds its lock.  Any context. */
void qcow_commit_dirty(struct qcow_slice *s);
/* Hands over a flush or FUA bio; it ends when the next commit has.  Any context. */
void qcow_commit_bio(struct qcow_image *img, struct bio *bio);
/* A cluster was replaced; @f belongs to the commit now.  Any context. */
void qcow_commit_freed(struct qcow_image *img, struct qcow_freed *f);

/**
 * qcow_commit_start - ask for a commit
 * @barrier: it shall cover all writes that have begun, not only ended ones
 * Return: a ticket for qcow_commit_is_done().
 */
u64 qcow_commit_start(struct qcow_image *img, bool barrier);
bool qcow_commit_is_done(struct qcow_image *img, u64 ticket);
/*
 * New I/O has been stopped: writes everything that can be written and waits;
 * no commit runs or is due afterwards.  May sleep.
 */
void qcow_commit_quiesce(struct qcow_image *img);

/* What the cluster of a new L2 table has on the device. */
enum qcow_table_content {
	QCOW_TABLE_JUNK,
	QCOW_TABLE_ZEROES,
	QCOW_TABLE_COPY,	/* of the table that it replaces */
};

/**
 * qcow_commit_new_table - an L2 table was given a cluster (by a worker)
 * The L1 entry is published in memory; the commit writes table, then entry.
 * Return: 0 or -ENOMEM.
 */
int qcow_commit_new_table(struct qcow_image *img, u32 l1, u64 host,
			  enum qcow_table_content content);
/* Has the table of this L1 entry no content on disk yet? */
bool qcow_commit_table_is_fresh(struct qcow_image *img, u32 l1);

#endif
