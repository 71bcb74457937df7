/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refcount blocks: arrays of numbers of 1 to 64 bits.  Pure.  @order is the
 * header's refcount_order, 0..6; an index must be inside the block.
 */
#ifndef BLK_QCOW2_REFCOUNT_H
#define BLK_QCOW2_REFCOUNT_H

#include <stdint.h>

#include "base/be.h"

/* The largest refcount of that width; QEMU keeps 64-bit ones below 2^63. */
static inline uint64_t blk_refcount_max(uint32_t order)
{
	return order == 6 ? INT64_MAX : (1ULL << (1U << order)) - 1;
}

/* log2 of the entries in a block */
static inline uint32_t blk_refcount_block_bits(uint32_t cluster_bits,
					       uint32_t order)
{
	return cluster_bits + 3 - order;
}

static inline uint64_t blk_refcount_get(const void *block, uint32_t order,
					uint64_t i)
{
	const uint8_t *p = block;

	switch (order) {
	case 3:
		return p[i];
	case 4:
		return blk_get_be16(p + i * 2);
	case 5:
		return blk_get_be32(p + i * 4);
	case 6:
		return blk_get_be64(p + i * 8);
	default:	/* 1, 2 or 4 bits, from the least significant one */
		return p[i >> (3 - order)] >>
			((i << order) & 7) & ((1U << (1U << order)) - 1);
	}
}

static inline void blk_refcount_set(void *block, uint32_t order, uint64_t i,
				    uint64_t v)
{
	uint8_t *p = block;
	uint32_t shift, mask;

	switch (order) {
	case 3:
		p[i] = (uint8_t)v;
		break;
	case 4:
		blk_put_be16(p + i * 2, (uint16_t)v);
		break;
	case 5:
		blk_put_be32(p + i * 4, (uint32_t)v);
		break;
	case 6:
		blk_put_be64(p + i * 8, v);
		break;
	default:
		shift = (i << order) & 7;
		mask = ((1U << (1U << order)) - 1) << shift;
		p += i >> (3 - order);
		*p = (uint8_t)((*p & ~mask) | (((uint32_t)v << shift) & mask));
	}
}

/*
 * The first index in [from, end) whose refcount is 0 (@used false) or not 0;
 * @end if there is none.
 */
uint64_t blk_refcount_find(const void *block, uint32_t order, uint64_t from,
			   uint64_t end, int used);

/* One more than the last index below @end whose refcount is not 0, or 0 */
uint64_t blk_refcount_used_end(const void *block, uint32_t order,
			       uint64_t end);

#endif
