// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image dd: some blocks of a disk, as a new image.
 *
 * Owns the operands: "if=", "of=", "bs=", "count=", "skip=".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/be.h"
#include "image/create.h"
#include "image/image.h"

#define CHUNK		(1U << 20)
#define ZERO_UNIT	65536U	/* zeroes are looked for in so many bytes */
#define BS_MAX		INT32_MAX

struct dd_args {
	struct image_common common;
	const char *target_format;
	struct opt_list operands;
};

static const struct opt dd_opts[] = {
	IMAGE_OPT_FORMAT(struct dd_args, common),
	{ OPT_STRING, 'O', "target-format", "FORMAT",
	  "format of the new image, default raw", .words = IMAGE_FORMATS,
	  .offset = offsetof(struct dd_args, target_format) },
	IMAGE_OPT_IMAGE_OPTS(struct dd_args, common),
	IMAGE_OPT_OBJECT(struct dd_args, common),
	IMAGE_OPT_SHARE(struct dd_args, common),
	IMAGE_OPT_PROGRESS(struct dd_args, common),
	IMAGE_OPT_OUTPUT(struct dd_args, common),
	{ OPT_ARGS, 0, "OPERAND", NULL,
	  "if=FILE of=FILE [bs=SIZE] [count=N] [skip=N]; -: stdin, stdout",
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct dd_args, operands) },
	{}
};

/**
 * struct dd - one run
 * @count: UINT64_MAX: all there are
 * @from, @len: bytes of the source that are copied
 */
struct dd {
	struct image_run *r;
	const char *in, *out, *format;
	uint64_t bs, count, skip;
	uint64_t from, len;
	struct blk_img *src, *target;
};

static int usage(struct blk_error *e, const char *what)
{
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", what);
}

static int operand(struct dd *d, const char *text, struct blk_error *e)
{
	const struct {
		const char *name;
		const char **text;
		uint64_t *number;
	} all[] = {
		{ "if=", &d->in, NULL }, { "of=", &d->out, NULL },
		{ "bs=", NULL, &d->bs }, { "count=", NULL, &d->count },
		{ "skip=", NULL, &d->skip },
	};
	size_t i, n;

	for (i = 0; i < sizeof(all) / sizeof(*all); i++) {
		n = strlen(all[i].name);
		if (strncmp(text, all[i].name, n))
			continue;
		if (all[i].number)
			return size_parse(text + n, all[i].number, e);
		*all[i].text = text + n;
		return 0;
	}
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			     "'%s' is no operand (choose from: if= of= bs= count= skip=)",
			     text);
}

static int parse(struct dd *d, const struct dd_args *a, struct blk_error *e)
{
	size_t i;
	int rc = 0;

	for (i = 0; !rc && i < a->operands.n; i++)
		rc = operand(d, a->operands.item[i].value, e);
	if (rc)
		return rc;
	if (!d->in || !d->out)
		return usage(e, "both if=FILE and of=FILE are needed");
	if (!d->bs || d->bs > BS_MAX)
		return usage(e, "bs= must be 1 byte to 2 GiB");
	return 0;
}

/* What -U does not protect: the source is lost when the target is made. */
static bool is_source(const struct dd *d)
{
	struct stat a, b;

	return !fstat(blk_img_file(d->src)->fd, &a) && !stat(d->out, &b) &&
		a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int open_source(struct dd *d, struct blk_error *e)
{
	uint64_t size, n;
	int rc = image_open(d->r, d->in, image_flags(d->r, false), &d->src, e);

	if (rc)
		return rc;
	if (!image_is_stream(d->out) && is_source(d))
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "'%s' cannot be both source and target",
				     d->out);
	size = blk_img_size(d->src);
	if (__builtin_mul_overflow(d->skip, d->bs, &d->from) || d->from > size)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "skip= is behind the end of '%s'", d->in);
	d->len = size - d->from;
	if (!__builtin_mul_overflow(d->count, d->bs, &n) && n < d->len)
		d->len = n;
	return 0;
}

static int make_target(struct dd *d, struct blk_error *e)
{
	json_auto_t *none = json_object();
	struct image_new n;
	int rc = image_new_parse(d->r, d->format, none, &n, e);

	if (rc)
		return rc;
	image_new_size(&n, (d->len + 511) & ~511ULL);	/* whole sectors */
	rc = image_new_check(&n, e);
	if (!rc)
		rc = image_new_make(d->out, &n, e);
	return rc ? rc : blk_img_open(d->out, false, d->format,
				      BLK_IMG_WRITE | BLK_IMG_BUFFERED |
				      BLK_IMG_UNSAFE, NULL, &d->target, e);
}

/* The target reads as zeroes: they stay holes. */
static int copy_data(struct dd *d, uint8_t *buf, uint64_t at, size_t len,
		     struct blk_error *e)
{
	size_t i, n;
	int rc = blk_img_read(d->src, buf, len, d->from + at, e);

	for (i = 0; !rc && i < len; i += n) {
		n = len - i < ZERO_UNIT ? len - i : ZERO_UNIT;
		if (!blk_is_zero(buf + i, n))
			rc = blk_img_write(d->target, buf + i, n, at + i, e);
	}
	return rc;
}

static int copy(struct dd *d, struct blk_error *e)
{
	struct blk_extent x;
	uint64_t at, n;
	void *buf;
	int rc = 0;

	if (posix_memalign(&buf, 4096, CHUNK))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	image_progress_start(d->r, d->len);
	for (at = 0; !rc && at < d->len; at += n) {
		rc = image_interrupted(e);
		if (!rc)
			rc = blk_img_map(d->src, d->from + at, d->len - at, &x,
					 e);
		if (rc)
			break;
		n = x.len;
		if (x.kind == BLK_EXT_DATA || x.kind == BLK_EXT_COMPRESSED) {
			n = n < CHUNK ? n : CHUNK;
			rc = copy_data(d, buf, at, n, e);
		}
		image_progress_add(d->r, n);
	}
	free(buf);
	if (!rc)
		image_progress_end(d->r);
	return rc;
}

static int to_stdout(struct dd *d, struct blk_error *e)
{
	int fd, rc;

	if (strcmp(d->format, "raw"))
		return usage(e, "of=- is the raw disk: not with -O qcow2");
	rc = image_stdout(d->r, &fd, e);
	if (rc)
		return rc;
	image_progress_start(d->r, d->len);
	rc = image_stdout_write(d->r, fd, d->src, d->from, d->len, NULL, e);
	if (!rc)
		image_progress_end(d->r);
	close(fd);
	return rc;
}

static int dd(struct dd *d, struct blk_error *e)
{
	int rc = open_source(d, e), closed;

	if (image_is_stream(d->out)) {
		rc = rc ? rc : to_stdout(d, e);
		blk_img_close(d->src, NULL);
		return rc;
	}

	if (!rc)
		rc = make_target(d, e);
	if (!rc)
		rc = copy(d, e);
	closed = blk_img_close(d->target, rc ? NULL : e);
	blk_img_close(d->src, NULL);
	return rc ? rc : closed;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct dd_args *a = args;
	struct image_run r;
	struct dd d = {
		.r = &r, .bs = 512, .count = UINT64_MAX,
		.format = a->target_format ? a->target_format : "raw",
	};
	int rc = image_begin(cli, &a->common, &r, e);

	if (!rc)
		rc = parse(&d, a, e);
	if (!rc)
		rc = dd(&d, e);
	if (!rc && cli->json)
		out_document(cli, "dd",
			     json_pack("{s:s, s:s, s:I}", "filename", d.out,
				       "format", d.format, "copied",
				       (json_int_t)d.len));
	return image_end(&r, rc, e);
}

const struct verb verb_image_dd = {
	.name = "dd",
	.of = "image",
	.summary = "copy some blocks of a disk to a new image",
	.opts = dd_opts,
	.qemu_codes = true,
	.args_size = sizeof(struct dd_args),
	.run = run,
};
