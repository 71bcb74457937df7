// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Searching refcount blocks.  Pure: no I/O, no memory, no state, no locking.
 */
#include "qcow2/refcount.h"

/* Entries in the 8 bytes that begin at entry @i, if all are equal to @word. */
static uint64_t skip_word(const uint8_t *block, uint32_t order, uint64_t i,
			  uint64_t end, uint64_t word)
{
	uint64_t n = 64U >> order;
	uint64_t v;

	if (i & (n - 1) || end - i < n)
		return 0;
	memcpy(&v, block + (i << order) / 8, sizeof(v));
	return v == word ? n : 0;
}

uint64_t blk_refcount_find(const void *block, uint32_t order, uint64_t from,
			   uint64_t end, int used)
{
	uint64_t i = from;

	while (i < end) {
		/* all bits set: no entry of any width is 0 */
		uint64_t n = skip_word(block, order, i, end,
				       used ? 0 : UINT64_MAX);

		if (n) {
			i += n;
			continue;
		}
		if (!blk_refcount_get(block, order, i) == !used)
			return i;
		i++;
	}
	return end;
}

uint64_t blk_refcount_used_end(const void *block, uint32_t order, uint64_t end)
{
	uint64_t per_word = 64U >> order;

	while (end) {
		if (!(end & (per_word - 1)) &&
		    skip_word(block, order, end - per_word, end, 0))
			end -= per_word;
		else if (blk_refcount_get(block, order, end - 1))
			break;
		else
			end--;
	}
	return end;
}
