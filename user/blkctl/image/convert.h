/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of "convert" share.
 */
#ifndef BLKCTL_IMAGE_CONVERT_H
#define BLKCTL_IMAGE_CONVERT_H

#include "fmt/qcow2.h"
#include "image/image.h"

/*
 * convert_bitmaps.c: can all bitmaps of @source be copied?  Before the target is
 * made.  @skip: those that are inconsistent are left out, with a warning.
 */
int convert_bitmaps_check(const struct image_run *r, struct blk_img *source,
			  bool skip, struct blk_error *e);
/* Copies them; @target is complete and nothing of it is in memory. */
int convert_bitmaps(struct blk_img *source, struct blk_img *target,
		    struct blk_error *e);

#endif
