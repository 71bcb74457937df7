// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes what kernel and daemon share in judging a table: L1 and L2 entries,
 * extended ones, descriptors of compressed clusters; and refcount blocks.
 *
 * The input: cluster bits, version, refcount order, two bytes of the size in
 * clusters, and entries. What passes must lie within the file.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "fmt/qcow2.h"
#include "qcow2/refcount.h"

#define HEAD	6U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_packed(uint64_t e, uint32_t bits, uint64_t bytes)
{
	uint64_t off = qcow2_compressed_offset(e, bits);
	uint64_t len = qcow2_compressed_length(e, bits);

	if (off >= bytes || !len || len > 2ULL << bits || off + len < off)
		abort();
}

static void check_entry(uint64_t e, uint64_t bitmap, uint32_t bits,
			uint64_t bytes, uint32_t version)
{
	uint64_t off = e & QCOW2_OFFSET_MASK;

	if (!qcow2_l1_check(e, bits, bytes) &&
	    (off & ((1ULL << bits) - 1) || (off && off >= bytes)))
		abort();
	if (qcow2_l2_check(e, bits, bytes, version))
		return;
	if (e & QCOW2_L2_COMPRESSED)
		check_packed(e, bits, bytes);
	else if (off & ((1ULL << bits) - 1) || (off && off >= bytes))
		abort();
	if (!qcow2_extl2_check(e, bitmap, !!off) &&
	    !(e & QCOW2_L2_COMPRESSED) && bitmap >> 32 & (uint32_t)bitmap)
		abort();
	(void)qcow2_l2_type(e);
}

/* Runs that are found are what they are said to be. */
static void check_block(uint8_t *block, size_t n, uint32_t order)
{
	uint64_t count = (n << 3) >> order, a, b, i;

	if (!count)
		return;
	a = blk_refcount_find(block, order, 0, count, 0);
	b = blk_refcount_find(block, order, a, count, 1);
	for (i = a; i < b; i++)
		if (blk_refcount_get(block, order, i))
			abort();
	i = blk_refcount_used_end(block, order, count);
	if (i > count || (i && !blk_refcount_get(block, order, i - 1)))
		abort();
	for (i = 0; i < count; i++) {
		uint64_t rc = blk_refcount_get(block, order, i);

		blk_refcount_set(block, order, i, rc);
		if (blk_refcount_get(block, order, i) != rc)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint32_t bits, version, order;
	uint8_t block[512] = { 0 };
	uint64_t bytes;

	if (size < HEAD)
		return 0;
	bits = QCOW2_MIN_CLUSTER_BITS + data[0] %
		(QCOW2_MAX_CLUSTER_BITS - QCOW2_MIN_CLUSTER_BITS + 1);
	version = 2 + (data[1] & 1);
	order = data[2] % 7;
	bytes = (uint64_t)(blk_get_be16(data + 3) + 1) << bits << (data[5] & 15);
	data += HEAD;
	size -= HEAD;
	for (size_t i = 0; i + 16 <= size; i += 8)
		check_entry(blk_get_be64(data + i), blk_get_be64(data + i + 8),
			    bits, bytes, version);
	size = BLK_MIN(size, sizeof(block));
	memcpy(block, data, size);
	check_block(block, sizeof(block), order);
	return 0;
}
