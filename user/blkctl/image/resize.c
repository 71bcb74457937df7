// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image resize: another size for an image; the daemon does it where it
 * has the image.
 *
 * Owns the order: a data file is large enough before the image says so.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/be.h"
#include "image/held.h"
#include "image/image.h"
#include "image/meta.h"

struct resize_args {
	const char *file;
	const char *size;
	const char *preallocation;
	bool shrink;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct resize_args, field)

static const struct opt resize_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	{ OPT_ARG, 0, "SIZE", NULL,
	  "new size, or +SIZE or -SIZE; K, M, G, T after the number",
	  .negative = true, ARG(size) },
	IMAGE_OPT_FORMAT(struct resize_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct resize_args, common),
	IMAGE_OPT_OBJECT(struct resize_args, common),
	{ OPT_STRING, 0, "preallocation", "MODE",
	  "what becomes of the new part", .words = "off metadata falloc full",
	  ARG(preallocation) },
	{ OPT_FLAG, 0, "shrink", NULL,
	  "it may become smaller: what is behind the new end is lost",
	  ARG(shrink) },
	IMAGE_OPT_QUIET(struct resize_args, common),
	IMAGE_OPT_OUTPUT(struct resize_args, common),
	{}
};

static enum blk_prealloc mode_of(const struct resize_args *a)
{
	return image_prealloc(a->preallocation);
}

static int resize_qcow2(struct meta *m, const struct resize_args *a,
			uint64_t size, struct blk_error *e)
{
	enum blk_prealloc how = mode_of(a);
	uint64_t old = blk_qcow2_header(m->q)->size, below = 0;
	int ret = 0;

	if (size > old)
		ret = meta_backing_size(m, &below, e);
	if (!ret)
		ret = meta_open_data(m, e);
	if (!ret && m->data && size > old)
		ret = image_resize_file(m->data, size, how, e);
	if (!ret)
		ret = blk_qcow2_resize(m->q, size, a->shrink, below, e);
	if (!ret && m->data && size < old && blk_qcow2_data_file_raw(m->q))
		ret = image_resize_file(m->data, size, BLK_PREALLOC_OFF, e);
	if (!ret && size > old)
		ret = blk_qcow2_preallocate(m->q, old, size, false, how,
					    e);
	return ret;
}

static int check_shrink(const struct resize_args *a, const char *name,
			uint64_t old, uint64_t size, struct blk_error *e)
{
	if (size >= old || a->shrink)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "'%s' would become smaller: %" PRIu64
		      " bytes, now %" PRIu64
		      ": what is behind them would be lost", name, size, old);
	blk_error_hint(e, "make the file system smaller first, then --shrink");
	return -EINVAL;
}

static int check(const struct meta *m, const struct resize_args *a,
		 uint64_t old, uint64_t size, struct blk_error *e)
{
	enum blk_prealloc how = mode_of(a);

	if (check_shrink(a, m->name, old, size, e))
		return -EINVAL;
	if (size < old && how != BLK_PREALLOC_OFF)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "--preallocation is for images that become larger");
	if (!m->q && how == BLK_PREALLOC_METADATA)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "raw images have no metadata to preallocate");
	return m->q && how != BLK_PREALLOC_OFF ?
		blk_qcow2_can_preallocate(m->q, e) : 0;
}

static int resize(struct meta *m, const struct resize_args *a,
		  uint64_t *size, struct blk_error *e)
{
	uint64_t old;
	int ret = meta_size(m, &old, e);

	if (!ret)
		ret = size_change("the image", a->size, old, size, e);
	if (ret < 0)
		return ret;
	ret = check(m, a, old, *size, e);
	if (ret < 0)
		return ret;
	return m->q ? resize_qcow2(m, a, *size, e) :
		image_resize_file(m->f, *size, mode_of(a), e);
}

/*
 * The image is the daemon's
 */

static int resize_node(const struct image_run *r, const struct resize_args *a,
		       const struct image_held *h, uint64_t *size,
		       struct blk_error *e)
{
	const char *format = r->common->format;
	json_t *args;
	int ret;

	if (format && strcmp(format, h->driver))
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "'%s' is in use by blkctld as %s, not %s",
				     a->file, h->driver, format);
	if (mode_of(a) != BLK_PREALLOC_OFF)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "'%s' is in use by blkctld, which does not know --preallocation",
				     a->file);
	ret = size_change("the image", a->size, h->size, size, e);
	if (!ret)
		ret = check_shrink(a, a->file, h->size, *size, e);
	if (ret)
		return ret;
	args = json_pack("{s:s, s:I, s:b}", "node-name", h->node, "size",
			 (json_int_t)*size, "shrink", a->shrink);
	return client_call(h->client, "block_resize", args, NULL, e);
}

/* The error stays where the daemon cannot help. */
static int resize_held(const struct image_run *r, const struct resize_args *a,
		       uint64_t *size, struct blk_error *e)
{
	struct image_held h;
	int ret = -EBUSY;

	if (image_held_find(r, e, &h) && !h.below)
		ret = resize_node(r, a, &h, size, e);
	image_held_free(&h);
	return ret;
}

static int work(struct image_run *r, const struct resize_args *a,
		struct blk_error *e)
{
	uint64_t size = 0;
	struct meta m;
	int ret = meta_open(r, a->file, &m, e);

	if (!ret)
		ret = meta_close(&m, resize(&m, a, &size, e), e);
	else if (image_is_held(e))
		ret = resize_held(r, a, &size, e);
	if (!ret && r->cli->json)
		out_document(r->cli, "image",
			     json_pack("{s:s, s:I}", "filename", a->file,
				       "virtual-size", (json_int_t)size));
	else if (!ret)
		image_say(r, "Image resized.\n");
	return ret;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct resize_args *a = args;
	struct image_run r;
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret)
		ret = work(&r, a, e);
	return image_end(&r, ret, e);
}

const struct verb verb_image_resize = {
	.name = "resize",
	.of = "image",
	.qemu_codes = true,
	.summary = "change the size of an image",
	.opts = resize_opts,
	.args_size = sizeof(struct resize_args),
	.run = run,
};
