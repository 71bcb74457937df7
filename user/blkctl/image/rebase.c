// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image rebase: another image below an image.
 *
 * Owns the order: what the new image below does not have is written and
 * durable before the header names it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "image/image.h"
#include "image/meta.h"

#define CHUNK	(2U << 20)

struct rebase_args {
	const char *file;
	const char *backing;
	const char *backing_format;
	bool unsafe;
	bool compress;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct rebase_args, field)

static const struct opt rebase_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	{ OPT_STRING, 'b', "backing", "FILE",
	  "the new image below, as the header shall name it; \"\": none",
	  .complete = OPT_COMPLETE_FILE, ARG(backing) },
	{ OPT_STRING, 'F', "backing-format", "FORMAT", "its format",
	  .words = IMAGE_FORMATS, ARG(backing_format) },
	{ OPT_STRING, 'B', "backing-fmt", "FORMAT", "the same",
	  .words = IMAGE_FORMATS, ARG(backing_format) },
	{ OPT_FLAG, 'u', "unsafe", NULL,
	  "only change the header: for a file that was moved or converted",
	  ARG(unsafe) },
	{ OPT_FLAG, 'c', "compress", NULL, "compress what is written",
	  ARG(compress) },
	IMAGE_OPT_FORMAT(struct rebase_args, common),
	IMAGE_OPT_CACHE(struct rebase_args, common),
	IMAGE_OPT_SOURCE_CACHE(struct rebase_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct rebase_args, common),
	IMAGE_OPT_OBJECT(struct rebase_args, common),
	IMAGE_OPT_SHARE(struct rebase_args, common),
	IMAGE_OPT_PROGRESS(struct rebase_args, common),
	IMAGE_OPT_QUIET(struct rebase_args, common),
	IMAGE_OPT_OUTPUT(struct rebase_args, common),
	{}
};

static int check_args(const struct rebase_args *a, struct blk_error *e)
{
	if (!a->backing)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "which image is to be below? -b FILE, or -b \"\" for none");
	if (!*a->backing || a->backing_format)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "the format of the backing file must be specified");
	blk_error_hint(e, "-F qcow2 or -F raw");
	return -EINVAL;
}

static int not_qcow2(const struct rebase_args *a, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			     "'%s' is a raw image: it has no backing file",
			     a->file);
}

static int rebase_unsafe(struct image_run *r, const struct rebase_args *a,
			 struct blk_error *e)
{
	struct meta m;
	int ret = meta_open(r, a->file, &m, e);

	if (ret < 0)
		return ret;
	ret = m.q ? blk_qcow2_set_backing(m.q, a->backing, a->backing_format,
					  e) : not_qcow2(a, e);
	return meta_close(&m, ret, e);
}

/*
 * Safe mode
 */

/**
 * struct rebase - the image and what is to be below
 * @zero_flag: entries of L2 tables can say that a cluster is zeroes
 * @compress: what is written, where that makes it smaller
 * @old, @new: a chunk, as it reads above one and the other
 */
struct rebase {
	struct image_run *r;
	struct blk_img *top;
	struct blk_img *below;
	uint64_t cs;
	bool zero_flag;
	bool compress;
	uint8_t *old;
	uint8_t *new;
};

/* As QEMU names it: relative to where the image is */
static int open_below(struct rebase *b, const struct rebase_args *a,
		      struct blk_error *e)
{
	const char *image = blk_img_file(b->top)->path, *name = a->backing;
	const char *slash = strrchr(image, '/');
	unsigned int flags = image_flags(b->r, false);
	char *path blk_auto_free = NULL;

	if (!*name)
		return 0;
	if (!strncmp(name, "file:", 5))
		name += 5;
	if (*name == '/' || !slash || !strncmp(name, "json:", 5))
		path = strdup(name);
	else if (asprintf(&path, "%.*s/%s", (int)(slash - image), image,
			  name) < 0)
		path = NULL;
	if (!path)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	return blk_img_open(path, false, a->backing_format, flags,
			    b->r->secrets, &b->below, e);
}

/* A chain that leads back to the image would have no end. */
static int check_loop(const struct rebase *b, struct blk_error *e)
{
	for (struct blk_img *m = b->below; m; m = blk_img_backing(m))
		if (blk_file_same(blk_img_file(m), blk_img_file(b->top)))
			return blk_error_set(e, BLK_ERR_FAILED, ELOOP,
					     "'%s' would be below itself",
					     blk_img_name(b->top));
	return 0;
}

/* What is below, with zeroes behind its end */
static int read_below(struct rebase *b, uint64_t off, uint64_t len,
		      struct blk_error *e)
{
	uint64_t size = b->below ? blk_img_size(b->below) : 0, n = 0;

	if (off < size)
		n = BLK_MIN(len, size - off);
	memset(b->new + n, 0, len - n);
	return n ? blk_img_read(b->below, b->new, n, off, e) : 0;
}

/* One cluster, or the part of it that the image does not map */
static int keep(struct rebase *b, uint64_t at, uint64_t off, uint64_t len,
		struct blk_error *e)
{
	if (!memcmp(b->old + at, b->new + at, len))
		return 0;
	/* a part of a cluster may stay unmapped where it reads as zeroes */
	if (b->zero_flag && !((off + at) & (b->cs - 1)) &&
	    len == BLK_MIN(b->cs, blk_img_size(b->top) - off - at) &&
	    blk_is_zero(b->old + at, len))
		return blk_img_write_zeroes(b->top, off + at, len, true, e);
	return b->compress ?
		blk_img_write_compressed(b->top, b->old + at, len, off + at,
					 e) :
		blk_img_write(b->top, b->old + at, len, off + at, e);
}

/* Bytes that the image does not map */
static int compare(struct rebase *b, uint64_t off, uint64_t len,
		   struct blk_error *e)
{
	uint64_t at = 0, n;
	int ret = blk_img_read(b->top, b->old, len, off, e);

	if (!ret)
		ret = read_below(b, off, len, e);
	for (; at < len && !ret; at += n) {
		n = BLK_MIN(len - at, b->cs - ((off + at) & (b->cs - 1)));
		ret = keep(b, at, off, n, e);
	}
	return ret;
}

/* Does it read as zeroes, here and above what is new? */
static int is_hole(struct rebase *b, uint64_t off, uint64_t *len,
		   struct blk_error *e)
{
	uint64_t size = b->below ? blk_img_size(b->below) : 0;
	struct blk_extent x;
	int ret = blk_img_map(b->top, off, *len, &x, e);

	if (ret < 0)
		return ret;
	if (x.kind != BLK_EXT_HOLE && x.kind != BLK_EXT_ZERO) {
		*len = BLK_MIN(x.len, CHUNK);
		return 0;
	}
	*len = x.len;
	if (off >= size)
		return 1;
	ret = blk_img_map(b->below, off, BLK_MIN(x.len, size - off), &x, e);
	if (ret < 0)
		return ret;
	*len = x.len;
	if (x.kind == BLK_EXT_HOLE || x.kind == BLK_EXT_ZERO)
		return 1;
	*len = BLK_MIN(x.len, CHUNK);
	return 0;
}

static int copy(struct rebase *b, struct blk_error *e)
{
	uint64_t size = blk_img_size(b->top), off = 0, len;
	int ret = 0;

	image_progress_start(b->r, size);
	for (; off < size && !ret; off += len) {
		struct blk_extent x;

		ret = blk_img_map_own(b->top, off, size - off, &x, e);
		len = x.len;
		if (!ret && x.kind == BLK_EXT_HOLE) {
			ret = is_hole(b, off, &len, e);
			ret = ret ? BLK_MIN(ret, 0) :
				compare(b, off, len, e);
		}
		if (!ret)
			ret = image_interrupted(e);
		image_progress_add(b->r, len);
	}
	return ret;
}

static int work_safe(struct rebase *b, const struct rebase_args *a,
		     struct blk_error *e)
{
	struct blk_qcow2 *q = blk_img_qcow2(b->top);
	int ret;

	if (!q)
		return not_qcow2(a, e);
	if (*a->backing && blk_qcow2_data_file_raw(q))
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' cannot have a backing file: its data file is a raw image of the whole disk",
				     a->file);
	b->cs = qcow2_cluster_size(blk_qcow2_header(q));
	b->zero_flag = blk_qcow2_header(q)->version >= 3;
	b->compress = a->compress;
	ret = open_below(b, a, e);
	if (!ret)
		ret = check_loop(b, e);
	if (!ret && (posix_memalign((void **)&b->old, 4096, CHUNK) ||
		     posix_memalign((void **)&b->new, 4096, CHUNK)))
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				    "out of memory");
	if (!ret)
		ret = copy(b, e);
	if (!ret)
		ret = blk_img_flush(b->top, e);
	if (!ret)
		ret = blk_qcow2_set_backing(q, a->backing, a->backing_format,
					    e);
	if (!ret)
		image_progress_end(b->r);
	return ret;
}

static int rebase_safe(struct image_run *r, const struct rebase_args *a,
		       struct blk_error *e)
{
	unsigned int flags = BLK_IMG_WRITE | BLK_IMG_MAP_ZEROES |
		BLK_IMG_RECORDED |	/* the disk reads as before */
		image_cache_flags(a->common.cache, "writeback");
	struct rebase b = { .r = r };
	int ret = image_open(r, a->file, flags & ~BLK_IMG_UNSAFE, &b.top, e);
	int rc;

	if (!ret)
		ret = work_safe(&b, a, e);
	free(b.old);
	free(b.new);
	blk_img_close(b.below, NULL);
	rc = blk_img_close(b.top, ret ? NULL : e);
	return ret ? ret : rc;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct rebase_args *a = args;
	struct image_run r;
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret)
		ret = check_args(a, e);
	if (!ret)
		ret = a->unsafe ? rebase_unsafe(&r, a, e) :
			rebase_safe(&r, a, e);
	if (!ret && cli->json)
		out_document(cli, "image",
			     json_pack("{s:s, s:s*}", "filename", a->file,
				       "backing-filename", *a->backing ?
				       a->backing : NULL));
	return image_end(&r, ret, e);
}

const struct verb verb_image_rebase = {
	.name = "rebase",
	.of = "image",
	.qemu_codes = true,
	.summary = "put another image below an image",
	.opts = rebase_opts,
	.args_size = sizeof(struct rebase_args),
	.run = run,
};
