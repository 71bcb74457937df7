// SPDX-License-Identifier: GPL-2.0-only
/*
 * The decompressors: zlib (raw deflate) and zstd.
 *
 * Owns workspaces, and a pool of those that lie idle, one for each CPU at most.
 * Knows nothing of images and does no I/O.
 *
 * Locking: codec_lock guards the pool.  A workspace has one user at a time.
 */
#include <linux/cpumask.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/zlib.h>
#include <linux/zstd.h>

#include "codec.h"

#define DEFLATE_WINDOW_BITS	(-12)	/* raw; as QEMU has it */
#define FRAME_MEAN		512

struct qcow_codec {
	struct list_head node;
	zstd_dctx *dctx;	/* in @work; NULL: this is for zlib */
	z_stream zlib;
	void *work;
};

static DEFINE_SPINLOCK(codec_lock);
static LIST_HEAD(idle_zlib);
static LIST_HEAD(idle_zstd);
static unsigned long nr_idle;

static struct list_head *idle_list(bool zstd)
{
	return zstd ? &idle_zstd : &idle_zlib;
}

struct qcow_codec *qcow_codec_new(bool zstd, gfp_t gfp)
{
	size_t bytes = zstd ? zstd_dctx_workspace_bound() :
		zlib_inflate_workspacesize();
	struct qcow_codec *c = kzalloc(sizeof(*c), gfp);

	if (!c)
		return NULL;
	c->work = kvmalloc(bytes, gfp);
	if (c->work && zstd)
		c->dctx = zstd_init_dctx(c->work, bytes);
	if (!c->work || (zstd && !c->dctx)) {
		qcow_codec_free(c);
		return NULL;
	}
	c->zlib.workspace = c->work;
	return c;
}

void qcow_codec_free(struct qcow_codec *c)
{
	if (!c)
		return;
	kvfree(c->work);
	kfree(c);
}

struct qcow_codec *qcow_codec_get(bool zstd, gfp_t gfp)
{
	struct qcow_codec *c;

	spin_lock(&codec_lock);
	c = list_first_entry_or_null(idle_list(zstd), struct qcow_codec, node);
	if (c) {
		list_del(&c->node);
		nr_idle--;
	}
	spin_unlock(&codec_lock);
	return c ?: qcow_codec_new(zstd, gfp);
}

void qcow_codec_put(struct qcow_codec *c)
{
	if (!c)
		return;
	spin_lock(&codec_lock);
	if (nr_idle < num_online_cpus()) {
		list_add(&c->node, idle_list(c->dctx));
		nr_idle++;
		c = NULL;
	}
	spin_unlock(&codec_lock);
	qcow_codec_free(c);
}

unsigned long qcow_codecs_idle(void)
{
	return READ_ONCE(nr_idle);
}

unsigned long qcow_codecs_trim(unsigned long max)
{
	struct qcow_codec *c, *next;
	unsigned long done = 0;
	LIST_HEAD(dead);

	spin_lock(&codec_lock);
	list_splice_init(&idle_zlib, &dead);
	list_splice_init(&idle_zstd, &dead);
	list_for_each_entry_safe(c, next, &dead, node) {
		if (done < max)
			done++;
		else
			list_move(&c->node, idle_list(c->dctx));
	}
	nr_idle -= done;
	spin_unlock(&codec_lock);
	list_for_each_entry_safe(c, next, &dead, node)
		qcow_codec_free(c);
	return done;
}

static int decode_zlib(struct qcow_codec *c, const void *in, size_t in_len,
		       void *out, size_t out_len)
{
	z_stream *s = &c->zlib;
	int r;

	s->next_in = in;
	s->avail_in = in_len;
	s->next_out = out;
	s->avail_out = out_len;
	if (zlib_inflateInit2(s, DEFLATE_WINDOW_BITS) != Z_OK)
		return -EIO;
	/* a stream may go on where the cluster is full: Z_BUF_ERROR */
	r = zlib_inflate(s, Z_FINISH);
	if (s->avail_out || (r != Z_STREAM_END && r != Z_BUF_ERROR))
		return -EIO;
	return 0;
}

/*
 * Frame by frame until the cluster is full; where the data ends is not known
 * before.  A whole frame needs no window beside its output.  The number of
 * frames is limited, since an empty one costs a reset of the decoder.
 */
static int decode_zstd(struct qcow_codec *c, const void *in, size_t in_len,
		       void *out, size_t out_len)
{
	size_t frames = 16 + out_len / FRAME_MEAN;
	size_t used, made;

	while (out_len) {
		used = zstd_find_frame_compressed_size(in, in_len);
		if (zstd_is_error(used) || !used || used > in_len || !frames--)
			return -EIO;
		made = zstd_decompress_dctx(c->dctx, out, out_len, in, used);
		if (zstd_is_error(made) || made > out_len)
			return -EIO;
		in += used;
		in_len -= used;
		out += made;
		out_len -= made;
		cond_resched();
	}
	return 0;
}

int qcow_codec_decode(struct qcow_codec *c, const void *in, size_t in_len,
		      void *out, size_t out_len)
{
	return c->dctx ? decode_zstd(c, in, in_len, out, out_len) :
		decode_zlib(c, in, in_len, out, out_len);
}
