/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An image whose metadata alone is changed: nothing of the disk in it is read,
 * so that no key and no image below it is needed.
 */
#ifndef BLKCTL_IMAGE_META_H
#define BLKCTL_IMAGE_META_H

#include <stdint.h>

#include "fmt/qcow2.h"
#include "image/image.h"
#include "io/file.h"

/**
 * struct meta - one, open and locked
 * @q: NULL: it is raw
 * @reads: it is not written; @shares: and not locked either
 * @data: of an image with an external data file, after meta_open_data()
 */
struct meta {
	const char *name;
	struct blk_file *f;
	struct blk_file *data;
	struct blk_qcow2 *q;
	bool reads;
	bool shares;
};

/**
 * meta_open - for writing, with QEMU's locks of a writer
 * @name as of blk_img_name_file(), by -f and --image-opts.  A dirty image is
 * repaired, as QEMU does when it opens one.
 */
int meta_open(const struct image_run *r, const char *name, struct meta *m,
	      struct blk_error *e);
/* To look at it, with the locks of a reader unless -U was given; as it is */
int meta_open_read(const struct image_run *r, const char *name, struct meta *m,
		   struct blk_error *e);
/* The same of a file that another image names, by its path */
int meta_open_below(const struct image_run *r, const char *path,
		    const char *format, struct meta *m, struct blk_error *e);
/*
 * The path and the format of the image below, in place of those in *@name and
 * *@format, which are freed; NULL: there is none.  An image that does not say
 * the format of its backing file is an error.
 */
int meta_step_down(const struct meta *m, char **name, char **format,
		   struct blk_error *e);
/* Its external data file, if it has one, for writing */
int meta_open_data(struct meta *m, struct blk_error *e);
/*
 * Gives what is free at the end back, and closes.  @ret: of the work; a failure
 * of it, or of the closing, is returned.
 */
int meta_close(struct meta *m, int ret, struct blk_error *e);

/* bitmap.c: what qemu-img info says of its persistent bitmaps */
int image_bitmaps(struct blk_qcow2 *q, json_t **out, struct blk_error *e);

/* Bytes of the disk */
int meta_size(const struct meta *m, uint64_t *size, struct blk_error *e);
/* Of the backing file's disk; 0: there is none */
int meta_backing_size(const struct meta *m, uint64_t *size,
		      struct blk_error *e);
/* rawfile.c: "off", "metadata", ... as in the options; NULL: off */
enum blk_prealloc image_prealloc(const char *name);
/*
 * rawfile.c: another size for a raw file, durably; METADATA is like OFF.  On
 * failure it has its old size.  A device must be large enough.
 */
int image_resize_file(struct blk_file *f, uint64_t size,
		      enum blk_prealloc how, struct blk_error *e);
/* Of the disk in a file; @format NULL: by its magic */
int meta_file_size(const char *path, const char *format, uint64_t *size,
		   struct blk_error *e);
/*
 * The path of a file that the header of @image names: "file:" is a prefix, and
 * it is relative to where the image is; malloc'ed; NULL: no memory
 */
char *image_beside(const char *image, const char *name);
/* The path of a file that the header names; malloc'ed; NULL: no memory */
char *meta_resolve(const struct meta *m, const char *name);

#endif
