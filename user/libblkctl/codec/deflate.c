// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Clusters, compressed.
 *
 * Deflate by libdeflate, at the level that gives about zlib's default size.
 * Its matches reach further back than QEMU's own, which is fine for who
 * decompresses a cluster into one buffer, as QEMU and the kernel module do.
 */
#include <errno.h>
#include <libdeflate.h>
#include <stdlib.h>
#include <zstd.h>

#include "codec/deflate.h"

#define DEFLATE_LEVEL	5
#define ZSTD_LEVEL	3	/* its default */

struct blk_deflate {
	struct libdeflate_compressor *zlib;
	ZSTD_CCtx *zstd;
};

struct blk_deflate *blk_codec_deflate_new(unsigned int type)
{
	struct blk_deflate *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	if (type)
		d->zstd = ZSTD_createCCtx();
	else
		d->zlib = libdeflate_alloc_compressor(DEFLATE_LEVEL);
	if (d->zstd || d->zlib)
		return d;
	free(d);
	return NULL;
}

void blk_codec_deflate_free(struct blk_deflate *d)
{
	if (!d)
		return;
	if (d->zlib)
		libdeflate_free_compressor(d->zlib);
	ZSTD_freeCCtx(d->zstd);
	free(d);
}

int blk_codec_deflate(struct blk_deflate *d, const void *in, size_t len,
		      void *out, size_t room, size_t *size)
{
	if (d->zstd) {
		*size = ZSTD_compressCCtx(d->zstd, out, room, in, len,
					  ZSTD_LEVEL);
		return ZSTD_isError(*size) ? -ENOSPC : 0;
	}
	*size = libdeflate_deflate_compress(d->zlib, in, len, out, room);
	return *size ? 0 : -ENOSPC;
}
