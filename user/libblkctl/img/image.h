/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image as the disk that is in it: what its guest reads, through all images
 * below it, and writing to it.  For work on images that are not attached: here
 * everything of a qcow2 image is this process's own, mappings included.
 *
 * Offsets and lengths are bytes of the disk, of any alignment, within
 * blk_img_size().  Reading and mapping may be done by any number of threads at
 * once; writing too, to different clusters.  Nothing else may be done to the
 * image meanwhile.
 */
#ifndef BLK_IMG_IMAGE_H
#define BLK_IMG_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "fmt/qcow2.h"
#include "graph/secret.h"
#include "io/file.h"

struct blk_img;

#define BLK_IMG_WRITE		(1U << 0)
#define BLK_IMG_NO_BACKING	(1U << 1)	/* this image alone: what it
						 * does not map reads as zeroes */
#define BLK_IMG_NO_LOCK		(1U << 2)	/* qemu-img's --force-share */
#define BLK_IMG_BUFFERED	(1U << 3)	/* through the page cache */
#define BLK_IMG_UNSAFE		(1U << 4)	/* flush does nothing: a target
						 * that is removed on failure */
#define BLK_IMG_NO_DATA		(1U << 5)	/* metadata only: a data file or
						 * a key that is missing is fine */
#define BLK_IMG_MAP_ZEROES	(1U << 6)	/* zeroes that are written are
						 * mapped also where there is
						 * nothing below: there will be */
#define BLK_IMG_SHARED		(1U << 7)	/* blk_extent.shared is wanted,
						 * at a look at each refcount */
#define BLK_IMG_RECORDED	(1U << 8)	/* bitmaps that record need not
						 * know of writes: the disk
						 * reads as before, or see
						 * blk_qcow2_bitmaps_record() */

/**
 * blk_img_open - open an image, and those below it
 * @name: a path, "json:{...}" (node options as of blockdev-add), or with
 *        @image_opts "driver=qcow2,file.filename=..."
 * @format: "qcow2" or "raw"; NULL: qcow2 if its magic says so, else raw
 * @secrets: for the keys of encrypted images; may be NULL
 *
 * Takes QEMU's image locks: of a writer on the image itself, of a reader on the
 * rest.  A backing file whose format the header does not name is an error with
 * a hint, never guessed.
 * Return: -EBUSY with class BUSY when it is in use, by whom as far as known.
 */
int blk_img_open(const char *name, bool image_opts, const char *format,
		 unsigned int flags, const struct blk_secrets *secrets,
		 struct blk_img **out, struct blk_error *e);
/*
 * Flushes what was written, unless UNSAFE, and closes; on failure closes too.
 * NULL is fine.
 */
int blk_img_close(struct blk_img *m, struct blk_error *e);

/**
 * blk_img_name_file - the file that a name of blk_img_open() stands for
 * @format: in: what the user says besides, or NULL; out: "qcow2", "raw", NULL:
 *          by its magic
 * @path: malloc'ed
 * Nothing is opened.
 */
int blk_img_name_file(const char *name, bool image_opts, const char **format,
		      char **path, struct blk_error *e);

/*
 * From now on the disk is that of an internal snapshot, by id or name.  For
 * images that are only read, before anything else is done to them.
 */
int blk_img_use_snapshot(struct blk_img *m, const char *tag,
			 struct blk_error *e);

uint64_t blk_img_size(const struct blk_img *m);
const char *blk_img_format(const struct blk_img *m);	/* "qcow2", "raw" */
/* As it was named, by the user or in the header above */
const char *blk_img_name(const struct blk_img *m);
/* NULL: it is the last one.  The borrowed images have the same functions. */
struct blk_img *blk_img_backing(const struct blk_img *m);
struct blk_qcow2 *blk_img_qcow2(const struct blk_img *m);	/* raw: NULL */
struct blk_file *blk_img_file(const struct blk_img *m);
struct blk_file *blk_img_data_file(const struct blk_img *m);	/* or NULL */

enum blk_ext_kind {
	BLK_EXT_HOLE,		/* nobody maps it: reads as zeroes */
	BLK_EXT_ZERO,		/* mapped as zeroes, or a hole in a raw file */
	BLK_EXT_DATA,
	BLK_EXT_COMPRESSED,
};

/**
 * struct blk_extent - bytes of the disk that are in one place in one way
 * @layer: who maps it: 0 the image itself, 1 its backing image, ...; of a hole:
 *         the image below which there is none
 * @has_host: @host is where it begins in @file; not of compressed or encrypted
 *            clusters; may be true of ZERO (allocated, reads as zeroes)
 * @preallocated: of ZERO: mapped as data, but the file has a hole there
 * @shared: with BLK_IMG_SHARED: of clusters with a place in the image's own file,
 *          not of compressed ones: snapshots have them too
 * @file: borrowed; of the layer, or its data file
 * @len: more than 0; not the longest possible, but runs that follow each other
 *       in one L2 table are one
 */
struct blk_extent {
	uint64_t off;
	uint64_t len;
	enum blk_ext_kind kind;
	unsigned int layer;
	bool has_host;
	bool preallocated;
	bool shared;
	uint64_t host;
	struct blk_file *file;
};

/* What is at @off; @len: no more than that */
int blk_img_map(struct blk_img *m, uint64_t off, uint64_t len,
		struct blk_extent *out, struct blk_error *e);
/* Of this image alone: what is not mapped is a HOLE. */
int blk_img_map_own(struct blk_img *m, uint64_t off, uint64_t len,
		    struct blk_extent *out, struct blk_error *e);

int blk_img_read(struct blk_img *m, void *buf, size_t len, uint64_t off,
		 struct blk_error *e);

/*
 * Writing.  Clusters are allocated as needed, partial ones filled from below;
 * those that snapshots share are left alone.  A table refers to a cluster only
 * after the data is durable, and the refcounts are: a crash leaves the old or
 * the new data and leaks.  Durable after blk_img_flush().
 */
int blk_img_write(struct blk_img *m, const void *buf, size_t len, uint64_t off,
		  struct blk_error *e);
/*
 * Compressed, where whole clusters become smaller (the disk's last one may be
 * shorter); else as blk_img_write().
 */
int blk_img_write_compressed(struct blk_img *m, const void *buf, size_t len,
			     uint64_t off, struct blk_error *e);
/* @unmap: clusters may be given back; else they keep their place */
int blk_img_write_zeroes(struct blk_img *m, uint64_t off, uint64_t len,
			 bool unmap, struct blk_error *e);
/*
 * Whole clusters go, partial ones stay.  They read as zeroes (as QEMU's
 * discard); with @reveal what is below shows again.
 */
int blk_img_discard(struct blk_img *m, uint64_t off, uint64_t len, bool reveal,
		    struct blk_error *e);
int blk_img_flush(struct blk_img *m, struct blk_error *e);
/*
 * All of the disk shows what is below, durably, then a data file's space is given
 * back.  As after blk_img_settle().
 */
int blk_img_empty(struct blk_img *m, struct blk_error *e);
/*
 * Flushes, and lets go of the tables and of all space in reserve: blk_qcow2_*
 * functions may change the image then, and nothing may be read or written after
 * them.
 */
int blk_img_settle(struct blk_img *m, struct blk_error *e);

#endif
