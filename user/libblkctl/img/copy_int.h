/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The sources of a copy, as one disk: img/copy_source.c, for img/copy.c.
 */
#ifndef BLK_IMG_COPY_INT_H
#define BLK_IMG_COPY_INT_H

#include "img/copy.h"

/* The extent at @off, at most @len bytes; behind all sources a hole */
int copy_look(const struct blk_copy *c, uint64_t off, uint64_t len,
	      struct blk_extent *x, struct blk_error *e);
/* Behind all sources zeroes; so is what cannot be read, with c->bad */
int copy_read(const struct blk_copy *c, uint8_t *buf, uint64_t off,
	      uint64_t len, struct blk_error *e);

/* Are all of these bytes in files as they are on the disk? */
bool copy_is_plain(const struct blk_copy *c, uint64_t off, uint64_t len);
/*
 * Has the host copy bytes that are plain to @to of @f.  False: it cannot, and
 * any part may have been copied.
 */
bool copy_by_host(const struct blk_copy *c, uint64_t off, uint64_t len,
		  struct blk_file *f, uint64_t to);

#endif
