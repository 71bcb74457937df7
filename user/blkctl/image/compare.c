// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image compare: do two images have the same disk in them?
 *
 * Only reads.  What both map as zeroes is not read; where one does, only the
 * other is.  Exit codes are qemu-img's: 1 they differ, 2 one cannot be opened,
 * 3 or 4 its metadata or its data cannot be read.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

#define CHUNK	(2U << 20)	/* bytes read of each at once */
#define SECTOR	512U		/* of the offsets that are printed */

struct compare_args {
	struct image_common common;
	const char *first;
	const char *second;
	const char *second_format;
	bool strict;
};

#define ARG(field) .offset = offsetof(struct compare_args, field)

static const struct opt compare_opts[] = {
	{ OPT_ARG, 0, "FILE1", NULL, "an image",
	  .complete = OPT_COMPLETE_FILE, ARG(first) },
	{ OPT_ARG, 0, "FILE2", NULL, "the other one",
	  .complete = OPT_COMPLETE_FILE, ARG(second) },
	{ OPT_STRING, 'F', "second-format", "FORMAT", "format of FILE2",
	  .words = IMAGE_FORMATS, ARG(second_format) },
	{ OPT_FLAG, 's', "strict", NULL,
	  "sizes must be equal, and what is allocated", ARG(strict) },
	IMAGE_OPT_FORMAT(struct compare_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct compare_args, common),
	IMAGE_OPT_OBJECT(struct compare_args, common),
	IMAGE_OPT_QUIET(struct compare_args, common),
	IMAGE_OPT_SHARE(struct compare_args, common),
	IMAGE_OPT_SOURCE_CACHE(struct compare_args, common),
	IMAGE_OPT_PROGRESS(struct compare_args, common),
	IMAGE_OPT_OUTPUT(struct compare_args, common),
	{}
};

enum verdict { SAME, SIZES, STATUS, CONTENT };

struct compare {
	struct image_run *r;
	struct blk_img *m[2];
	uint64_t size[2];
	uint8_t *buf[2];
	bool strict;
	enum verdict verdict;
	uint64_t at;		/* of STATUS, CONTENT */
};

static bool is_zero(const struct blk_extent *x)
{
	return x->kind == BLK_EXT_HOLE || x->kind == BLK_EXT_ZERO;
}

/* Fails as @code */
static int fail(struct compare *c, int code, int rc)
{
	if (rc)
		c->r->cli->exit_code = code;
	return rc;
}

/* Behind the end of the shorter one are zeroes. */
static int map(struct compare *c, int i, uint64_t off, uint64_t len,
	       struct blk_extent *x, struct blk_error *e)
{
	if (off < c->size[i])
		return fail(c, 3, blk_img_map(c->m[i], off, len, x, e));
	*x = (struct blk_extent){ .off = off, .len = len,
				  .kind = BLK_EXT_HOLE };
	return 0;
}

static int fill(struct compare *c, int i, const struct blk_extent *x,
		size_t n, struct blk_error *e)
{
	if (!is_zero(x))
		return fail(c, 4, blk_img_read(c->m[i], c->buf[i], n, x->off,
					       e));
	memset(c->buf[i], 0, n);
	return 0;
}

static void find(struct compare *c, uint64_t off, size_t n)
{
	size_t i = 0;

	if (!memcmp(c->buf[0], c->buf[1], n))
		return;
	while (c->buf[0][i] == c->buf[1][i])
		i++;
	c->verdict = CONTENT;
	c->at = (off + i) / SECTOR * SECTOR;
}

/* One run, that each has in one way */
static int compare_run(struct compare *c, struct blk_extent *x, uint64_t len,
		       struct blk_error *e)
{
	uint64_t off = x[0].off, n;
	int rc = 0;

	if (c->strict && (x[0].kind != x[1].kind ||
			  x[0].preallocated != x[1].preallocated)) {
		c->verdict = STATUS;
		c->at = off;
		return 0;
	}
	if (is_zero(&x[0]) && is_zero(&x[1])) {
		image_progress_add(c->r, len);
		return image_interrupted(e);
	}
	for (; !rc && len && c->verdict == SAME; len -= n, off += n) {
		n = len < CHUNK ? len : CHUNK;
		x[0].off = x[1].off = off;
		rc = image_interrupted(e);
		if (!rc)
			rc = fill(c, 0, &x[0], n, e);
		if (!rc)
			rc = fill(c, 1, &x[1], n, e);
		if (!rc)
			find(c, off, n);
		image_progress_add(c->r, n);
	}
	return rc;
}

static int compare(struct compare *c, struct blk_error *e)
{
	uint64_t end = c->size[0] > c->size[1] ? c->size[0] : c->size[1];
	uint64_t off = 0, len;
	struct blk_extent x[2];
	int rc = 0;

	if (c->strict && c->size[0] != c->size[1]) {
		c->verdict = SIZES;
		return 0;
	}
	image_progress_start(c->r, end);
	for (; !rc && off < end && c->verdict == SAME; off += len) {
		len = 0;
		rc = map(c, 0, off, end - off, &x[0], e);
		if (!rc)
			rc = map(c, 1, off, end - off, &x[1], e);
		if (rc)
			break;
		len = x[0].len < x[1].len ? x[0].len : x[1].len;
		rc = compare_run(c, x, len, e);
	}
	image_progress_end(c->r);
	return rc;
}

static void print(const struct compare *c)
{
	static const char *const texts[] = { "", "size", "status", "content" };
	json_t *doc;

	if (c->verdict != SAME)
		c->r->cli->exit_code = 1;
	if (c->r->cli->json) {
		doc = json_pack("{s:b}", "identical", c->verdict == SAME);
		if (c->verdict != SAME)
			json_object_set_new(doc, "mismatch",
					    json_string(texts[c->verdict]));
		if (c->verdict == STATUS || c->verdict == CONTENT)
			json_object_set_new(doc, "offset", json_integer(c->at));
		out_document(c->r->cli, "compare", doc);
		return;
	}
	/* as long as they are the same that far */
	if (c->verdict != SIZES && c->size[0] != c->size[1] &&
	    (c->verdict == SAME || c->at >= c->size[0] ||
	     c->at >= c->size[1]))
		image_say(c->r, "Warning: Image size mismatch!\n");
	if (c->verdict == SAME)
		image_say(c->r, "Images are identical.\n");
	else if (c->verdict == SIZES)
		image_say(c->r, "Strict mode: Image size mismatch!\n");
	else if (c->verdict == STATUS)
		image_say(c->r, "Strict mode: Offset %" PRIu64
			  " block status mismatch!\n", c->at);
	else
		image_say(c->r, "Content mismatch at offset %" PRIu64 "!\n",
			  c->at);
}

static int open_both(struct compare *c, const struct compare_args *a,
		     struct blk_error *e)
{
	unsigned int flags = image_flags(c->r, false);
	int rc;

	rc = image_open(c->r, a->first, flags, &c->m[0], e);
	if (!rc)
		rc = blk_img_open(a->second, a->common.image_opts,
				  a->second_format, flags, c->r->secrets,
				  &c->m[1], e);
	return fail(c, 2, rc);
}

static int work(struct image_run *r, const struct compare_args *a,
		struct blk_error *e)
{
	struct compare c = { .r = r, .strict = a->strict };
	int rc = open_both(&c, a, e);

	for (int i = 0; !rc && i < 2; i++) {
		c.size[i] = blk_img_size(c.m[i]);
		if (posix_memalign((void **)&c.buf[i], 4096, CHUNK))
			rc = fail(&c, 4, blk_error_set(e, BLK_ERR_FAILED,
						       ENOMEM,
						       "no memory"));
	}
	if (!rc)
		rc = compare(&c, e);
	if (!rc)
		print(&c);
	for (int i = 0; i < 2; i++) {
		free(c.buf[i]);
		blk_img_close(c.m[i], NULL);
	}
	return rc;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct compare_args *a = args;
	struct image_run r;
	int rc = image_begin(cli, &a->common, &r, e);

	if (rc)
		cli->exit_code = 2;
	else
		rc = work(&r, a, e);
	return image_end(&r, rc, e);
}

const struct verb verb_image_compare = {
	.name = "compare",
	.of = "image",
	.summary = "say whether two images have the same content",
	.opts = compare_opts,
	.qemu_codes = true,
	.args_size = sizeof(struct compare_args),
	.run = run,
};
