/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A picture of a disk: a grid of cells, each for as many bytes as the others.
 */
#ifndef BLKCTL_IMAGE_HEAT_H
#define BLKCTL_IMAGE_HEAT_H

#include <stdint.h>

#include "base/error.h"

enum heat_kind {
	HEAT_HOLE,
	HEAT_ZERO,
	HEAT_COMPRESSED,
	HEAT_DATA,
	HEAT_SHARED,	/* data that internal snapshots have too */
	HEAT_KINDS
};

struct heat;

/* Of [off, off + len), in a chain of @images; NULL: no memory */
struct heat *heat_new(uint64_t off, uint64_t len, unsigned int images);
void heat_free(struct heat *h);		/* NULL is fine */
/* Within the range, each byte once; @depth: 0: of the image itself */
void heat_add(struct heat *h, uint64_t off, uint64_t len, enum heat_kind kind,
	      unsigned int depth);

/* In letters, with a legend, to stdout */
void heat_print(const struct heat *h);
/* Can a picture have that name?  Class USAGE */
int heat_check(const char *path, struct blk_error *e);
/* Into a file, by the end of its name */
int heat_write(const struct heat *h, const char *path, struct blk_error *e);

#endif
