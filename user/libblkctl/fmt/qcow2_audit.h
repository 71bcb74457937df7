/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A check of all of an image, however damaged: what is wrong, where, and how
 * much of it, counted as QEMU counts; and repairs of it.
 */
#ifndef BLK_FMT_QCOW2_AUDIT_H
#define BLK_FMT_QCOW2_AUDIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct blk_file;
struct blk_qcow2;

enum blk_audit_kind {
	BLK_AUDIT_ERROR,	/* it could not be checked */
	BLK_AUDIT_CORRUPTION,
	BLK_AUDIT_LEAK,
};

#define BLK_AUDIT_FINDINGS 1000

/**
 * struct blk_audit_finding - one thing that is wrong
 * @at: offset in the file of what says so, or of what is affected
 * @len: bytes affected, 0: one entry
 * @count: how often it was counted
 */
struct blk_audit_finding {
	enum blk_audit_kind kind;
	uint64_t at;
	uint64_t len;
	uint64_t count;
	char text[160];
};

/**
 * struct blk_audit - the result
 * Numbers that qemu-img check has mean what they mean there.
 * @left_out: findings beyond BLK_AUDIT_FINDINGS, in no list
 * @rebuild: the refcount structures themselves are damaged
 * @entries: table entries that blk_qcow2_audit_fix() can repair
 * @memory: bytes that counting took
 * @threads: that read tables
 */
struct blk_audit {
	uint64_t errors;
	uint64_t corruptions;
	uint64_t leaks;
	uint64_t total_clusters;
	uint64_t allocated_clusters;
	uint64_t fragmented_clusters;
	uint64_t compressed_clusters;
	uint64_t image_end;
	struct blk_audit_finding *finding;
	size_t n_findings;
	uint64_t left_out;
	bool rebuild;
	uint64_t entries;
	uint64_t memory;
	unsigned int threads;
};

/**
 * struct blk_audit_watch - who waits for it; all may be NULL
 * @tables: called once, with the L2 tables that there are
 * @done: called by any thread, for each of them
 * @stop: polled by any thread: true ends the check
 */
struct blk_audit_watch {
	void (*tables)(void *opaque, uint64_t n);
	void (*done)(void *opaque);
	bool (*stop)(void *opaque);
	void *opaque;
};

/* As blk_qcow2_open(), also where tables are outside the file. */
int blk_qcow2_open_damaged(struct blk_file *file, struct blk_qcow2 **out,
			   struct blk_error *e);

/**
 * blk_qcow2_audit - check everything; nothing is written
 * @threads: 0: as many as make sense
 * Return: 0 with @out, however damaged the image is; -ECANCELED; or an error
 * that made the check impossible, with nothing in @out.
 */
int blk_qcow2_audit(struct blk_qcow2 *q, unsigned int threads,
		    const struct blk_audit_watch *watch, struct blk_audit *out,
		    struct blk_error *e);
void blk_audit_clear(struct blk_audit *a);

/**
 * blk_qcow2_audit_fix - repair what an audit has found
 * @found: by blk_qcow2_audit() of this image, which has not changed since
 * @all: corruptions too, else only refcounts that are too high
 *
 * Nothing that a table refers to is given up: an image whose tables contradict
 * each other is refused, -EUCLEAN, before the refcounts are touched.
 * A crash leaves an image with no more damage; while refcounts and COPIED bits
 * change, it is marked as dirty where the format can say so.
 */
int blk_qcow2_audit_fix(struct blk_qcow2 *q, const struct blk_audit *found,
			bool all, struct blk_error *e);
/* An audit found it to be clean: takes the dirty and the corrupt bit away. */
int blk_qcow2_audit_clean(struct blk_qcow2 *q, struct blk_error *e);

#endif
