/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bitmap directory and bitmap tables.  Pure.
 */
#ifndef BLK_QCOW2_BITMAP_H
#define BLK_QCOW2_BITMAP_H

#include <stddef.h>
#include <stdint.h>

#include <linux/qcow2_disk.h>

#define BLK_BITMAP_FIXED_BYTES	24U
#define BLK_BITMAP_MAX_NAME	1023U
#define BLK_BITMAP_MAX_BYTES	(BLK_BITMAP_FIXED_BYTES + BLK_BITMAP_MAX_NAME + 8)

#define BLK_BITMAP_IN_USE	(1U << 0)
#define BLK_BITMAP_AUTO		(1U << 1)
#define BLK_BITMAP_EXTRA_OK	(1U << 2)

/**
 * struct blk_bitmap - one directory entry; the name points into the directory,
 * unterminated
 * @table_size: entries of 8 bytes, one for each cluster of bitmap data
 * @bytes: from this entry to the next
 */
struct blk_bitmap {
	uint64_t table_offset;
	uint32_t table_size;
	uint32_t flags;
	uint8_t type;
	uint8_t granularity_bits;
	uint16_t name_len;
	const char *name;
	size_t bytes;
};

/**
 * blk_bitmap_parse - one entry
 * @buf, @len: the directory from this entry on, up to its end; BLK_BITMAP_MAX_BYTES
 *             are enough
 * Return: NULL, or a sentence fragment.
 */
const char *blk_bitmap_parse(const void *buf, size_t len,
			     const struct qcow2_header *h,
			     struct blk_bitmap *out);

/**
 * blk_bitmap_table_check - judge an entry of a bitmap table
 * @offset: the data cluster, 0 if there is none
 */
const char *blk_bitmap_table_check(uint64_t entry,
				   const struct qcow2_header *h,
				   uint64_t *offset);

#endif
