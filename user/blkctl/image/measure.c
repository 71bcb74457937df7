// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image measure: how much room an image will need, before it is made.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"
#include "img/measure.h"

struct measure_args {
	struct image_common common;
	const char *file;
	const char *size;
	const char *target;
	const char *snapshot;
	struct opt_list options;
};

static const struct opt measure_opts[] = {
	{ OPT_ARG_MAYBE, 0, "FILE", NULL, "image that is to be converted",
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct measure_args, file) },
	{ OPT_STRING, 0, "size", "SIZE", "a new image of that size, in place of FILE",
	  .offset = offsetof(struct measure_args, size) },
	{ OPT_STRING, 'O', "target-format", "FORMAT",
	  "format of the new image, default raw", .words = IMAGE_FORMATS,
	  .offset = offsetof(struct measure_args, target) },
	{ OPT_LIST, 'o', "options", "KEY=VALUE,...",
	  "options of the new image; -o help",
	  .offset = offsetof(struct measure_args, options) },
	{ OPT_STRING, 'l', "snapshot", "SNAPSHOT",
	  "what is in a snapshot of FILE",
	  .offset = offsetof(struct measure_args, snapshot) },
	IMAGE_OPT_FORMAT(struct measure_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct measure_args, common),
	IMAGE_OPT_OBJECT(struct measure_args, common),
	IMAGE_OPT_SHARE(struct measure_args, common),
	IMAGE_OPT_OUTPUT(struct measure_args, common),
	{}
};

/* What comes out */
struct result {
	uint64_t required;
	uint64_t full;
	uint64_t bitmaps;
	bool has_bitmaps;
};

static int usage(struct blk_error *e, const char *what)
{
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", what);
}

static int check_args(const struct measure_args *a, struct blk_error *e)
{
	if (a->size && a->file)
		return usage(e, "--size and FILE exclude each other");
	if (!a->size && !a->file)
		return usage(e, "either --size or FILE is needed");
	if (a->size && (a->common.format || a->common.image_opts ||
			a->snapshot))
		return usage(e, "-f, --image-opts and -l are for FILE");
	return 0;
}

static bool is_v2(const json_t *o)
{
	const char *v = image_key_str(o, "compat");

	return v && (!strcmp(v, "0.10") || !strcmp(v, "v2"));
}

/* "aes-256": what is behind the last minus, in bits; of two keys for XTS */
static unsigned int key_bytes(const json_t *o)
{
	const char *alg = image_key_str(o, "encrypt.cipher-alg");
	const char *mode = image_key_str(o, "encrypt.cipher-mode");
	const char *bits = alg ? strrchr(alg, '-') : "-256";
	unsigned int n = bits ? atoi(bits + 1) / 8 : 24;	/* 3des */

	return n * (!mode || !strcmp(mode, "xts") ? 2 : 1);
}

static int qcow2_layout(const struct image_run *r, const json_t *o,
			struct blk_measure *m, struct blk_error *e)
{
	const char *luks = image_key_str(o, "encrypt.format");
	const char *secret = image_key_str(o, "encrypt.key-secret");
	const char *type = image_key_str(o, "compression_type");

	*m = (struct blk_measure){
		.cluster_size = image_key_size(o, "cluster_size", 65536),
		.refcount_bits = image_key_size(o, "refcount_bits", 16),
		.extended_l2 = image_key_bool(o, "extended_l2", false),
	};
	if (is_v2(o) && (m->refcount_bits != 16 || m->extended_l2 ||
			 image_key_bool(o, "lazy_refcounts", false) ||
			 image_key_str(o, "data_file") ||
			 (type && strcmp(type, "zlib"))))
		return usage(e, "other refcounts than of 16 bits, extended L2 entries, lazy refcounts, data files and compression types need compat=1.1");
	if (!luks)
		return 0;
	if (!secret || !blk_secrets_find(r->secrets, secret))
		return usage(e, "encryption needs encrypt.key-secret=ID, and --object secret,id=ID,...");
	m->header_bytes = blk_measure_luks(key_bytes(o));
	return 0;
}

static bool is_preallocated(const json_t *o)
{
	const char *p = image_key_str(o, "preallocation");

	return p && (!strcmp(p, "falloc") || !strcmp(p, "full"));
}

/* Of its own version 3 a source can hand on bitmaps. */
static int add_bitmaps(struct blk_img *src, const json_t *o,
		       const struct blk_measure *m, struct result *out,
		       struct blk_error *e)
{
	struct blk_qcow2 *q = src ? blk_img_qcow2(src) : NULL;

	if (!q || is_v2(o) || blk_qcow2_header(q)->version < 3)
		return 0;
	out->has_bitmaps = true;
	return blk_qcow2_bitmaps_size(q, m->cluster_size, &out->bitmaps, e);
}

/* @src: NULL: a new image of @size bytes */
static int as_qcow2(const struct image_run *r, struct blk_img *src,
		    uint64_t size, const json_t *o, struct result *out,
		    struct blk_error *e)
{
	struct blk_measure m;
	uint64_t data = 0;
	int rc = qcow2_layout(r, o, &m, e);

	if (!rc)
		rc = blk_measure_qcow2(&m, size, &out->full, e);
	if (rc)
		return rc;
	size = (size + m.cluster_size - 1) / m.cluster_size * m.cluster_size;
	if (is_preallocated(o) || (src && image_key_str(o, "backing_file")))
		data = size;
	else if (src)
		rc = blk_measure_data(src, m.cluster_size, image_interrupted,
				      &data, e);
	out->required = out->full - size + data;
	return rc ? rc : add_bitmaps(src, o, &m, out, e);
}

static void as_raw(uint64_t size, struct result *out)
{
	out->full = out->required = (size + 511) & ~511ULL;
}

static void print(const struct image_run *r, const struct result *s)
{
	json_t *doc;

	if (!r->cli->json) {
		printf("required size: %" PRIu64 "\n"
		       "fully allocated size: %" PRIu64 "\n", s->required,
		       s->full);
		if (s->has_bitmaps)
			printf("bitmaps size: %" PRIu64 "\n", s->bitmaps);
		return;
	}
	doc = json_pack("{s:I, s:I}", "required", (json_int_t)s->required,
			"fully-allocated", (json_int_t)s->full);
	if (s->has_bitmaps)
		json_object_set_new(doc, "bitmaps", json_integer(s->bitmaps));
	out_document(r->cli, "measure", doc);
}

static int measure(struct image_run *r, const struct measure_args *a,
		   const json_t *o, struct blk_error *e)
{
	bool qcow2 = a->target && !strcmp(a->target, "qcow2");
	struct result s = { 0 };
	struct blk_img *src = NULL;
	uint64_t size = 0;
	int rc;

	rc = a->size ? size_parse(a->size, &size, e) :
		image_open(r, a->file, image_flags(r, false), &src, e);
	if (rc)
		return rc;
	if (a->snapshot)
		rc = blk_img_use_snapshot(src, a->snapshot, e);
	if (src)
		size = blk_img_size(src);
	if (!rc && qcow2)
		rc = as_qcow2(r, src, size, o, &s, e);
	else if (!rc)
		as_raw(size, &s);
	blk_img_close(src, NULL);
	if (!rc)
		print(r, &s);
	return rc;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct measure_args *a = args;
	const char *target = a->target ? a->target : "raw";
	const struct image_key *keys = image_format_keys(target);
	json_auto_t *o = NULL;
	struct image_run r;
	int rc;

	if (image_keys_help(&a->options, keys))
		return 0;
	rc = image_begin(cli, &a->common, &r, e);
	if (!rc)
		rc = check_args(a, e);
	if (!rc)
		rc = image_keys(&a->options, keys, target, &o, e);
	if (!rc)
		rc = measure(&r, a, o, e);
	return image_end(&r, rc, e);
}

const struct verb verb_image_measure = {
	.name = "measure",
	.of = "image",
	.summary = "say how large an image will be",
	.opts = measure_opts,
	.qemu_codes = true,
	.args_size = sizeof(struct measure_args),
	.run = run,
};
