/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing many references at once: new refcounts beside the old ones, and one
 * sector of the header that makes them the image's, together with its tables.
 */
#ifndef BLK_FMT_QCOW2_SHADOW_INT_H
#define BLK_FMT_QCOW2_SHADOW_INT_H

#include "fmt/qcow2_int.h"

struct blk_shadow_slot {
	uint64_t idx;
	uint64_t used;
	bool dirty;
	uint8_t *buf;
};

/**
 * struct blk_shadow - a change that is being prepared
 * @h: the header that will be
 * @area, @area_n: clusters in one piece, for the caller's tables
 * @rt, @rt_off: the refcount table that will be, and where
 * @where: by block: 1 + its slot, 0: it is not in memory
 * @gone: by block: the old one is not counted any more
 * @got, @n_got: everything that was allocated, refcount 1 in old and new blocks
 * @pool, @pool_at: of @got, runs from @pool on and clusters from @pool_at of
 *                  that one are still to be had
 * @freed, @n_freed: clusters whose refcount has become 0
 * @published: the header may have been written
 */
struct blk_shadow {
	struct blk_qcow2 *q;
	struct qcow2_header h;
	uint64_t area;
	uint64_t area_n;
	uint64_t *rt;
	uint64_t rt_off;
	uint16_t *where;
	uint8_t *gone;
	struct blk_shadow_slot *slot;
	struct blk_shadow_slot *last;
	size_t n_slots;
	uint8_t *mem;
	uint64_t clock;
	struct dm_qcow_run *got;
	size_t n_got, got_room;
	size_t pool;
	uint64_t pool_at;
	struct dm_qcow_run *freed;
	size_t n_freed, freed_room;
	bool published;
};

/**
 * blk_shadow_begin - allocate everything that the change will need
 * @tables: clusters in one piece for tables (@area)
 * @clusters: single clusters that may be taken with blk_shadow_take(); those
 *            for new refcount blocks are added
 * The image is prepared (blk_alloc_prepare).  All return -errno.
 */
int blk_shadow_begin(struct blk_shadow *s, struct blk_qcow2 *q,
		     uint64_t tables, uint64_t clusters);
/* A cluster, refcount 1; -EUCLEAN: more than were asked for */
int blk_shadow_take(struct blk_shadow *s, uint64_t *off);
/*
 * Adds 1 or -1 to the refcounts of @n clusters.  -EUCLEAN: one is 0; -EOVERFLOW:
 * one cannot become larger.
 */
int blk_shadow_add(struct blk_shadow *s, uint64_t cluster, uint64_t n, int by);
/* All clusters of a table of @bytes at @off lose a reference. */
int blk_shadow_drop(struct blk_shadow *s, uint64_t off, uint64_t bytes);
int blk_shadow_get(struct blk_shadow *s, uint64_t cluster, uint64_t *rc);
/* Makes it all durable: the header as in @h last. */
int blk_shadow_publish(struct blk_shadow *s);
/*
 * Ends it: after a failure what was allocated is given back, else what was not
 * used, and the freed space.  The image is prepared anew.
 */
void blk_shadow_end(struct blk_shadow *s);

#endif
