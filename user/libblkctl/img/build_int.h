/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What build.c and build_counts.c share.
 */
#ifndef BLK_IMG_BUILD_INT_H
#define BLK_IMG_BUILD_INT_H

#include "img/build.h"
#include "img/img_int.h"

/**
 * struct blk_build - a fresh image that is being filled
 * @lock: protects what is behind it
 * @table: L2 tables by L1 index, as on disk; NULL: nothing there yet
 * @count: of each cluster of the file below @end, @room allocated
 * @end: the first cluster that was never given out
 * @pack_at, @pack_end: where compressed data can go, bytes; equal: nowhere
 * @block: offsets of refcount blocks, @n_blocks; 0: none yet
 * @table_at, @table_bytes: the refcount table
 */
struct blk_build {
	struct blk_img *m;
	pthread_mutex_t lock;
	uint64_t **table;
	uint16_t *count;
	uint64_t room;
	uint64_t end;
	uint64_t pack_at;
	uint64_t pack_end;
	uint64_t *block;
	uint64_t n_blocks;
	uint64_t table_at;
	uint64_t table_bytes;
};

/* build_counts.c; all under the lock, or alone */
int img_counts_load(struct blk_build *b, struct blk_error *e);
/* @n new clusters; their offset */
int img_counts_new(struct blk_build *b, uint64_t n, uint64_t *at,
		   struct blk_error *e);
/* One more reference; false: the format cannot count that far */
bool img_counts_more(struct blk_build *b, uint64_t cluster);
/* Refcount blocks and table; nothing is given out any more */
int img_counts_store(struct blk_build *b, struct blk_error *e);

#endif
