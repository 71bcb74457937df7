/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Memory for keys and passphrases: locked where that is permitted, not in core
 * dumps, wiped when it is freed.
 */
#ifndef BLK_BASE_SECRET_H
#define BLK_BASE_SECRET_H

#include <stddef.h>

/* Zeroed; NULL when there is none.  Whole pages: for few and small things. */
void *blk_secret_alloc(size_t len);
void blk_secret_free(void *p);		/* NULL is fine */
void *blk_secret_dup(const void *p, size_t len);

#endif
