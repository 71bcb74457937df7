/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The decompressors: a workspace, and data in, data out.
 */
#ifndef QCOW_CODEC_H
#define QCOW_CODEC_H

#include <linux/gfp.h>
#include <linux/types.h>

struct qcow_codec;

/* @zstd: else zlib.  NULL: no memory.  Process context. */
struct qcow_codec *qcow_codec_new(bool zstd, gfp_t gfp);
void qcow_codec_free(struct qcow_codec *c);

/* As above, but from and to a pool that all images share. */
struct qcow_codec *qcow_codec_get(bool zstd, gfp_t gfp);
void qcow_codec_put(struct qcow_codec *c);
/* Workspaces that lie idle in the pool, and freeing up to @max of them. */
unsigned long qcow_codecs_idle(void);
unsigned long qcow_codecs_trim(unsigned long max);

/**
 * qcow_codec_decode - decompress one cluster
 * @in: the compressed data, and whatever comes behind it
 * @out: filled with exactly @out_len bytes on success, garbage otherwise
 *
 * Takes what QEMU takes: the data need not end where the cluster is full.
 * Never writes behind @out, and the time is bounded by the two lengths.
 *
 * Return: 0, or -EIO: the data is bad, or too short for a cluster.
 */
int qcow_codec_decode(struct qcow_codec *c, const void *in, size_t in_len,
		      void *out, size_t out_len);

#endif
