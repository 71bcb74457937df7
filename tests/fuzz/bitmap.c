// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes the bitmap directory, and bitmap table entries.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/be.h"
#include "qcow2/bitmap.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_header h = {
		.version = 3, .cluster_bits = 16, .size = 48ULL << 20,
	};
	uint64_t use = 0;
	struct blk_bitmap b;
	uint64_t off;

	for (size_t i = 0; i + 8 <= size && i < 256; i += 8)
		if (!blk_bitmap_table_check(blk_get_be64(data + i), &h, &off) &&
		    off & 0xffff)
			abort();
	while (!blk_bitmap_parse(data, size, &h, &b)) {
		for (unsigned int i = 0; i < b.name_len; i++)
			use += (uint8_t)b.name[i];
		if (b.bytes > size || b.bytes & 7)
			abort();
		data += b.bytes;
		size -= b.bytes;
	}
	/* the sum is used, so that the bytes are read */
	__asm__ volatile("" : : "r"(use));
	return 0;
}
