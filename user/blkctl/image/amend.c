// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image amend: what an image is, changed after it was made.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"
#include "image/meta.h"

struct amend_args {
	const char *file;
	struct opt_list options;
	bool force;
	struct image_common common;
};

static const struct image_key keys[] = {
	{ "backing_file", .help = "must be what it is: see rebase" },
	{ "backing_fmt", .help = "must be what it is: see rebase" },
	{ "compat", "version of the format: 0.10 or 1.1",
	  .words = "0.10 v2 1.1 v3" },
	{ "data_file", .help = "another name of the file that has the data" },
	{ "data_file_raw", "off: the data file need not be a raw image",
	  .words = "on off" },
	{ "lazy_refcounts", "reference counts are written late",
	  .words = "on off" },
	{ "refcount_bits", "width of reference counts",
	  .words = "1 2 4 8 16 32 64" },
	{ "size", "another size of the disk", .size = true },
	{}
};

static const struct opt amend_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct amend_args, file) },
	{ OPT_LIST, 'o', "options", "KEY=VALUE", "what is to change; help: all",
	  .offset = offsetof(struct amend_args, options) },
	{ OPT_FLAG, 0, "force", NULL,
	  "for qemu-img's option of this name; there is nothing to force",
	  .offset = offsetof(struct amend_args, force) },
	IMAGE_OPT_FORMAT(struct amend_args, common),
	IMAGE_OPT_CACHE(struct amend_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct amend_args, common),
	IMAGE_OPT_OBJECT(struct amend_args, common),
	IMAGE_OPT_PROGRESS(struct amend_args, common),
	IMAGE_OPT_QUIET(struct amend_args, common),
	IMAGE_OPT_OUTPUT(struct amend_args, common),
	{}
};

static void show_progress(void *opaque, uint64_t done, uint64_t all)
{
	struct image_run *r = opaque;

	if (r->progress.total != all || done < r->progress.done)
		image_progress_start(r, all);
	image_progress_add(r, done - r->progress.done);
}

/* The names are there in QEMU too, to say that they do not change. */
static int check_backing(const struct blk_qcow2 *q, const json_t *o,
			 struct blk_error *e)
{
	const char *file = image_key_str(o, "backing_file");
	const char *format = image_key_str(o, "backing_fmt");
	const char *is_file = blk_qcow2_backing_file(q);
	const char *is_format = blk_qcow2_backing_format(q);

	if ((!file || !strcmp(file, is_file ? is_file : "")) &&
	    (!format || !strcmp(format, is_format ? is_format : "")))
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EOPNOTSUPP,
		      "the backing file cannot be amended");
	blk_error_hint(e, "see \"blkctl image rebase\"");
	return -EOPNOTSUPP;
}

static int resize(struct meta *m, uint64_t size, struct blk_error *e)
{
	uint64_t below = 0, old = blk_qcow2_header(m->q)->size;
	int ret = size > old ? meta_backing_size(m, &below, e) : 0;

	if (!ret)
		ret = meta_open_data(m, e);
	if (!ret && m->data && size > old && !m->data->is_bdev &&
	    blk_file_size(m->data) < (int64_t)size)
		ret = blk_file_truncate(m->data, size);
	/* as qemu-img: it may become smaller, no questions asked */
	return ret ? ret : blk_qcow2_resize(m->q, size, true, below, e);
}

static int amend(struct image_run *r, struct meta *m, const json_t *o,
		 struct blk_error *e)
{
	const char *compat = image_key_str(o, "compat");
	const char *bits = image_key_str(o, "refcount_bits");
	struct blk_qcow2_amend a = {
		.lazy_refcounts = -1, .data_file_raw = -1,
		.data_file = image_key_str(o, "data_file"),
		.progress = show_progress, .opaque = r,
	};
	int ret = check_backing(m->q, o, e);

	if (ret < 0)
		return ret;
	if (compat)
		a.version = !strcmp(compat, "1.1") || !strcmp(compat, "v3") ?
			3 : 2;
	if (bits)
		a.refcount_bits = (uint32_t)atoi(bits);
	if (image_key_str(o, "lazy_refcounts"))
		a.lazy_refcounts = image_key_bool(o, "lazy_refcounts", false);
	if (image_key_str(o, "data_file_raw"))
		a.data_file_raw = image_key_bool(o, "data_file_raw", false);
	ret = blk_qcow2_amend(m->q, &a, e);
	if (!ret && image_key_str(o, "size"))
		ret = resize(m, (image_key_size(o, "size", 0) + 511) & ~511ULL,
			     e);
	if (!ret && r->progress.total)
		image_progress_end(r);
	return ret;
}

static int work(struct image_run *r, const struct amend_args *a,
		const json_t *o, struct blk_error *e)
{
	struct meta m;
	int ret = meta_open(r, a->file, &m, e);

	if (ret < 0)
		return ret;
	if (!m.q)
		ret = blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				    "'%s' is a raw image, of which nothing can be amended",
				    a->file);
	if (!ret)
		ret = amend(r, &m, o, e);
	return meta_close(&m, ret, e);
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct amend_args *a = args;
	json_auto_t *o = NULL;
	struct image_run r;
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret && image_keys_help(&a->options, keys))
		return image_end(&r, 0, e);
	if (!ret && !a->options.n)
		ret = blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				    "nothing to amend: -o KEY=VALUE");
	if (!ret)
		ret = image_keys(&a->options, keys, "amend", &o, e);
	if (!ret)
		ret = work(&r, a, o, e);
	if (!ret && cli->json)
		out_document(cli, "image",
			     json_pack("{s:s}", "filename", a->file));
	return image_end(&r, ret, e);
}

const struct verb verb_image_amend = {
	.name = "amend",
	.of = "image",
	.qemu_codes = true,
	.summary = "change version and features of an image",
	.opts = amend_opts,
	.args_size = sizeof(struct amend_args),
	.run = run,
};
