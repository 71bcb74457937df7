// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes the snapshot table.  The first byte says which version it is of.
 */
#include <stdint.h>
#include <stdlib.h>

#include "qcow2/snapshot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t sum(const char *p, size_t n)
{
	uint64_t s = 0;

	while (n--)
		s += (uint8_t)*p++;
	return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_header h = { .cluster_bits = 16 };
	uint64_t use = 0;
	struct blk_snap s;

	if (!size)
		return 0;
	h.version = 2 + (*data & 1);
	data++;
	size--;
	while (!blk_snap_parse(data, size, &h, &s)) {
		use += sum(s.id, s.id_len) + sum(s.name, s.name_len);
		if (s.bytes < BLK_SNAP_FIXED_BYTES || s.bytes & 7)
			abort();
		if (s.bytes >= size)
			break;
		data += s.bytes;
		size -= s.bytes;
	}
	/* the sum is used, so that the bytes are read */
	__asm__ volatile("" : : "r"(use));
	return 0;
}
