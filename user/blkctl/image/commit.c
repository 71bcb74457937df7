// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image commit: what an image has goes into one below it.
 *
 * Owns the order: the image below is large enough, its bitmaps that record
 * know what comes, then it has all of the data, durably; only then the image
 * above is emptied.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "image/image.h"
#include "io/lock.h"

#define CHUNK	(2U << 20)

struct commit_args {
	const char *file;
	const char *base;
	const char *rate;
	bool drop;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct commit_args, field)

static const struct opt commit_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	{ OPT_STRING, 'b', "base", "FILE",
	  "an image further below; what is between goes there, too; -d",
	  .complete = OPT_COMPLETE_FILE, ARG(base) },
	{ OPT_FLAG, 'd', "drop", NULL,
	  "leave the image as it is: it will be deleted", ARG(drop) },
	{ OPT_STRING, 'r', "rate-limit", "BYTES", "bytes a second, at most",
	  ARG(rate) },
	IMAGE_OPT_FORMAT(struct commit_args, common),
	IMAGE_OPT_CACHE(struct commit_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct commit_args, common),
	IMAGE_OPT_OBJECT(struct commit_args, common),
	IMAGE_OPT_PROGRESS(struct commit_args, common),
	IMAGE_OPT_QUIET(struct commit_args, common),
	IMAGE_OPT_OUTPUT(struct commit_args, common),
	{}
};

/**
 * struct commit - one run
 * @view: the whole chain, to be read; without locks of its own
 * @top: the image alone, to be emptied
 * @base: what is written to, with what is below it
 * @depth: images of @view above the base
 */
struct commit {
	struct image_run *r;
	const struct commit_args *a;
	struct blk_img *view;
	struct blk_img *top;
	struct blk_img *base;
	unsigned int depth;
	struct image_rate rate;
	uint8_t *buf;
};

static bool is_named(struct blk_img *above, struct blk_img *m,
		     const char *name)
{
	char *path = realpath(name, NULL);
	const char *in_header = blk_qcow2_backing_file(blk_img_qcow2(above));
	bool same = !strcmp(name, blk_img_name(m)) ||
		(in_header && !strcmp(name, in_header)) ||
		(path && !strcmp(path, blk_img_file(m)->path));

	free(path);
	return same;
}

/* The base in the chain */
static int find_base(struct commit *c, struct blk_img **out,
		     struct blk_error *e)
{
	struct blk_img *above = c->view, *m = blk_img_backing(above);

	if (!m)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "'%s' does not have a backing file",
				     c->a->file);
	for (c->depth = 1; m; c->depth++) {
		if (!c->a->base || is_named(above, m, c->a->base)) {
			*out = m;
			return 0;
		}
		above = m;
		m = blk_img_backing(m);
	}
	return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
			     "there is no '%s' in the chain below '%s'",
			     c->a->base, c->a->file);
}

/* Images between the two are only read. */
static int lock_between(struct commit *c, struct blk_error *e)
{
	struct blk_img *m = blk_img_backing(c->view);
	int ret = 0;

	for (unsigned int i = 1; i < c->depth && !ret; i++) {
		ret = blk_lock_offline(blk_img_file(m)->fd,
				       blk_img_file(m)->path, false, e);
		m = blk_img_backing(m);
	}
	return ret;
}

static unsigned int write_flags(const struct commit *c)
{
	return BLK_IMG_WRITE | BLK_IMG_RECORDED |
		(image_cache_flags(c->a->common.cache, "writeback") &
		 ~BLK_IMG_UNSAFE);
}

static int open_base(struct commit *c, struct blk_img *found,
		     struct blk_error *e)
{
	return blk_img_open(blk_img_file(found)->path, false,
			    blk_img_format(found), write_flags(c),
			    c->r->secrets, &c->base, e);
}

static int grow_file(struct blk_file *f, uint64_t size, struct blk_error *e)
{
	int64_t now = blk_file_size(f);
	int ret = now < (int64_t)size ? blk_file_truncate(f, size) : 0;

	return ret ? blk_error_set(e, BLK_ERR_FAILED, -ret,
				   "cannot make '%s' larger: %s", f->path,
				   strerror(-ret)) : 0;
}

/* It must be opened anew: its size is another one. */
static int grow_base(struct commit *c, struct blk_img *found,
		     struct blk_error *e)
{
	struct blk_img *below = blk_img_backing(c->base);
	struct blk_qcow2 *q = blk_img_qcow2(c->base);
	uint64_t size = blk_img_size(c->view);
	bool repaired;
	int ret = 0;

	if (blk_img_size(c->base) >= size)
		return 0;
	if (!q)
		ret = grow_file(blk_img_file(c->base), size, e);
	else if (blk_img_data_file(c->base))
		ret = grow_file(blk_img_data_file(c->base), size, e);
	if (!ret && q)
		ret = blk_qcow2_repair(q, &repaired, e);
	if (!ret && q)
		ret = blk_qcow2_resize(q, (size + 511) & ~511ULL, false,
				       below ? blk_img_size(below) : 0, e);
	if (!ret)
		ret = blk_img_close(c->base, e);
	else
		blk_img_close(c->base, NULL);
	c->base = NULL;
	return ret ? ret : open_base(c, found, e);
}

static int copy_extent(struct commit *c, const struct blk_extent *x,
		       struct blk_error *e)
{
	int ret;

	if (x->kind == BLK_EXT_ZERO)
		return blk_img_write_zeroes(c->base, x->off, x->len, true, e);
	ret = blk_img_read(c->view, c->buf, x->len, x->off, e);
	if (!ret)
		ret = blk_img_write(c->base, c->buf, x->len, x->off, e);
	return ret ? ret : image_rate_wait(&c->rate, x->len, e);
}

/* The next piece of the disk, and whether images above the base map it */
static int next(struct commit *c, uint64_t off, uint64_t most,
		struct blk_extent *x, bool *mapped, struct blk_error *e)
{
	int ret = blk_img_map(c->view, off, most, x, e);

	*mapped = !ret && x->layer < c->depth && x->kind != BLK_EXT_HOLE;
	return ret ? ret : image_interrupted(e);
}

/* Everything that images above the base map */
static int copy(struct commit *c, struct blk_error *e)
{
	uint64_t size = blk_img_size(c->view);
	struct blk_extent x = { .len = 0 };
	bool mapped;
	int ret = 0;

	image_progress_start(c->r, size);
	for (uint64_t off = 0; off < size && !ret; off += x.len) {
		ret = next(c, off, BLK_MIN(size - off, CHUNK), &x, &mapped, e);
		if (!ret && mapped)
			ret = copy_extent(c, &x, e);
		image_progress_add(c->r, x.len);
	}
	return ret ? ret : blk_img_flush(c->base, e);
}

static int add_run(struct dm_qcow_run **runs, size_t *n,
		   const struct blk_extent *x)
{
	struct dm_qcow_run *last = *n ? &(*runs)[*n - 1] : NULL, *p;

	if (last && last->offset + last->length == x->off) {
		last->length += x->len;
		return 0;
	}
	if (!(*n & (*n - 1))) {	/* room for twice as many */
		p = realloc(*runs, BLK_MAX(*n * 2, 1U) * sizeof(*p));
		if (!p)
			return -ENOMEM;
		*runs = p;
	}
	(*runs)[(*n)++] = (struct dm_qcow_run){
		.offset = x->off, .length = x->len,
	};
	return 0;
}

static bool base_records(struct commit *c, int *ret, struct blk_error *e)
{
	struct blk_qcow2 *q = blk_img_qcow2(c->base);
	struct blk_qcow2_bitmap *b = NULL;
	bool records = false;
	size_t n = 0;

	*ret = q ? blk_qcow2_bitmaps_list(q, &b, &n, e) : 0;
	for (size_t i = 0; i < n; i++)
		records |= b[i].recording && !b[i].in_use;
	blk_qcow2_bitmaps_free(b, n);
	return records;
}

/* The bitmaps of the base must know what is written to it, before it is. */
static int record(struct commit *c, struct blk_error *e)
{
	uint64_t size = blk_img_size(c->view);
	struct dm_qcow_run *runs blk_auto_free = NULL;
	struct blk_extent x = { .len = 0 };
	bool mapped, repaired;
	size_t n = 0;
	int ret;

	if (!base_records(c, &ret, e))
		return ret;
	for (uint64_t off = 0; off < size && !ret; off += x.len) {
		ret = next(c, off, size - off, &x, &mapped, e);
		if (!ret && mapped && add_run(&runs, &n, &x))
			ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					    "out of memory");
	}
	if (!ret)
		ret = blk_qcow2_repair(blk_img_qcow2(c->base), &repaired, e);
	return ret ? ret : blk_qcow2_bitmaps_record(blk_img_qcow2(c->base),
						    runs, n, e);
}

/* Its clusters are free then, and its file as small as it can be. */
static int empty_top(struct commit *c, struct blk_error *e)
{
	static const struct blk_qcow2_compact how;
	uint64_t moved;
	int ret = blk_img_empty(c->top, e);

	if (!ret)	/* what it cannot do for an image is no failure */
		blk_qcow2_compact(blk_img_qcow2(c->top), &how, &moved, NULL);
	return ret;
}

static bool will_empty(const struct commit *c)
{
	return !c->a->drop && !c->a->base;
}

static int open_all(struct commit *c, struct blk_error *e)
{
	struct blk_img *found = NULL;
	int ret = image_open(c->r, c->a->file, BLK_IMG_WRITE |
			     BLK_IMG_NO_BACKING | write_flags(c), &c->top, e);

	/* an image that cannot be changed is refused before others have been */
	if (!ret && will_empty(c))
		ret = blk_img_discard(c->top, 0, 0, true, e);
	if (!ret)
		ret = image_open(c->r, c->a->file, BLK_IMG_NO_LOCK |
				 BLK_IMG_BUFFERED, &c->view, e);
	if (!ret)
		ret = find_base(c, &found, e);
	if (!ret)
		ret = lock_between(c, e);
	if (!ret)
		ret = open_base(c, found, e);
	return ret ? ret : grow_base(c, found, e);
}

static int work(struct commit *c, struct blk_error *e)
{
	int ret = image_rate_start(&c->rate, c->a->rate, e);

	if (!ret)
		ret = open_all(c, e);
	if (!ret && posix_memalign((void **)&c->buf, 4096, CHUNK))
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				    "out of memory");
	if (!ret)
		ret = record(c, e);
	if (!ret)
		ret = copy(c, e);
	if (!ret && will_empty(c))
		ret = empty_top(c, e);
	if (!ret)
		image_progress_end(c->r);
	return ret;
}

static int close_all(struct commit *c, int ret, struct blk_error *e)
{
	int rc;

	free(c->buf);
	rc = blk_img_close(c->base, ret ? NULL : e);
	ret = ret ? ret : rc;
	rc = blk_img_close(c->top, ret ? NULL : e);
	ret = ret ? ret : rc;
	blk_img_close(c->view, NULL);
	return ret;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct commit_args *a = args;
	struct image_run r;
	struct commit c = { .r = &r, .a = a };
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret)
		ret = close_all(&c, work(&c, e), e);
	if (!ret && cli->json)
		out_document(cli, "image",
			     json_pack("{s:s, s:I}", "filename", a->file,
				       "copied-bytes",
				       (json_int_t)c.rate.moved));
	else if (!ret)
		image_say(&r, "Image committed.\n");
	return image_end(&r, ret, e);
}

const struct verb verb_image_commit = {
	.name = "commit",
	.of = "image",
	.qemu_codes = true,
	.summary = "write what an image has into the one below it",
	.opts = commit_opts,
	.args_size = sizeof(struct commit_args),
	.run = run,
};
