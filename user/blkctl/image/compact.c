// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image compact: the file of an image becomes as small as what is used.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "image/image.h"
#include "image/meta.h"

struct compact_args {
	const char *file;
	struct image_common common;
};

static const struct opt compact_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct compact_args, file) },
	IMAGE_OPT_FORMAT(struct compact_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct compact_args, common),
	IMAGE_OPT_OBJECT(struct compact_args, common),
	IMAGE_OPT_PROGRESS(struct compact_args, common),
	IMAGE_OPT_QUIET(struct compact_args, common),
	IMAGE_OPT_OUTPUT(struct compact_args, common),
	{}
};

static int go_on(void *opaque, uint64_t n)
{
	struct image_run *r = opaque;

	image_progress_add(r, n);
	return image_interrupted(NULL) ? -ECANCELED : 0;
}

static void report(struct image_run *r, const struct compact_args *a,
		   uint64_t before, uint64_t after, uint64_t moved)
{
	if (r->cli->json)
		out_document(r->cli, "image",
			     json_pack("{s:s, s:I, s:I, s:I}",
				       "filename", a->file,
				       "size-before", (json_int_t)before,
				       "size-after", (json_int_t)after,
				       "moved-clusters", (json_int_t)moved));
	else
		image_say(r, "%s: %" PRIu64 " bytes, %" PRIu64 " less than before\n",
			  a->file, after, before > after ? before - after : 0);
}

static int compact(struct image_run *r, struct meta *m,
		   const struct compact_args *a, struct blk_error *e)
{
	struct blk_qcow2_compact how = { .progress = go_on, .opaque = r };
	int64_t before = blk_file_size(m->f), after;
	uint64_t moved = 0;
	int ret;

	if (!m->q)
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' is a raw image: nothing in it can be moved",
				     a->file);
	/* at most; how much is known when everything was counted */
	image_progress_start(r, before >>
			     blk_qcow2_header(m->q)->cluster_bits);
	ret = blk_qcow2_compact(m->q, &how, &moved, e);
	after = blk_file_size(m->f);
	if (ret < 0)
		return ret == -ECANCELED ? image_interrupted(e) : ret;
	image_progress_end(r);
	report(r, a, (uint64_t)before, (uint64_t)after, moved);
	return 0;
}

static int work(struct image_run *r, const struct compact_args *a,
		struct blk_error *e)
{
	struct meta m;
	int ret = meta_open(r, a->file, &m, e);

	return ret ? ret : meta_close(&m, compact(r, &m, a, e), e);
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct compact_args *a = args;
	struct image_run r;
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret)
		ret = work(&r, a, e);
	return image_end(&r, ret, e);
}

const struct verb verb_image_compact = {
	.name = "compact",
	.of = "image",
	.qemu_codes = true,
	.summary = "make the file of an image as small as what is used",
	.opts = compact_opts,
	.args_size = sizeof(struct compact_args),
	.run = run,
};
