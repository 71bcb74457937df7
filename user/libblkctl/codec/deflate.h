/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Clusters, compressed.  A compressor belongs to one thread at a time.
 */
#ifndef BLK_CODEC_DEFLATE_H
#define BLK_CODEC_DEFLATE_H

#include <stddef.h>

struct blk_deflate;

/* @type: of the header: 0 zlib (raw deflate), 1 zstd.  NULL: no memory */
struct blk_deflate *blk_codec_deflate_new(unsigned int type);
void blk_codec_deflate_free(struct blk_deflate *d);	/* NULL is fine */

/**
 * blk_codec_deflate - one cluster
 * @room: bytes in @out; @size: how many were used
 * Return: -ENOSPC: they are not enough
 */
int blk_codec_deflate(struct blk_deflate *d, const void *in, size_t len,
		      void *out, size_t room, size_t *size);

#endif
