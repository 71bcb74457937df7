/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which host clusters are spoken for, on a writable image: sparse bitmaps with
 * a bit per host cluster.  They are what keeps the guest's data out of
 * metadata, and metadata out of the guest's data, over time.
 */
#ifndef QCOW_CLAIM_H
#define QCOW_CLAIM_H

#include <linux/mutex.h>
#include <linux/xarray.h>

enum qcow_claim {
	QCOW_CLAIM_DAEMON,	/* metadata that the daemon owns */
	QCOW_CLAIM_ANEW,	/* the same, while it is claimed anew */
	QCOW_CLAIM_KERNEL,	/* header, active L1 and L2 tables */
	QCOW_CLAIM_DATA,	/* grants, and clusters of loaded entries */
	QCOW_CLAIM_SEEN,	/* by slice number: its entries have claimed */
	QCOW_CLAIM_KINDS
};

/* The page that was looked at last, NULL: there is none; U64_MAX: forgotten */
struct qcow_claim_last {
	u64 index;
	unsigned long *page;
};

/*
 * @lock guards all and is the outermost lock but for image.lock.  @nr_pages is
 * bounded: an image from an enemy may name clusters all over a sparse file.  So
 * is @nr_anew, of QCOW_CLAIM_ANEW alone: what it replaces makes room for it.
 * @anew: between qcow_claims_begin_anew() and _end_anew().
 * @last: for each kind; all entries of a slice ask for the same few pages.
 */
struct qcow_claims {
	struct mutex lock;
	unsigned int nr_pages;
	unsigned int nr_anew;
	bool anew;
	struct xarray *pages[QCOW_CLAIM_KINDS];
	struct xarray store[QCOW_CLAIM_KINDS];
	struct qcow_claim_last last[QCOW_CLAIM_KINDS];
};

void qcow_claims_init(struct qcow_claims *c);
void qcow_claims_reset(struct qcow_claims *c, enum qcow_claim kind);
void qcow_claims_exit(struct qcow_claims *c);

/* All of these: the caller holds @lock. */

/*
 * What the daemon claims between these replaces all that it has claimed
 * before.  Meanwhile either keeps data out.
 */
void qcow_claims_begin_anew(struct qcow_claims *c);
void qcow_claims_end_anew(struct qcow_claims *c);
/* Something can't be claimed: what was claimed before stands. */
void qcow_claims_abort_anew(struct qcow_claims *c);
bool qcow_claim_test(struct qcow_claims *c, enum qcow_claim kind, u64 nr);
/* 1 if it was set, 0 if it is now, -ENOMEM, -EFBIG: too many pages */
int qcow_claim_set(struct qcow_claims *c, enum qcow_claim kind, u64 nr);
void qcow_claim_clear(struct qcow_claims *c, enum qcow_claim kind, u64 nr);

/* Is the host cluster claimed by metadata of either side? */
static inline bool qcow_claim_is_metadata(struct qcow_claims *c, u64 nr)
{
	return qcow_claim_test(c, QCOW_CLAIM_KERNEL, nr) ||
		qcow_claim_test(c, QCOW_CLAIM_DAEMON, nr) ||
		qcow_claim_test(c, QCOW_CLAIM_ANEW, nr);
}

/**
 * qcow_claim_range - claim clusters [first, first + nr), all or none
 * Return: 0; -EUCLEAN: one of them is claimed already, but for what is about to
 * be replaced (@kind QCOW_CLAIM_ANEW); -ENOMEM, -EFBIG.
 */
int qcow_claim_range(struct qcow_claims *c, enum qcow_claim kind, u64 first,
		     u64 nr);
void qcow_unclaim_range(struct qcow_claims *c, enum qcow_claim kind, u64 first,
			u64 nr);

#endif
