// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Memory for secrets.
 *
 * Owns: one mapping for each allocation, its length in front.
 * Must not: fail because memory cannot be locked (an unprivileged user has a
 * limit): then it is as good as other memory, and wiped all the same.
 * Threads: any.
 */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "base/secret.h"

#define FRONT 64	/* keeps what follows aligned */

void *blk_secret_alloc(size_t len)
{
	size_t *front;

	if (len > SIZE_MAX / 2)
		return NULL;
	len += FRONT;
	front = mmap(NULL, len, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (front == MAP_FAILED)
		return NULL;
	*front = len;
	madvise(front, len, MADV_DONTDUMP);
	/* cast: that it may fail is said above */
	(void)!mlock(front, len);
	return (char *)front + FRONT;
}

void blk_secret_free(void *p)
{
	size_t *front, len;

	if (!p)
		return;
	front = (size_t *)((char *)p - FRONT);
	len = *front;
	explicit_bzero(front, len);
	munmap(front, len);
}

void *blk_secret_dup(const void *p, size_t len)
{
	void *copy = blk_secret_alloc(len);

	if (copy && len)
		memcpy(copy, p, len);
	return copy;
}
