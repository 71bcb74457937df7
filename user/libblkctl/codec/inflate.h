/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Compressed clusters, back to what they were.  Any thread; each keeps some
 * memory for it until it ends.
 */
#ifndef BLK_CODEC_INFLATE_H
#define BLK_CODEC_INFLATE_H

#include <stddef.h>

/**
 * blk_codec_inflate - one cluster
 * @type: of the header: 0 zlib (raw deflate), 1 zstd
 * @in, @in_len: what is on disk, and what is behind it up to a sector's end
 * @out: becomes exactly @out_len bytes
 * Return: -EIO: that is not what is in there; -ENOMEM
 */
int blk_codec_inflate(unsigned int type, const void *in, size_t in_len,
		      void *out, size_t out_len);

#endif
