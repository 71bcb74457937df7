/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filling a fresh qcow2 image from beginning to end, as a copy does: places are
 * given out one behind the other, and all tables are written once, at the end.
 * Until then the file is no image: who does not come to the end removes it.
 *
 * The functions may be called by any number of threads.
 */
#ifndef BLK_IMG_BUILD_H
#define BLK_IMG_BUILD_H

#include "img/image.h"

struct blk_build;

/*
 * Can it be filled so?  Nothing is mapped in it, it has no snapshots, and
 * nothing that has to hear of writes.
 */
bool blk_build_fits(const struct blk_img *m);
/* @m: open for writing, and it fits (else -EEXIST).  It stays the caller's. */
int blk_build_open(struct blk_img *m, struct blk_build **out,
		   struct blk_error *e);
/* Without blk_build_end() before it nothing of it is in the image. */
void blk_build_free(struct blk_build *b);

/*
 * Places for @n whole clusters of the disk, from @off on: one run from @host on
 * in blk_build_file().  The caller writes to it, whole clusters.
 */
int blk_build_place(struct blk_build *b, uint64_t off, uint64_t n,
		    uint64_t *host, struct blk_error *e);
/* A place for @size bytes of compressed data of the cluster at @off */
int blk_build_pack(struct blk_build *b, uint64_t off, size_t size,
		   uint64_t *host, struct blk_error *e);
/* They read as zeroes, whatever is below; version 2 has no such thing. */
int blk_build_zero(struct blk_build *b, uint64_t off, uint64_t n,
		   struct blk_error *e);
/* Where the places are */
struct blk_file *blk_build_file(const struct blk_build *b);
/* In place, if the image is encrypted; whole sectors */
void blk_build_encrypt(const struct blk_build *b, uint64_t host, void *buf,
		       size_t len);

/* Writes the tables and refcounts.  Not durable before a flush */
int blk_build_end(struct blk_build *b, struct blk_error *e);

#endif
