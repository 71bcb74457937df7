// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Compressed clusters, back to what they were.
 *
 * What is behind the compressed data, up to the end of a sector, is not looked
 * at.  The data is hostile: nothing but @out is written.
 */
#include <errno.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "codec/inflate.h"

/* QEMU compresses with a window of 4 KiB; larger ones are read too. */
#define WINDOW_BITS (-15)

static int inflate_zlib(const void *in, size_t in_len, void *out,
			size_t out_len)
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

static int inflate_zstd(const void *in, size_t in_len, void *out,
			size_t out_len)
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

int blk_codec_inflate(unsigned int type, const void *in, size_t in_len,
		      void *out, size_t out_len)
{
	return type ? inflate_zstd(in, in_len, out, out_len) :
		inflate_zlib(in, in_len, out, out_len);
}
