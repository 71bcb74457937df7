// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What happens before and after a verb of "blkctl image": options that many of
 * them have.
 *
 * Owns: the secrets of a run.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/held.h"
#include "image/image.h"

static const struct image_key secret_keys[] = {
	{ .name = "qom-type", .words = "secret secret_keyring" },
	{ .name = "id" },
	{ .name = "data" },
	{ .name = "file" },
	{ .name = "format", .words = "raw base64" },
	{ .name = "serial" },
	{ .name = "keyid" },
	{ .name = "iv" },
	{}
};

static int check_secret(json_t *o, struct blk_error *e)
{
	const char *serial = image_key_str(o, "serial");
	char *end;

	if (image_keys_check(o, secret_keys, "a secret", e))
		return -EINVAL;
	if (!serial)
		return 0;
	errno = 0;
	json_object_set_new(o, "serial", json_integer(strtol(serial, &end, 0)));
	return errno || *end || !*serial ?
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "'%s' is no serial number of a key", serial) : 0;
}

static int parse_object(const char *text, json_t **out, struct blk_error *e)
{
	json_error_t why;
	int rc;

	if (*text == '{') {
		*out = json_loads(text, 0, &why);
		return *out ? 0 : blk_error_set(e, BLK_ERR_USAGE, EINVAL,
						"--object is no JSON: %s",
						why.text);
	}
	*out = json_object();
	rc = image_keyval(text, "qom-type", *out, e);
	return rc ? rc : check_secret(*out, e);
}

static int add_object(struct image_run *r, const char *text,
		      struct blk_error *e)
{
	struct blk_secret *one = NULL;
	json_auto_t *o = NULL;
	const char *type, *id;
	int rc;

	rc = parse_object(text, &o, e);
	if (rc)
		return rc;
	type = image_key_str(o, "qom-type");
	id = image_key_str(o, "id");
	if (!type || (strcmp(type, "secret") && strcmp(type, "secret_keyring")))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is no object that there is here (choose from: secret secret_keyring)",
				     type ? type : "");
	if (!id)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "--object needs id=NAME");
	rc = blk_secrets_load(o, &one, e);
	return rc ? rc : blk_secrets_add(r->secrets, one, e);
}

int image_begin(struct cli *cli, const struct image_common *c,
		struct image_run *r, struct blk_error *e)
{
	size_t i;
	int rc;

	*r = (struct image_run){
		.cli = cli, .common = c, .secrets = blk_secrets_new(),
		.progress.fd = -1,
	};
	if (c->output && !strcmp(c->output, "json"))
		cli->json = true;
	if (!r->secrets)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	image_signals();
	rc = image_progress_init(r, e);
	for (i = 0; !rc && i < c->objects.n; i++)
		rc = add_object(r, c->objects.item[i].value, e);
	return rc;
}

int image_end(struct image_run *r, int rc, struct blk_error *e)
{
	if (r->secrets)
		blk_secrets_free(r->secrets);
	if (!rc) {
		image_targets_keep();
		return 0;
	}
	image_targets_remove();
	image_held_explain(r, e);
	/* as the shell has it for who dies of a signal */
	if (rc == -EINTR && image_signal())
		r->cli->exit_code = 128 + image_signal();
	return rc;
}

unsigned int image_cache_flags(const char *mode, const char *preset)
{
	static const struct {
		const char *mode;
		unsigned int flags;
	} modes[] = {
		{ "none", 0 },
		{ "directsync", 0 },
		{ "writeback", BLK_IMG_BUFFERED },
		{ "writethrough", BLK_IMG_BUFFERED },
		{ "unsafe", BLK_IMG_BUFFERED | BLK_IMG_UNSAFE },
	};
	size_t i;

	mode = mode ? mode : preset;
	for (i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		if (!strcmp(modes[i].mode, mode))
			return modes[i].flags;
	return BLK_IMG_BUFFERED;
}

bool image_cache_through(const char *mode)
{
	return mode && (!strcmp(mode, "directsync") ||
			!strcmp(mode, "writethrough"));
}

unsigned int image_flags(const struct image_run *r, bool write)
{
	const struct image_common *c = r->common;

	return (write ? BLK_IMG_WRITE : 0) |
		(c->share ? BLK_IMG_NO_LOCK : 0) |
		image_cache_flags(write || !c->source_cache ? c->cache :
				  c->source_cache, "writeback");
}

int image_open_as(struct image_run *r, const char *name, const char *format,
		  unsigned int flags, struct blk_img **out,
		  struct blk_error *e)
{
	char in[IMAGE_STDIN_NAME];
	int rc;

	if (!r->common->image_opts && image_is_stream(name)) {
		if (flags & BLK_IMG_WRITE)
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "'-' is standard input, which cannot be changed");
		rc = image_stdin(in, e);
		if (rc)
			return rc;
		name = in;
	}
	return blk_img_open(name, r->common->image_opts, format, flags,
			    r->secrets, out, e);
}

bool image_is_human(const struct image_run *r)
{
	return !r->common->quiet && !r->cli->json;
}

void image_say(const struct image_run *r, const char *fmt, ...)
{
	va_list ap;

	if (!image_is_human(r))
		return;
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
}
