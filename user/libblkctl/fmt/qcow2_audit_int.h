/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Inside the check of damaged images: fmt/qcow2_audit*.c.
 */
#ifndef BLK_FMT_QCOW2_AUDIT_INT_H
#define BLK_FMT_QCOW2_AUDIT_INT_H

#include <stdatomic.h>

#include "fmt/qcow2_audit.h"
#include "fmt/qcow2_check_int.h"

/**
 * struct audit_table - an L2 table, named by any number of L1 entries
 * @active: how many of the active L1
 * @all: ... of all of them
 */
struct audit_table {
	uint64_t off;
	uint32_t active;
	uint32_t all;
};

/* What a thread, or a step, has counted */
struct audit_sums {
	uint64_t errors, corruptions, leaks;
	uint64_t allocated, fragmented, compressed, entries;
};

/**
 * struct audit - a check under way
 * @refs: references by cluster
 * @single: a bit for each cluster whose refcount on disk is 1
 * @sure: nothing is wrong with the places of the refcount blocks, so that
 *        @single is all that there is to know
 * @file_len: bytes
 * @clusters: in the file, rounded up
 * @limit: clusters that are counted
 * @table: L2 tables, sorted, each one once after sorting
 * @next: the first table that no thread has taken
 * @lock: of @out and its findings
 */
struct audit {
	struct blk_qcow2 *q;
	struct blk_error *e;
	const struct blk_audit_watch *watch;
	struct blk_audit *out;
	struct blk_refs refs;
	uint64_t *single;
	bool sure;
	int64_t file_len;
	uint64_t clusters;
	uint64_t limit;
	struct audit_table *table;
	size_t n_tables, room;
	uint64_t thread_bytes;	/* that threads counted in */
	atomic_size_t next;
	atomic_int failed;
	pthread_mutex_t lock;
};

/* qcow2_audit.c: one finding, @by times; may be called by any thread */
void audit_say(struct audit *a, enum blk_audit_kind kind, uint64_t by,
	       uint64_t at, uint64_t len, const char *fmt, ...)
	__attribute__((format(printf, 6, 7)));
/* References to bytes, into @refs; 0, or -errno that ends the check */
int audit_count(struct audit *a, struct blk_refs *refs, uint64_t off,
		uint64_t len, uint64_t by, uint64_t at);
bool audit_stopped(struct audit *a);
/* Is the refcount 1 on disk?  -1: nobody can say */
int audit_single(const struct audit *a, uint64_t cluster);

/* qcow2_audit_tables.c */
int audit_l1(struct audit *a, uint64_t off, uint32_t n, bool active);
void audit_sort_tables(struct audit *a);
/* How many tables a thread takes at once */
size_t audit_batch(const struct blk_qcow2 *q);
/* Reads all tables, by several threads. */
int audit_tables(struct audit *a, unsigned int threads);

/**
 * struct audit_reader - a thread that reads tables
 * @refs: what it counts in
 * @t: the table
 * @expect: where the next cluster is if the file is not fragmented
 */
struct audit_reader {
	struct audit *a;
	struct blk_refs *refs;
	struct blk_refs own;
	const struct audit_table *t;
	struct audit_sums s;
	uint8_t *buf;
	uint64_t expect;
	int ret;
};

/* qcow2_audit_plain.c */
/*
 * Counts the entries of the table at @buf from byte @i on, until there is one
 * that has to be looked at closely; its place, or the table's end.  Failures
 * are in r->ret.
 */
uint64_t audit_plain(struct audit_reader *r, const uint8_t *buf, uint64_t i);

/* qcow2_audit_refcounts.c */
int audit_load_single(struct audit *a);
int audit_blocks(struct audit *a);
int audit_compare(struct audit *a);

/* qcow2_audit_entry.c */
/*
 * What an L2 entry should be, if what is wrong with it can be said without
 * loss: reserved bits, a place that a cluster of zeroes does not need.
 */
uint64_t audit_right_entry(const struct blk_qcow2 *q, uint64_t entry);
uint64_t audit_right_l1(uint64_t entry);

/* All of the check, but for what is said of memory; free with audit_free() */
int audit_run(struct audit *a, unsigned int threads);
void audit_free(struct audit *a);

/* qcow2_audit_rebuild.c */
/*
 * New refcount table and blocks behind everything else, and one write that puts
 * them in force.  -EUCLEAN: the rest of the image is not sound.
 */
int audit_rebuild(struct blk_qcow2 *q, struct blk_error *e);

#endif
