/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who waits for a compressed cluster: bios, and callers that sleep.
 */
#ifndef QCOW_WAITERS_H
#define QCOW_WAITERS_H

#include <linux/bio.h>
#include <linux/completion.h>
#include <linux/list.h>
#include <linux/types.h>

/* Bios have the cluster's key in qcow_io.host and their start in .nr. */
struct qcow_waiters {
	struct bio_list bios;
	struct list_head sleepers;
};

/**
 * struct qcow_sleeper - somebody who sleeps, on their stack
 * @node: qcow_waiters.sleepers
 * @key: which cluster
 * @buf: gets bytes [@in, @in + @len) of it
 * @in: see @buf
 * @len: see @buf
 * @error: 0 or -errno, when it is @done
 * @done: completed at the end
 */
struct qcow_sleeper {
	struct list_head node;
	u64 key;
	void *buf;
	u32 in;
	u32 len;
	int error;
	struct completion done;
};

void qcow_waiters_init(struct qcow_waiters *w);
/* Exactly one of the two is not NULL. */
void qcow_waiters_add(struct qcow_waiters *w, struct bio *bio,
		      struct qcow_sleeper *s);
/* All of them, in front of those who wait at @to already. */
void qcow_waiters_move(struct qcow_waiters *from, struct qcow_waiters *to);

/* The only one who waits, if that is a bio; NULL: others do. */
struct bio *qcow_waiters_only_bio(const struct qcow_waiters *w);

/* Fills a bio, and counts it. */
void qcow_bio_fill(struct bio *bio, const void *data);
/* Gives all of them their part of the cluster @data, or the error. */
void qcow_waiters_fill(struct qcow_waiters *w, const void *data, int error);
/* Ends them all.  Afterwards nobody may hold the image any more. */
void qcow_waiters_end(struct qcow_waiters *w);

#endif
