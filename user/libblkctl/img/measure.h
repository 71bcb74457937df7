/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How large a file becomes, before it is made.
 */
#ifndef BLK_IMG_MEASURE_H
#define BLK_IMG_MEASURE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "img/image.h"

/**
 * struct blk_measure - what the size of a qcow2 file depends on
 * @cluster_size: bytes, a power of two
 * @refcount_bits: 1 to 64, a power of two
 * @header_bytes: what lies before everything else beyond the header: a LUKS
 *                header, or 0
 */
struct blk_measure {
	uint64_t cluster_size;
	unsigned int refcount_bits;
	bool extended_l2;
	uint64_t header_bytes;
};

/**
 * blk_measure_qcow2 - bytes of a qcow2 file all of whose clusters are allocated
 * @size: of the disk
 * Snapshots and bitmaps come on top.  Class USAGE for what no image can be.
 */
int blk_measure_qcow2(const struct blk_measure *m, uint64_t size,
		      uint64_t *out, struct blk_error *e);

/*
 * Bytes of those clusters that have data: what is zeroes in @src needs none.
 * @stop: polled, NULL: never; it returns -errno with @e set
 */
int blk_measure_data(struct blk_img *src, uint64_t cluster_size,
		     int (*stop)(struct blk_error *e), uint64_t *out,
		     struct blk_error *e);

/* Bytes of a LUKS1 header with eight slots for a key of @key_bytes */
uint64_t blk_measure_luks(unsigned int key_bytes);

#endif
