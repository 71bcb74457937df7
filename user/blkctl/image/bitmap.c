// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image bitmap: persistent dirty bitmaps of an image that is not in use.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "image/image.h"
#include "image/meta.h"

struct bitmap_args {
	const char *file;
	const char *bitmap;
	struct opt_list actions;
	const char *granularity;
	const char *source;
	const char *source_format;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct bitmap_args, field)

static const struct opt bitmap_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	{ OPT_ARG, 0, "BITMAP", NULL, "name of the bitmap", ARG(bitmap) },
	{ OPT_ACTION, 0, "add", NULL, "make it: it records writes",
	  ARG(actions) },
	{ OPT_ACTION, 0, "remove", NULL, "remove it", ARG(actions) },
	{ OPT_ACTION, 0, "clear", NULL, "no part of the disk is dirty any more",
	  ARG(actions) },
	{ OPT_ACTION, 0, "enable", NULL, "it records writes", ARG(actions) },
	{ OPT_ACTION, 0, "disable", NULL, "it stays as it is", ARG(actions) },
	{ OPT_ACTION, 0, "merge", "SOURCE",
	  "what is dirty in that bitmap becomes dirty in this one",
	  ARG(actions) },
	{ OPT_STRING, 'g', "granularity", "SIZE",
	  "bytes for one bit, with --add", ARG(granularity) },
	{ OPT_STRING, 'b', "source-file", "FILE",
	  "the image that has SOURCE, with --merge",
	  .complete = OPT_COMPLETE_FILE, ARG(source) },
	{ OPT_STRING, 'F', "source-format", "FORMAT", "format of that image",
	  .words = IMAGE_FORMATS, ARG(source_format) },
	IMAGE_OPT_FORMAT(struct bitmap_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct bitmap_args, common),
	IMAGE_OPT_OBJECT(struct bitmap_args, common),
	IMAGE_OPT_QUIET(struct bitmap_args, common),
	IMAGE_OPT_OUTPUT(struct bitmap_args, common),
	{}
};

static const struct {
	const char *option;
	enum blk_bitmap_change what;
} changes[] = {
	{ "add", BLK_BITMAP_ADD },
	{ "remove", BLK_BITMAP_REMOVE },
	{ "clear", BLK_BITMAP_CLEAR },
	{ "enable", BLK_BITMAP_ENABLE },
	{ "disable", BLK_BITMAP_DISABLE },
	{ "merge", BLK_BITMAP_MERGE },
};

static enum blk_bitmap_change change_of(const struct opt_item *i)
{
	size_t k = 0;

	while (strcmp(changes[k].option, i->which->name))
		k++;
	return changes[k].what;
}

static bool has(const struct bitmap_args *a, enum blk_bitmap_change what)
{
	for (size_t i = 0; i < a->actions.n; i++)
		if (change_of(&a->actions.item[i]) == what)
			return true;
	return false;
}

static int check(const struct bitmap_args *a, struct blk_error *e)
{
	const char *why = NULL;

	if (!a->actions.n)
		why = "one of --add, --remove, --clear, --enable, --disable and --merge is needed";
	else if (a->granularity && !has(a, BLK_BITMAP_ADD))
		why = "-g goes with --add";
	else if (a->source && !has(a, BLK_BITMAP_MERGE))
		why = "-b goes with --merge";
	else if (a->source_format && !a->source)
		why = "-F goes with -b";
	return why ? blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", why) : 0;
}

int image_bitmaps(struct blk_qcow2 *q, json_t **out, struct blk_error *e)
{
	struct blk_qcow2_bitmap *b;
	size_t n;
	int ret = blk_qcow2_bitmaps_list(q, &b, &n, e);

	if (ret < 0)
		return ret;
	*out = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *flags = json_array();

		if (b[i].in_use)
			json_array_append_new(flags, json_string("in-use"));
		if (b[i].recording)
			json_array_append_new(flags, json_string("auto"));
		json_array_append_new(*out, json_pack("{s:o, s:s?, s:I}",
				      "flags", flags, "name", b[i].name,
				      "granularity",
				      (json_int_t)b[i].granularity));
	}
	blk_qcow2_bitmaps_free(b, n);
	return 0;
}

static int change(const struct bitmap_args *a, struct meta *m,
		  struct blk_qcow2 *from, struct blk_error *e)
{
	struct blk_qcow2_bitmap_change *c blk_auto_free =
		calloc(a->actions.n, sizeof(*c));
	uint64_t granularity = 0;
	int ret = a->granularity ?
		size_parse(a->granularity, &granularity, e) : 0;

	if (!c)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	if (!ret && a->granularity && !granularity)
		granularity = 1;	/* refused there */
	for (size_t i = 0; i < a->actions.n; i++)
		c[i] = (struct blk_qcow2_bitmap_change){
			.what = change_of(&a->actions.item[i]),
			.granularity = granularity,
			.from = from,
			.source = a->actions.item[i].value,
		};
	return ret ? ret : blk_qcow2_bitmaps_change(m->q, a->bitmap, c,
						    a->actions.n, e);
}

static int only_qcow2(const char *file, const struct meta *m,
		      struct blk_error *e)
{
	return m->q ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			      "'%s' is raw: only qcow2 images have bitmaps",
			      file);
}

static int with_source(struct image_run *r, const struct bitmap_args *a,
		       struct meta *m, struct blk_error *e)
{
	struct meta from;
	int ret;

	if (!a->source)
		return change(a, m, NULL, e);
	ret = meta_open_below(r, a->source, a->source_format, &from, e);
	if (ret < 0)
		return ret;
	ret = only_qcow2(a->source, &from, e);
	if (!ret)
		ret = change(a, m, from.q, e);
	return meta_close(&from, ret, e);
}

static int work(struct image_run *r, const struct bitmap_args *a,
		struct blk_error *e)
{
	struct meta m;
	json_t *all;
	int ret = meta_open(r, a->file, &m, e);

	if (ret < 0)
		return ret;
	ret = only_qcow2(a->file, &m, e);
	if (!ret)
		ret = with_source(r, a, &m, e);
	if (!ret && r->cli->json) {
		ret = image_bitmaps(m.q, &all, e);
		if (!ret)
			out_document(r->cli, "bitmaps", all);
	}
	return meta_close(&m, ret, e);
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct bitmap_args *a = args;
	struct image_run r;
	int ret = check(a, e);

	if (ret < 0)
		return ret;
	ret = image_begin(cli, &a->common, &r, e);
	if (!ret)
		ret = work(&r, a, e);
	return image_end(&r, ret, e);
}

const struct verb verb_image_bitmap = {
	.name = "bitmap",
	.of = "image",
	.qemu_codes = true,
	.summary = "add, remove, change and merge persistent bitmaps",
	.opts = bitmap_opts,
	.args_size = sizeof(struct bitmap_args),
	.run = run,
};
