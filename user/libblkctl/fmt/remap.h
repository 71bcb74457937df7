/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing what an image that is not attached maps: new clusters, and the
 * entries of the active L2 tables.  The tables and the allocator are this
 * process's alone from open to close.
 *
 * One table at a time is in memory; changes become durable when another one is
 * needed, or by blk_remap_settle(): what was written into clusters first.
 * Locking: the caller's; each call takes the image's lock.
 */
#ifndef BLK_FMT_REMAP_H
#define BLK_FMT_REMAP_H

#include "fmt/qcow2.h"

struct blk_remap;

/* @data: what is flushed before tables change: the image's file, or its data file */
int blk_remap_open(struct blk_qcow2 *q, struct blk_file *data,
		   struct blk_remap **out, struct blk_error *e);
/* Settles, gives the reserve back, also to the host; NULL is fine */
int blk_remap_close(struct blk_remap *r, struct blk_error *e);

/* The entry of the cluster at @guest; the bitmap is 0 without extended L2 */
int blk_remap_get(struct blk_remap *r, uint64_t guest, uint64_t *entry,
		  uint64_t *bitmap, struct blk_error *e);
/* 1: nobody else has its host cluster: data can be written there */
int blk_remap_is_own(struct blk_remap *r, uint64_t entry, struct blk_error *e);
/* A cluster, counted; what is in it is open */
int blk_remap_alloc(struct blk_remap *r, uint64_t *off, struct blk_error *e);
/*
 * Room for @size bytes, at most a cluster, of compressed data, behind what was
 * packed before where that can be; counted once the tables are settled
 */
int blk_remap_pack(struct blk_remap *r, size_t size, uint64_t *off,
		   struct blk_error *e);
/* What the old entry referred to is freed, if the new one has another place. */
int blk_remap_set(struct blk_remap *r, uint64_t guest, uint64_t entry,
		  uint64_t bitmap, struct blk_error *e);
int blk_remap_settle(struct blk_remap *r, struct blk_error *e);

/*
 * For who reads tables beside this: the table of @guest if it is in memory, as
 * it will be; NULL: what is on disk is right.  *@l1: the entry of the L1.
 */
const uint8_t *blk_remap_peek(struct blk_remap *r, uint64_t guest,
			      uint64_t *l1);

#endif
