// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image check: is everything in an image counted right, and repairs.
 *
 * Owns the open file and its lock.  Exit codes are qemu-img's.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "fmt/qcow2_audit.h"
#include "image/image.h"
#include "io/file.h"
#include "io/lock.h"

#define CODE_CORRUPTIONS	2
#define CODE_LEAKS		3
#define CODE_NOT_SUPPORTED	63
#define SHOWN			20	/* findings on the terminal */

struct check_args {
	const char *file;
	const char *repair;
	struct image_common common;
};

static const struct opt check_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct check_args, file) },
	{ OPT_STRING, 'r', "repair", "WHAT",
	  "repair leaks, or all that is wrong",
	  .words = "leaks all", .offset = offsetof(struct check_args, repair) },
	IMAGE_OPT_FORMAT(struct check_args, common),
	IMAGE_OPT_SOURCE_CACHE(struct check_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct check_args, common),
	IMAGE_OPT_OBJECT(struct check_args, common),
	IMAGE_OPT_PROGRESS(struct check_args, common),
	IMAGE_OPT_QUIET(struct check_args, common),
	IMAGE_OPT_SHARE(struct check_args, common),
	IMAGE_OPT_OUTPUT(struct check_args, common),
	{}
};

/**
 * struct check - one run
 * @found: what is wrong now
 * @leaks_fixed, @corruptions_fixed: what was, and is not any more
 */
struct check {
	struct image_run *r;
	const struct check_args *a;
	const char *name;
	struct blk_file *f;
	struct blk_qcow2 *q;
	struct blk_audit found;
	uint64_t leaks_fixed, corruptions_fixed;
	struct blk_error refused;	/* why not all could be repaired */
};

static void on_tables(void *opaque, uint64_t n)
{
	struct check *c = opaque;

	image_progress_start(c->r, n);
}

static void on_done(void *opaque)
{
	struct check *c = opaque;

	image_progress_add(c->r, 1);
}

static bool on_stop(void *opaque)
{
	return image_interrupted(NULL) != 0;
}

/* Through the page cache, unless -T says otherwise */
static int open_buffered(struct check *c, bool write, struct blk_error *e)
{
	int mode = O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
		(write ? O_RDWR : O_RDONLY);
	int fd = open(c->name, mode), ret;

	if (fd < 0)
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "cannot open '%s': %s", c->name,
				     strerror(errno));
	ret = blk_file_from_fd(fd, c->name, &c->f, e);
	if (ret < 0)
		close(fd);
	return ret;
}

static int open_file(struct check *c, struct blk_error *e)
{
	bool write = c->a->repair != NULL;
	unsigned int flags = image_flags(c->r, write);
	int ret = flags & BLK_IMG_BUFFERED ? open_buffered(c, write, e) :
		blk_file_open(c->name, BLK_FILE_BUFFERED_OK |
			      (write ? BLK_FILE_WRITE : 0), &c->f, e);

	if (ret || flags & BLK_IMG_NO_LOCK)
		return ret;
	return blk_lock_offline(c->f->fd, c->name, write, e);
}

static int is_qcow2(struct check *c, const char *format, struct blk_error *e)
{
	uint8_t magic[4];
	int ret;

	if (format)
		return !strcmp(format, "qcow2");
	ret = blk_file_read(c->f, magic, sizeof(magic), 0);
	if (ret < 0)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "cannot read '%s': %s", c->name,
				     strerror(-ret));
	return blk_get_be32(magic) == QCOW2_MAGIC;
}

static int open_image(struct check *c, const char *format,
		      struct blk_error *e)
{
	int ret = open_file(c, e);

	if (!ret)
		ret = is_qcow2(c, format, e);
	if (ret < 0)
		return ret;
	if (!ret) {
		c->r->cli->exit_code = CODE_NOT_SUPPORTED;
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' is a raw image, in which there is nothing to check",
				     c->name);
	}
	return blk_qcow2_open_damaged(c->f, &c->q, e);
}

static int audit(struct check *c, struct blk_error *e)
{
	struct blk_audit_watch w = {
		.tables = on_tables, .done = on_done, .stop = on_stop,
		.opaque = c,
	};
	int ret;

	blk_audit_clear(&c->found);
	ret = blk_qcow2_audit(c->q, 0, &w, &c->found, e);
	image_progress_end(c->r);
	return ret == -ECANCELED ? image_interrupted(e) : ret;
}

static const char *kind_name(enum blk_audit_kind kind)
{
	static const char *const names[] = { "error", "corruption", "leak" };

	return names[kind];
}

static json_t *findings(const struct blk_audit *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->n_findings; i++) {
		const struct blk_audit_finding *f = &a->finding[i];

		json_array_append_new(list, json_pack(
			"{s:s, s:I, s:I, s:I, s:s}", "kind",
			kind_name(f->kind), "offset", (json_int_t)f->at,
			"length", (json_int_t)f->len, "count",
			(json_int_t)f->count, "text", f->text));
	}
	return list;
}

/* As QEMU: what is 0 is not there */
static void put_counts(const struct check *c, json_t *o)
{
	const struct blk_audit *a = &c->found;
	const struct {
		const char *name;
		uint64_t value;
	} rows[] = {
		{ "image-end-offset", a->image_end },
		{ "corruptions", a->corruptions },
		{ "leaks", a->leaks },
		{ "corruptions-fixed", c->corruptions_fixed },
		{ "leaks-fixed", c->leaks_fixed },
		{ "total-clusters", a->total_clusters },
		{ "allocated-clusters", a->allocated_clusters },
		{ "fragmented-clusters", a->fragmented_clusters },
		{ "compressed-clusters", a->compressed_clusters },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		if (rows[i].value)
			json_object_set_new(o, rows[i].name,
					    json_integer((json_int_t)rows[i].value));
}

static void print_json(const struct check *c)
{
	json_t *o = json_pack("{s:s, s:s, s:I}", "filename", c->a->file,
			      "format", "qcow2", "check-errors",
			      (json_int_t)c->found.errors);

	put_counts(c, o);
	json_object_set_new(o, "findings", findings(&c->found));
	json_object_set_new(o, "findings-left-out",
			    json_integer((json_int_t)c->found.left_out));
	json_object_set_new(o, "memory",
			    json_integer((json_int_t)c->found.memory));
	json_object_set_new(o, "threads", json_integer(c->found.threads));
	out_document(c->r->cli, "check", o);
}

static void say_findings(const struct check *c)
{
	const struct blk_audit *a = &c->found;
	size_t n = BLK_MIN(a->n_findings, (size_t)SHOWN);

	for (size_t i = 0; i < n; i++) {
		const struct blk_audit_finding *f = &a->finding[i];

		image_say(c->r, "%s at 0x%" PRIx64 ": %s\n",
			  kind_name(f->kind), f->at, f->text);
	}
	if (a->n_findings + a->left_out > n)
		image_say(c->r, "... and %" PRIu64 " more (--json lists %u of them)\n",
			  (uint64_t)(a->n_findings - n) + a->left_out,
			  BLK_AUDIT_FINDINGS);
}

static void say_totals(const struct check *c)
{
	const struct blk_audit *a = &c->found;
	double n = (double)a->allocated_clusters;

	if (a->total_clusters && a->allocated_clusters)
		image_say(c->r, "%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
			  a->allocated_clusters, a->total_clusters,
			  n * 100 / (double)a->total_clusters,
			  (double)a->fragmented_clusters * 100 / n,
			  (double)a->compressed_clusters * 100 / n);
	if (a->image_end)
		image_say(c->r, "Image end offset: %" PRIu64 "\n",
			  a->image_end);
	image_say(c->r, "Memory for counting: %" PRIu64 " KiB\n",
		  (a->memory + 1023) / 1024);
}

static void say_fixed(const struct check *c)
{
	if (!c->leaks_fixed && !c->corruptions_fixed)
		return;
	image_say(c->r, "The following inconsistencies were found and repaired:\n\n    %" PRIu64 " leaked clusters\n    %" PRIu64 " corruptions\n\nThe image was checked again.\n",
		  c->leaks_fixed, c->corruptions_fixed);
}

static void print_human(const struct check *c)
{
	const struct blk_audit *a = &c->found;

	say_fixed(c);
	say_findings(c);
	if (!a->corruptions && !a->leaks && !a->errors)
		image_say(c->r, "No errors were found on the image.\n");
	if (a->corruptions)
		image_say(c->r, "\n%" PRIu64 " errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
			  a->corruptions);
	if (a->leaks)
		image_say(c->r, "\n%" PRIu64 " leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
			  a->leaks);
	if (a->errors)
		image_say(c->r, "\n%" PRIu64 " internal errors have occurred during the check.\n",
			  a->errors);
	say_totals(c);
}

static void report(struct check *c)
{
	if (c->refused.msg[0])
		out_warn(c->r->cli, "not repaired: %s; %s", c->refused.msg,
			 c->refused.hint);
	if (c->r->cli->json)
		print_json(c);
	else
		print_human(c);
	if (c->found.errors)
		c->r->cli->exit_code = 1;
	else if (c->found.corruptions)
		c->r->cli->exit_code = CODE_CORRUPTIONS;
	else if (c->found.leaks)
		c->r->cli->exit_code = CODE_LEAKS;
}

static uint64_t less(uint64_t before, uint64_t now)
{
	return before > now ? before - now : 0;
}

/* Refused is what cannot be repaired: the second check says what it is. */
static int repair(struct check *c, struct blk_error *e)
{
	uint64_t leaks = c->found.leaks, corruptions = c->found.corruptions;
	bool all = !strcmp(c->a->repair, "all");
	int ret = 0;

	if (leaks || (corruptions && all) || c->found.errors)
		ret = blk_qcow2_audit_fix(c->q, &c->found, all, &c->refused);
	if (ret < 0 && ret != -EUCLEAN) {
		*e = c->refused;
		return ret;
	}
	if (leaks || corruptions || c->found.errors)
		ret = audit(c, e);
	if (ret < 0)
		return ret;
	c->leaks_fixed = less(leaks, c->found.leaks);
	c->corruptions_fixed = less(corruptions, c->found.corruptions);
	if (!c->found.errors && !c->found.corruptions)
		return blk_qcow2_audit_clean(c->q, e);
	return 0;
}

static int work(struct check *c, const char *format, struct blk_error *e)
{
	int ret = open_image(c, format, e);

	if (!ret)
		ret = audit(c, e);
	if (!ret && c->a->repair)
		ret = repair(c, e);
	if (!ret)
		report(c);
	return ret;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct check_args *a = args;
	struct image_run r;
	struct check c = { .r = &r, .a = a };
	const char *format = a->common.format;
	char *name blk_auto_free = NULL;
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret)
		ret = blk_img_name_file(a->file, a->common.image_opts, &format,
					&name, e);
	c.name = name;
	if (!ret)
		ret = work(&c, format, e);
	blk_audit_clear(&c.found);
	blk_qcow2_close(c.q);
	blk_file_close(c.f);
	return image_end(&r, ret, e);
}

const struct verb verb_image_check = {
	.name = "check",
	.of = "image",
	.qemu_codes = true,
	.summary = "find what is wrong in an image, and repair it",
	.opts = check_opts,
	.args_size = sizeof(struct check_args),
	.run = run,
};
