// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Compressed clusters, back to what they were.
 *
 * What is behind the compressed data, up to the end of a sector, is not looked
 * at.  The data is hostile: nothing but @out is written.
 * Each thread keeps its decompressors until it ends: to make them anew takes as
 * long as a cluster.  They want whole streams; what QEMU reads as well is left
 * to zlib, and to the streaming interface of zstd.
 */
#include <errno.h>
#include <libdeflate.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "codec/inflate.h"

/* QEMU compresses with a window of 4 KiB; larger ones are read too. */
#define WINDOW_BITS (-15)

/* Of one thread */
struct tools {
	struct libdeflate_decompressor *deflate;
	ZSTD_DCtx *zstd;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool has_key;

static void drop(void *p)
{
	struct tools *t = p;

	libdeflate_free_decompressor(t->deflate);
	ZSTD_freeDCtx(t->zstd);
	free(t);
}

static void make_key(void)
{
	has_key = !pthread_key_create(&key, drop);
}

/* NULL: no memory */
static struct tools *tools(void)
{
	struct tools *t;

	pthread_once(&once, make_key);
	t = has_key ? pthread_getspecific(key) : NULL;
	if (t || !has_key)
		return t;
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->deflate = libdeflate_alloc_decompressor();
	t->zstd = ZSTD_createDCtx();
	if (!t->deflate || !t->zstd || pthread_setspecific(key, t)) {
		drop(t);
		return NULL;
	}
	return t;
}

static int by_zlib(const void *in, size_t in_len, void *out, size_t out_len)
{
	z_stream z = {
		.next_in = (Bytef *)in, .avail_in = in_len,
		.next_out = out, .avail_out = out_len,
	};
	int rc;

	if (inflateInit2(&z, WINDOW_BITS) != Z_OK)
		return -ENOMEM;
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* a full buffer will do: the end mark may be missing */
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && !z.avail_out ?
		0 : -EIO;
}

static int inflate_zlib(struct tools *t, const void *in, size_t in_len,
			void *out, size_t out_len)
{
	return libdeflate_deflate_decompress(t->deflate, in, in_len, out,
					     out_len, NULL) ?
		by_zlib(in, in_len, out, out_len) : 0;
}

/* With a context of its own: a window may be large, and is not kept. */
static int by_stream(const void *in, size_t in_len, void *out, size_t out_len)
{
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	ZSTD_outBuffer o = { out, out_len, 0 };
	ZSTD_inBuffer i = { in, in_len, 0 };
	size_t rc = 1;

	if (!ctx)
		return -ENOMEM;
	while (o.pos < o.size && rc && !ZSTD_isError(rc)) {
		size_t in_was = i.pos, out_was = o.pos;

		rc = ZSTD_decompressStream(ctx, &o, &i);
		if (i.pos == in_was && o.pos == out_was)
			break;
	}
	ZSTD_freeDCtx(ctx);
	return o.pos == o.size && !ZSTD_isError(rc) ? 0 : -EIO;
}

static int inflate_zstd(struct tools *t, const void *in, size_t in_len,
			void *out, size_t out_len)
{
	size_t frame = ZSTD_findFrameCompressedSize(in, in_len);

	if (!ZSTD_isError(frame) &&
	    ZSTD_decompressDCtx(t->zstd, out, out_len, in, frame) == out_len)
		return 0;
	return by_stream(in, in_len, out, out_len);
}

int blk_codec_inflate(unsigned int type, const void *in, size_t in_len,
		      void *out, size_t out_len)
{
	struct tools *t = tools();

	if (!t)
		return -ENOMEM;
	return type ? inflate_zstd(t, in, in_len, out, out_len) :
		inflate_zlib(t, in, in_len, out, out_len);
}
