/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing the header cluster anew: fmt/qcow2_header.c, for those that change
 * what an image is.
 */
#ifndef BLK_FMT_QCOW2_HEADER_INT_H
#define BLK_FMT_QCOW2_HEADER_INT_H

#include "fmt/qcow2_int.h"

/**
 * struct blk_head_new - what the header shall say
 * @h: but for header_length and the place of the backing file's name
 * @backing_file, @backing_format, @data_file: NULL: none
 * @n_bitmaps: with their directory; 0: none
 */
struct blk_head_new {
	struct qcow2_header h;
	const char *backing_file;
	const char *backing_format;
	const char *data_file;
	uint32_t n_bitmaps;
	uint64_t bitmap_dir_size;
	uint64_t bitmap_dir_offset;
};

/* Everything as it is; the names are borrowed from @q */
void blk_head_keep(struct blk_qcow2 *q, struct blk_head_new *n);
/*
 * Writes it, durably; a crash leaves the old header or the new one, where the
 * extensions that matter fit into the first sector.  -ENOSPC with a message:
 * there is no room in the header cluster, and nothing was written.
 */
int blk_head_put(struct blk_qcow2 *q, const struct blk_head_new *n,
		 struct blk_error *e);

#endif
