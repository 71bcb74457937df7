/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bits of a persistent bitmap in memory: fmt/qcow2_bitmap_bits.c, for those
 * that change bitmaps.
 */
#ifndef BLK_FMT_QCOW2_BITMAP_INT_H
#define BLK_FMT_QCOW2_BITMAP_INT_H

#include "fmt/qcow2_int.h"
#include "qcow2/bitmap.h"

/**
 * struct blk_bm - one bitmap
 * @name: @name_len bytes, malloc'ed
 * @flags: BLK_BITMAP_*
 * @table: offset of its table on disk; 0: it is new
 * @n: entries of the table, clusters of bits
 * @old: the table on disk, host order; NULL: not loaded, and nothing changes
 * @entry: the same, as it shall be where there is no @data
 * @data: by cluster: bits in memory, or NULL
 */
struct blk_bm {
	char *name;
	uint16_t name_len;
	uint8_t granularity_bits;
	uint32_t flags;
	uint64_t table;
	uint64_t n;
	uint64_t *old;
	uint64_t *entry;
	uint8_t **data;
};

/* Clusters of bits that a bitmap of the image's disk has */
uint64_t blk_bm_clusters(const struct blk_qcow2 *q, uint8_t granularity_bits);
/* From its directory entry, without the table.  -ENOMEM */
int blk_bm_init(struct blk_bm *b, const struct blk_bitmap *from);
void blk_bm_free(struct blk_bm *b);
/* Loads and checks its table, if that was not done. */
int blk_bm_load(struct blk_qcow2 *q, struct blk_bm *b, struct blk_error *e);
/* No bit is set any more; it is loaded. */
void blk_bm_clear(struct blk_bm *b);
/*
 * Sets in @to what is set in @from, of an image @fq whose disk has the same
 * size.  Both are loaded; granularities may differ.
 */
int blk_bm_merge(struct blk_qcow2 *q, struct blk_bm *to, struct blk_qcow2 *fq,
		 const struct blk_bm *from, struct blk_error *e);
/* Sets what stands for bytes of the disk, @len of them, within its end. */
int blk_bm_record(struct blk_qcow2 *q, struct blk_bm *b, uint64_t off,
		  uint64_t len);
/* Is nothing set in a cluster of bits? */
bool blk_bm_is_zero(const uint8_t *data, uint64_t len);

#endif
