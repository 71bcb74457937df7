/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Host clusters whose refcounts the daemon has made durable: what writes
 * take without asking.
 */
#ifndef QCOW_GRANT_H
#define QCOW_GRANT_H

#include <linux/list.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>

#include <linux/dm_qcow.h>

struct qcow_claims;
struct qcow_device;

/* A run of granted clusters. */
struct qcow_run {
	struct list_head node;
	u64 host;		/* bytes */
	u64 nr;			/* clusters */
};

/* A CPU's share; [1] reads as zeroes, [0] does not. */
struct qcow_cursor {
	spinlock_t lock;
	struct {
		u64 host;
		u32 nr;
	} run[2];
};

#define QCOW_GRANT_SPARE 64

/**
 * struct qcow_grants - the grants of one device
 * @lock: irq-safe; guards @runs, @spare, @nr_spare; taken after cursor.lock
 * @runs: [1] reads as zeroes, [0] does not
 * @left: clusters in @runs and in all cursors
 * @zeroed: those of them that read as zeroes
 * @low: ring the daemon when @left falls below; reset by each grant
 * @zeroed_low: the same for @zeroed
 * @consumed: clusters taken since the device was made
 * @spare: records for clusters that come back in end_io, where nothing can
 *         be allocated
 * @leaked: a cluster came back and there was no record for it
 * @closed: the daemon takes stock: what comes back is not taken again before it
 *          has said that it is done (docs/design.md, rule 34)
 * @closed_until: jiffies: so long writes wait for that at least
 */
struct qcow_grants {
	spinlock_t lock;
	struct list_head runs[2];
	atomic64_t left;
	atomic64_t zeroed;
	atomic64_t consumed;
	u64 low;
	u64 zeroed_low;
	struct qcow_cursor __percpu *cursors;
	struct qcow_run *spare[QCOW_GRANT_SPARE];
	u32 nr_spare;
	bool leaked;
	bool closed;
	unsigned long closed_until;
};

/* Are there clusters that may be taken? */
static inline bool qcow_grants_any(const struct qcow_grants *g)
{
	return atomic64_read(&g->left) && !READ_ONCE(g->closed);
}

/* Jiffies for which writes wait at least, since the daemon takes stock; or 0. */
unsigned long qcow_grants_patience(const struct qcow_grants *g);

int qcow_grants_init(struct qcow_grants *g);
void qcow_grants_exit(struct qcow_grants *g);

/**
 * qcow_grant_take - take up to @want contiguous clusters, any context
 * @zeroed: in: true: only clusters that read as zeroes; out: whether they do
 * @all: look into other CPUs' shares too (workers, before they give up)
 * @host: offset of the first cluster
 * Return: clusters taken, 0: none.
 */
u32 qcow_grant_take(struct qcow_device *dev, u32 want, bool *zeroed, bool all,
		    u64 *host);

/* Gives clusters back whose content is unknown, to who waits; any context. */
void qcow_grant_put(struct qcow_device *dev, u64 host, u32 nr);

/**
 * qcow_grants_add - a grant from the daemon; checked and claimed by the caller
 * Return: 0 or -ENOMEM (nothing was added).
 */
int qcow_grants_add(struct qcow_device *dev, const struct dm_qcow_run *runs,
		    unsigned int n);
/*
 * Removes up to @max runs from the grants, for the daemon; clears claims. Closes
 * them until qcow_grants_open().
 */
unsigned int qcow_grants_remove(struct qcow_device *dev,
				struct dm_qcow_run *runs, unsigned int max);
/* Any message that grants opens them.  Return: they were closed. */
bool qcow_grants_open(struct qcow_grants *g);
/*
 * Claims every cluster that is granted, after the claims were reset; their
 * lock is held and no I/O is in flight.
 */
int qcow_grants_claim(struct qcow_device *dev, struct qcow_claims *c);

#endif
