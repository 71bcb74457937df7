// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image convert: a copy of disks, in another format or with other
 * options.
 *
 * Owns the order: sources are opened and everything is checked before the
 * target is made; a target that is not complete goes again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/convert.h"
#include "image/create.h"
#include "image/image.h"
#include "img/copy.h"

#define SPARSE_DEFAULT	4096U
#define THREADS_DEFAULT	8U
#define RAW_UNIT	65536U

struct convert_args {
	struct image_common common;
	struct opt_list files;
	const char *target_format;
	struct opt_list options;
	const char *snapshot;
	const char *backing;
	const char *backing_format;
	const char *sparse;
	struct opt_number threads;
	bool compress;
	const char *rate;
	bool no_create;
	bool any_order;
	bool offload;
	bool salvage;
	bool bitmaps;
	bool skip_broken;
	bool target_opts;
	bool target_zero;
};

#define ARG(field) .offset = offsetof(struct convert_args, field)

static const struct opt convert_opts[] = {
	IMAGE_OPT_FORMAT(struct convert_args, common),
	{ OPT_STRING, 'O', "target-format", "FORMAT",
	  "format of the copy, default raw", .words = IMAGE_FORMATS,
	  ARG(target_format) },
	{ OPT_LIST, 'o', "options", "KEY=VALUE,...",
	  "options of the copy; -o help lists them", ARG(options) },
	{ OPT_FLAG, 'c', "compress", NULL, "compress it", ARG(compress) },
	{ OPT_STRING, 'l', "snapshot", "SNAPSHOT",
	  "copy what is in an internal snapshot", ARG(snapshot) },
	{ OPT_STRING, 'B', "backing", "FILE",
	  "what the copy has below it: only what differs is copied",
	  .complete = OPT_COMPLETE_FILE, ARG(backing) },
	{ OPT_STRING, 'F', "backing-format", "FORMAT", "format of that",
	  .words = IMAGE_FORMATS, ARG(backing_format) },
	{ OPT_STRING, 'S', "sparse-size", "SIZE",
	  "zeroes of that size are not written, default 4k; 0: all are",
	  ARG(sparse) },
	{ OPT_NUMBER, 'm', "parallel", "N", "threads, default 8",
	  .max = 16, ARG(threads) },
	{ OPT_FLAG, 'n', "no-create", NULL, "the target is there already",
	  ARG(no_create) },
	{ OPT_FLAG, 'W', "oob-writes", NULL,
	  "write in any order: faster, and more scattered", ARG(any_order) },
	{ OPT_FLAG, 'C', "copy-range", NULL,
	  "let the host copy, where it can", ARG(offload) },
	{ OPT_STRING, 'r', "rate-limit", "BYTES", "bytes a second, at most",
	  ARG(rate) },
	{ OPT_FLAG, 0, "salvage", NULL,
	  "what cannot be read becomes zeroes", ARG(salvage) },
	{ OPT_FLAG, 0, "bitmaps", NULL, "copy persistent bitmaps, too",
	  ARG(bitmaps) },
	{ OPT_FLAG, 0, "skip-broken-bitmaps", NULL,
	  "leave inconsistent ones out", ARG(skip_broken) },
	{ OPT_FLAG, 0, "target-image-opts", NULL,
	  "the target is node options, with -n", ARG(target_opts) },
	{ OPT_FLAG, 0, "target-is-zero", NULL,
	  "the target reads as zeroes already, with -n", ARG(target_zero) },
	IMAGE_OPT_IMAGE_OPTS(struct convert_args, common),
	IMAGE_OPT_OBJECT(struct convert_args, common),
	IMAGE_OPT_CACHE(struct convert_args, common),
	IMAGE_OPT_SOURCE_CACHE(struct convert_args, common),
	IMAGE_OPT_SHARE(struct convert_args, common),
	IMAGE_OPT_PROGRESS(struct convert_args, common),
	IMAGE_OPT_QUIET(struct convert_args, common),
	IMAGE_OPT_OUTPUT(struct convert_args, common),
	{ OPT_ARGS, 0, "SOURCE... TARGET", NULL, "images, and their copy",
	  .complete = OPT_COMPLETE_FILE, ARG(files) },
	{}
};

/* One run */
struct job {
	struct image_run *r;
	const struct convert_args *a;
	const char *path;		/* of the target */
	bool qcow2;
	bool to_stdout;
	json_t *options;
	struct blk_img **src;
	size_t n_src;
	struct blk_img *target;
	struct blk_copy copy;
	struct image_rate rate;
};

static int usage(struct blk_error *e, const char *what)
{
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", what);
}

static bool is_prealloc(const struct job *j)
{
	const char *how = image_key_str(j->options, "preallocation");

	return how && strcmp(how, "off");
}

/* Which of them do not go together? */
static const char *clash(const struct job *j)
{
	const struct convert_args *a = j->a;

	if (a->files.n < 2)
		return "a source and a target are needed";
	if (j->to_stdout && (j->qcow2 || a->no_create || a->options.n ||
			     a->offload || a->salvage))
		return "a target of '-' is the raw disk: not with -O qcow2, -n, -o, -C or --salvage";
	if (a->backing && (!j->qcow2 || a->files.n != 2))
		return "-B is for one source and a qcow2 target";
	if (a->backing && !a->backing_format)
		return "-B needs the format of that file: -F";
	if (a->snapshot && a->files.n != 2)
		return "-l is for one source";
	if (a->no_create && a->options.n)
		return "-n and -o exclude each other";
	if (a->compress && is_prealloc(j))
		return "-c and preallocation exclude each other";
	if (a->offload && (a->compress || a->sparse || a->salvage))
		return "-C leaves copying to the host: not with -c, -S or --salvage";
	if (a->bitmaps && (a->files.n != 2 || a->snapshot))
		return "--bitmaps is for one source, and not with -l";
	if (a->skip_broken && !a->bitmaps)
		return "--skip-broken-bitmaps needs --bitmaps";
	if (a->target_opts && (!a->no_create || a->target_format))
		return "--target-image-opts is for targets that are there: with -n, and without -O";
	if (a->target_zero && (!a->no_create || a->backing))
		return "--target-is-zero is for targets that are there: with -n, and without -B";
	return NULL;
}

static int check_args(const struct job *j, struct blk_error *e)
{
	const char *why = clash(j);

	return why ? usage(e, why) : 0;
}

/* What depends on the target's format, as soon as that is known */
static int check_format(const struct job *j, struct blk_error *e)
{
	const char *compat = image_key_str(j->options, "compat");

	if (j->a->compress && !j->qcow2)
		return usage(e, "-c is for qcow2 targets");
	if (j->a->bitmaps && !j->qcow2)
		return usage(e, "--bitmaps is for qcow2 targets");
	if (j->a->bitmaps && compat && (!strcmp(compat, "0.10") ||
					!strcmp(compat, "v2")))
		return usage(e, "--bitmaps is for qcow2 of version 3, not compat=0.10");
	return 0;
}

static int open_sources(struct job *j, struct blk_error *e)
{
	unsigned int flags = image_flags(j->r, false);
	size_t i, n = j->a->files.n - 1;
	int rc = 0;

	j->src = calloc(n, sizeof(*j->src));
	if (!j->src)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	for (i = 0; !rc && i < n; i++) {
		rc = image_open(j->r, j->a->files.item[i].value, flags,
				&j->src[i], e);
		j->n_src += !rc;
		if (!rc && j->a->snapshot)
			rc = blk_img_use_snapshot(j->src[i], j->a->snapshot,
						  e);
		if (!rc)
			j->copy.total += blk_img_size(j->src[i]);
	}
	if (!rc && j->a->bitmaps)
		rc = convert_bitmaps_check(j->r, j->src[0], j->a->skip_broken,
					   e);
	return rc;
}

/*
 * The target
 */

static int make_target(struct job *j, struct blk_error *e)
{
	const struct convert_args *a = j->a;
	struct image_new n;
	int rc;

	if (a->no_create)
		return 0;
	if (a->backing) {
		json_object_set_new(j->options, "backing_file",
				    json_string(a->backing));
		json_object_set_new(j->options, "backing_fmt",
				    json_string(a->backing_format));
	}
	rc = image_new_parse(j->r, j->qcow2 ? "qcow2" : "raw", j->options, &n,
			     e);
	if (rc)
		return rc;
	image_new_size(&n, image_key_size(j->options, "size", j->copy.total));
	if (n.q.size < j->copy.total)
		return usage(e, "the target is smaller than what is copied");
	rc = image_new_check(&n, e);
	return rc ? rc : image_new_make(j->path, &n, e);
}

static int check_chain(const struct job *j, const struct blk_img *m,
		       struct blk_error *e)
{
	const struct blk_file *f = blk_img_file(j->target);
	const struct blk_file *data = blk_img_data_file(j->target);

	for (; m; m = blk_img_backing(m))
		if (blk_file_same(blk_img_file(m), f) ||
		    (data && blk_file_same(blk_img_file(m), data)) ||
		    (blk_img_data_file(m) &&
		     blk_file_same(blk_img_data_file(m), f)))
			return usage(e, "what is copied from cannot be the target");
	return 0;
}

static const char *target_clash(const struct job *j)
{
	const struct convert_args *a = j->a;
	struct blk_qcow2 *q = blk_img_qcow2(j->target);
	bool below = q && blk_qcow2_backing_file(q);

	if (blk_img_size(j->target) < j->copy.total)
		return "the target is smaller than what is copied";
	if (a->bitmaps && blk_img_size(j->target) != j->copy.total)
		return "--bitmaps needs a target of the same size";
	if (a->target_zero && below)
		return "--target-is-zero: there is an image below the target";
	if (q && a->compress && blk_qcow2_header(q)->crypt_method)
		return "an encrypted target cannot be compressed";
	if (q && a->backing && a->no_create && !below)
		return "-B: the target has no image below it";
	if (below && a->no_create && !blk_img_backing(j->target))
		return "the target has an image below it, and must be opened with that";
	return NULL;
}

static int check_target(const struct job *j, struct blk_error *e)
{
	const char *why = target_clash(j);
	int rc = why ? usage(e, why) : 0;

	for (size_t i = 0; i < j->n_src && !rc; i++)
		rc = check_chain(j, j->src[i], e);
	return rc;
}

/* Its name: as node options, with the key that it was made with */
static char *target_name(struct job *j)
{
	const char *id = image_key_str(j->options, "encrypt.key-secret");
	json_auto_t *o = json_pack("{s:s, s:{s:s}}", "driver",
				   j->qcow2 ? "qcow2" : "raw", "file",
				   "filename", j->path);
	char *text, *name = NULL;

	/* what is below a new one is not read, unless parts are written */
	if (!j->a->no_create && !is_prealloc(j))
		json_object_set_new(o, "backing", json_null());
	if (id)
		json_object_set_new(o, "encrypt", json_pack("{s:s, s:s}",
							    "format", "luks",
							    "key-secret", id));
	text = json_dumps(o, JSON_COMPACT);
	if (!text || asprintf(&name, "json:%s", text) < 0)
		name = NULL;
	free(text);
	return name;
}

static int open_target(struct job *j, struct blk_error *e)
{
	unsigned int flags = BLK_IMG_WRITE | BLK_IMG_RECORDED |
		image_cache_flags(j->a->common.cache, "unsafe");
	char *name = j->a->target_opts ? strdup(j->path) : target_name(j);
	int rc;

	if (!name)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "'%s' is no name that can be used here",
				     j->path);
	rc = blk_img_open(name, j->a->target_opts, NULL, flags, j->r->secrets,
			  &j->target, e);
	free(name);
	if (rc)
		return rc;
	if (j->a->target_opts) {
		j->qcow2 = blk_img_qcow2(j->target);
		rc = check_format(j, e);
	}
	return rc ? rc : check_target(j, e);
}

/*
 * Copying
 */

static int done(void *opaque, uint64_t n, bool moved, struct blk_error *e)
{
	struct job *j = opaque;

	image_progress_add(j->r, n);
	return moved ? image_rate_wait(&j->rate, n, e) : image_interrupted(e);
}

/* Always said, as an error would be; several threads */
static void lost(void *opaque, uint64_t off, uint64_t n,
		 const struct blk_error *e)
{
	fprintf(stderr, "blkctl: %" PRIu64 " bytes at %" PRIu64
		" are lost, and become zeroes: %s\n", n, off, e->msg);
}

static void set_up_qcow2(struct job *j)
{
	const struct qcow2_header *h =
		blk_qcow2_header(blk_img_qcow2(j->target));
	const struct blk_file *data = blk_img_data_file(j->target);

	j->copy.unit = qcow2_cluster_size(h);
	j->copy.type = h->compression_type;
	j->copy.hide = h->backing_file_offset;
	j->copy.own = j->a->backing;
	if (blk_build_fits(j->target)) {
		j->copy.no_zeroes = h->version < 3;
		j->copy.offload = j->a->offload && !h->crypt_method;
		return;
	}
	j->copy.over = j->target;
	j->copy.zeroed = j->a->target_zero ||
		(!j->a->no_create && !h->crypt_method &&
		 !(data ? data : blk_img_file(j->target))->is_bdev);
}

static int set_up(struct job *j, struct blk_error *e)
{
	const struct convert_args *a = j->a;
	struct blk_copy *c = &j->copy;

	c->src = j->src;
	c->n_src = j->n_src;
	c->compress = a->compress;
	c->in_order = !a->any_order;
	c->threads = a->threads.set && a->threads.value ? a->threads.value :
		THREADS_DEFAULT;
	c->done = done;
	c->opaque = j;
	c->unit = RAW_UNIT;
	c->sparse = SPARSE_DEFAULT;
	if (a->sparse && size_parse(a->sparse, &c->sparse, e))
		return -EINVAL;
	if (c->sparse & 511)
		return usage(e, "-S is a multiple of 512");
	c->bad = a->salvage ? lost : NULL;
	return image_rate_start(&j->rate, a->rate, e);
}

/* Bitmaps of a target that was there must know what is written, before it is. */
static int record(struct job *j, struct blk_error *e)
{
	const struct dm_qcow_run all = { .length = j->copy.total };
	struct blk_qcow2 *q = blk_img_qcow2(j->target);
	bool repaired;
	int rc = blk_qcow2_repair(q, &repaired, e);

	return rc ? rc : blk_qcow2_bitmaps_record(q, &all, !!all.length, e);
}

static int copy(struct job *j, struct blk_error *e)
{
	struct blk_build *b = NULL;
	int rc = 0;

	if (j->qcow2) {
		set_up_qcow2(j);
		if (j->copy.over)
			rc = record(j, e);
		else
			rc = blk_build_open(j->target, &b, e);
		j->copy.build = b;
	} else {
		j->copy.raw = blk_img_file(j->target);
		j->copy.zeroed = j->a->target_zero ||
			(!j->a->no_create && !j->copy.raw->is_bdev);
		j->copy.offload = j->a->offload;
	}
	if (rc)
		return rc;
	image_progress_start(j->r, j->copy.total);
	rc = blk_copy_run(&j->copy, e);
	if (!rc && b)
		rc = blk_build_end(b, e);
	blk_build_free(b);
	if (!rc && j->a->bitmaps && j->copy.over)
		rc = blk_img_settle(j->target, e);
	if (!rc && j->a->bitmaps)
		rc = convert_bitmaps(j->src[0], j->target, e);
	if (!rc)
		image_progress_end(j->r);
	return rc;
}

static int to_stdout(struct job *j, struct blk_error *e)
{
	int fd, rc = image_stdout(j->r, &fd, e);

	if (rc)
		return rc;
	image_progress_start(j->r, j->copy.total);
	for (size_t i = 0; i < j->n_src && !rc; i++)
		rc = image_stdout_write(j->r, fd, j->src[i], 0,
					blk_img_size(j->src[i]), &j->rate, e);
	if (!rc)
		image_progress_end(j->r);
	close(fd);
	return rc;
}

static int to_target(struct job *j, struct blk_error *e)
{
	int rc = make_target(j, e);

	if (!rc)
		rc = open_target(j, e);
	return rc ? rc : copy(j, e);
}

static int convert(struct job *j, struct blk_error *e)
{
	size_t i;
	int rc = check_args(j, e), closed;

	if (!rc && !j->a->target_opts)
		rc = check_format(j, e);
	if (!rc)
		rc = open_sources(j, e);
	if (!rc)
		rc = set_up(j, e);
	if (!rc)
		rc = j->to_stdout ? to_stdout(j, e) : to_target(j, e);
	closed = blk_img_close(j->target, rc ? NULL : e);
	for (i = 0; i < j->n_src; i++)
		blk_img_close(j->src[i], NULL);
	free(j->src);
	return rc ? rc : closed;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct convert_args *a = args;
	const char *format = a->target_format ? a->target_format : "raw";
	const struct image_key *keys = image_format_keys(format);
	struct image_run r;
	struct job j = { .r = &r, .a = a, .qcow2 = !strcmp(format, "qcow2"),
			 .path = a->files.item[a->files.n - 1].value };
	int rc;

	if (image_keys_help(&a->options, keys))
		return 0;
	j.to_stdout = !a->target_opts && image_is_stream(j.path);
	rc = image_begin(cli, &a->common, &r, e);
	if (!rc)
		rc = image_keys(&a->options, keys, format, &j.options, e);
	if (!rc)
		rc = convert(&j, e);
	if (!rc && cli->json)
		out_document(cli, "convert",
			     json_pack("{s:s, s:s, s:I}", "filename", j.path,
				       "format", j.qcow2 ? "qcow2" : "raw",
				       "virtual-size",
				       (json_int_t)j.copy.total));
	json_decref(j.options);
	return image_end(&r, rc, e);
}

const struct verb verb_image_convert = {
	.name = "convert",
	.of = "image",
	.summary = "copy images, into another format perhaps",
	.opts = convert_opts,
	.qemu_codes = true,
	.args_size = sizeof(struct convert_args),
	.run = run,
};
