// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image: the table of its verbs.  A new one is a file NAME.c here and one
 * row.
 */
#include "image/image.h"

static const struct verb *const subs[] = {
	&verb_image_amend,
	&verb_image_bench,
	&verb_image_bitmap,
	&verb_image_check,
	&verb_image_commit,
	&verb_image_compact,
	&verb_image_compare,
	&verb_image_convert,
	&verb_image_create,
	&verb_image_dd,
	&verb_image_info,
	&verb_image_map,
	&verb_image_measure,
	&verb_image_rebase,
	&verb_image_resize,
	&verb_image_snapshot,
	NULL
};

const struct verb verb_image = {
	.name = "image",
	.summary = "make, check, convert and change image files",
	.subs = subs,
};
