/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * New images, for the verbs that make them.
 */
#ifndef BLKCTL_IMAGE_CREATE_H
#define BLKCTL_IMAGE_CREATE_H

#include "fmt/qcow2_create.h"
#include "image/image.h"

/**
 * struct image_new - what it shall be
 * @q: of raw images only @size counts
 * @nocow: ask a file system that copies on write (btrfs) not to; others ignore it
 * @prealloc: METADATA: qcow2 only
 * @luks, @cipher, @mode: what q.luks points to
 */
struct image_new {
	bool raw;
	bool nocow;
	enum blk_prealloc prealloc;
	struct blk_qcow2_new q;
	struct blk_luks_new luks;
	char cipher[32];
	char mode[80];
};

/*
 * From what image_keys() made of -o, whose strings it borrows; the size is not
 * set.  It points into itself: not to be copied.
 */
int image_new_parse(const struct image_run *r, const char *format,
		    const json_t *o, struct image_new *n, struct blk_error *e);
void image_new_size(struct image_new *n, uint64_t size);
/* When all is set: does it go together?  Class USAGE */
int image_new_check(const struct image_new *n, struct blk_error *e);
/*
 * Makes the file, with its data file; one that is there loses what is in it,
 * unless somebody uses it (class BUSY).  What is new goes with
 * image_targets_remove().
 */
int image_new_make(const char *path, const struct image_new *n,
		   struct blk_error *e);

#endif
