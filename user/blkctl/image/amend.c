// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image amend: what an image is, changed after it was made.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/luks.h"
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
	{ "encrypt.iter-time",
	  .help = "milliseconds that a guess at the new passphrase takes" },
	{ "encrypt.keyslot", .help = "of LUKS: which, 0 to 7" },
	{ "encrypt.new-secret",
	  .help = "id of the passphrase for a slot that is filled" },
	{ "encrypt.old-secret",
	  .help = "id of the passphrase of slots that are erased" },
	{ "encrypt.state", "active: fill a key slot; inactive: erase",
	  .words = "active inactive" },
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

/*
 * Key slots
 */

/* A secret of --object; *out NULL: none is named */
static int find_secret(const struct image_run *r, const char *id,
		       const struct blk_secret **out, struct blk_error *e)
{
	*out = id ? blk_secrets_find(r->secrets, id) : NULL;
	return !id || *out ? 0 :
		blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
			      "No secret with id '%.80s'", id);
}

static int check_slots(const json_t *o, const struct blk_luks_amend *a,
		       struct blk_error *e)
{
	const char *why = NULL;

	if (!image_key_str(o, "encrypt.state"))
		why = "encrypt.state=active or inactive is missing";
	else if (a->activate && !a->secret)
		why = "encrypt.new-secret is needed to fill a key slot";
	else if (a->activate && image_key_str(o, "encrypt.old-secret"))
		why = "encrypt.old-secret is for slots that are erased";
	else if (!a->activate && image_key_str(o, "encrypt.new-secret"))
		why = "encrypt.new-secret is for a slot that is filled";
	else if (!a->activate && image_key_str(o, "encrypt.iter-time"))
		why = "encrypt.iter-time is for a slot that is filled";
	else if (!a->activate && !a->secret && a->slot < 0)
		why = "encrypt.keyslot or encrypt.old-secret must say what is to be erased";
	return why ? blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", why) : 0;
}

static int number(const json_t *o, const char *key, long *n,
		  struct blk_error *e)
{
	const char *text = image_key_str(o, key);
	char *end;

	if (!text)
		return 0;
	errno = 0;
	*n = strtol(text, &end, 10);
	if (!errno && end != text && !*end && *n >= 0 && *n <= INT_MAX)
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			     "'%s' is no number: %s", text, key);
}

static int open_secret(const struct image_run *r, const char *file,
		       const struct blk_secret **out, struct blk_error *e)
{
	json_auto_t *o = json_object();
	int ret = r->common->image_opts ? image_keyval(file, NULL, o, e) : 0;

	if (!ret)
		ret = find_secret(r, image_key_str(o, "encrypt.key-secret"),
				  out, e);
	if (ret || *out)
		return ret;
	blk_error_set(e, BLK_ERR_FAILED, ENOKEY,
		      "'%s' is encrypted: its passphrase is needed to change key slots",
		      file);
	blk_error_hint(e, "--object secret,id=s,file=KEY --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=...");
	return -ENOKEY;
}

static int amend_slots(const struct image_run *r, struct meta *m,
		       const json_t *o, struct blk_error *e)
{
	const char *state = image_key_str(o, "encrypt.state");
	struct blk_luks_amend a = {
		.activate = state && !strcmp(state, "active"),
	};
	const struct blk_secret *s = NULL, *open = NULL;
	long slot = -1, ms = 0;
	int ret = find_secret(r, image_key_str(o, a.activate ?
			      "encrypt.new-secret" : "encrypt.old-secret"), &s,
			      e);

	if (!ret)
		ret = number(o, "encrypt.keyslot", &slot, e);
	if (!ret)
		ret = number(o, "encrypt.iter-time", &ms, e);
	if (ret)
		return ret;
	a.slot = (int)slot;
	a.iter_ms = (unsigned int)ms;
	a.secret = s ? s->data : NULL;
	a.secret_len = s ? s->len : 0;
	ret = check_slots(o, &a, e);
	if (!ret && blk_qcow2_header(m->q)->crypt_method != QCOW2_CRYPT_LUKS)
		ret = blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				    "'%s' is not encrypted with LUKS: it has no key slots",
				    m->name);
	if (!ret)
		ret = open_secret(r, m->name, &open, e);
	if (ret)
		return ret;
	a.passphrase = open->data;
	a.passphrase_len = open->len;
	return blk_luks_amend(m->q, &a, e);
}

static bool has_slots(const json_t *o)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)o, key, v)
		if (!strncmp(key, "encrypt.", 8))
			return true;
	return false;
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
	if (!ret && has_slots(o))
		ret = amend_slots(r, m, o, e);
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
