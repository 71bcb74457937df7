/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What kernel/dm-qcow/table.c uses of the kernel, for tests/fuzz/table.c.
 */
#ifndef SHIM_SLAB_H
#define SHIM_SLAB_H

#include <stdlib.h>

#define GFP_KERNEL 0

static inline void *kcalloc(size_t n, size_t size, int flags)
{
	return calloc(n, size);
}

#endif
