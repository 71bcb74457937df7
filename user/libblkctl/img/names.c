// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How images are named: paths, "json:{...}", "driver=qcow2,file.filename=...",
 * and names in headers.
 *
 * Owns: the list of node options that mean something here.  Opens nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/json.h"
#include "img/img_int.h"

int img_no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

static int bad(struct blk_error *e, const char *what, const char *name)
{
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s '%.160s'", what,
			     name);
}

/* "file.filename": one object within another; takes @v */
static int put_nested(json_t *o, const char *key, json_t *v,
		      struct blk_error *e)
{
	const char *dot;
	char part[64];

	while ((dot = strchr(key, '.'))) {
		json_t *inner;

		snprintf(part, sizeof(part), "%.*s", (int)(dot - key), key);
		inner = json_object_get(o, part);
		if (!inner)
			json_object_set_new(o, part, json_object());
		o = json_object_get(o, part);
		if (!json_is_object(o)) {
			json_decref(v);
			return bad(e, "both a value and options are given for",
				   part);
		}
		key = dot + 1;
	}
	json_object_set_new(o, key, v);
	return 0;
}

/* Up to a comma that stands alone; *text is behind it then */
static json_t *take_value(const char **text)
{
	size_t room = strlen(*text) + 1, n = 0;
	char *buf = malloc(room);
	const char *p = *text;
	json_t *v;

	for (; buf && *p; p++) {
		if (*p == ',' && *++p != ',')
			break;
		buf[n++] = *p;
	}
	*text = p;
	v = buf ? json_stringn_nocheck(buf, n) : NULL;
	free(buf);
	return v;
}

static int parse_opts(const char *text, json_t **out, struct blk_error *e)
{
	char key[128];
	size_t len;
	int rc = 0;

	*out = json_object();
	while (!rc && *text) {
		len = strcspn(text, "=,");
		if (text[len] != '=' || len >= sizeof(key))
			return bad(e, "no node option:", text);
		snprintf(key, sizeof(key), "%.*s", (int)len, text);
		text += len + 1;
		rc = put_nested(*out, key, take_value(&text), e);
	}
	return rc;
}

/* Its keys may have dots too. */
static int parse_json(const char *text, json_t **out, struct blk_error *e)
{
	json_error_t why;
	json_auto_t *flat = json_loads(text, 0, &why);
	const char *key;
	json_t *v;
	int rc = 0;

	if (!json_is_object(flat))
		return bad(e, "no JSON object:", text);
	*out = json_object();
	json_object_foreach(flat, key, v)
		if (!rc)
			rc = put_nested(*out, key, json_incref(v), e);
	return rc;
}

/* Nothing is ignored silently. */
static int check_known(const json_t *o, struct blk_error *e)
{
	static const char *const known[] = {
		"driver", "file", "filename", "encrypt", "backing", "data-file",
		"node-name", "read-only", "auto-read-only", "cache", "discard",
		"detect-zeroes", "locking", "aio",
	};
	const char *key;
	json_t *v;
	size_t i;

	json_object_foreach((json_t *)o, key, v) {
		for (i = 0; i < sizeof(known) / sizeof(*known); i++)
			if (!strcmp(key, known[i]))
				break;
		if (i == sizeof(known) / sizeof(*known))
			return bad(e, "there is no node option", key);
	}
	return 0;
}

static bool is_protocol(const char *driver)
{
	return !strcmp(driver, "file") || !strcmp(driver, "host_device");
}

static int take_file(const json_t *o, struct img_node *out,
		     struct blk_error *e)
{
	const json_t *file = json_object_get(o, "file");
	const char *driver;

	if (!file)
		file = o;
	driver = blk_json_str(file, "driver", "file");
	if (file != o && !is_protocol(driver))
		return bad(e, "images are in files and block devices, not in",
			   driver);
	out->filename = blk_json_str(file, "filename", NULL);
	return out->filename ? 0 :
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "node options without a file name");
}

int img_node_parse(const json_t *o, struct img_node *out, struct blk_error *e)
{
	const json_t *backing = json_object_get(o, "backing");
	const char *driver = blk_json_str(o, "driver", NULL);
	int rc = check_known(o, e);

	if (rc)
		return rc;
	if (driver && is_protocol(driver))
		driver = "raw";
	if (driver && strcmp(driver, "raw") && strcmp(driver, "qcow2"))
		return bad(e, "there is no driver here for", driver);
	out->format = driver;
	out->secret = blk_json_str(json_object_get(o, "encrypt"), "key-secret",
				   NULL);
	out->no_backing = json_is_null(backing) ||
		(json_is_string(backing) && !*json_string_value(backing));
	out->backing = json_is_object(backing) ? backing : NULL;
	out->data = json_object_get(o, "data-file");
	return take_file(o, out, e);
}

static int parse_name(const char *name, bool image_opts, struct img_node *out,
		      struct blk_error *e)
{
	int rc;

	*out = (struct img_node){ .filename = name };
	if (image_opts)
		rc = parse_opts(name, &out->json, e);
	else if (!strncmp(name, "json:", 5))
		rc = parse_json(name + 5, &out->json, e);
	else if (!strncmp(name, "file:", 5))
		return out->filename += 5, 0;
	else
		return 0;
	return rc ? rc : img_node_parse(out->json, out, e);
}

/* -f and a driver that differ: which of them is meant? */
static int agree(const char *name, struct img_node *n, const char *format,
		 struct blk_error *e)
{
	if (format && n->format && strcmp(format, n->format))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%.160s' has a driver, and -f says another",
				     name);
	if (!n->format)
		n->format = format;
	return 0;
}

int img_name_parse(const char *name, bool image_opts, const char *format,
		   struct img_node *out, struct blk_error *e)
{
	int rc = parse_name(name, image_opts, out, e);

	return rc ? rc : agree(name, out, format, e);
}

int blk_img_name_file(const char *name, bool image_opts, const char **format,
		      char **path, struct blk_error *e)
{
	struct img_node n;
	int rc = img_name_parse(name, image_opts, *format, &n, e);

	*path = NULL;
	if (!rc) {
		*format = !n.format ? NULL :
			!strcmp(n.format, "qcow2") ? "qcow2" : "raw";
		*path = strdup(n.filename);
		rc = *path ? 0 : img_no_memory(e);
	}
	json_decref(n.json);
	return rc;
}

int img_name_resolve(const struct blk_img *m, const char *name, char **out,
		     struct blk_error *e)
{
	const char *image = m->file->path, *slash = strrchr(image, '/');
	size_t len;

	*out = NULL;
	if (!strncmp(name, "json:", 5))
		return (*out = strdup(name)) ? 0 : img_no_memory(e);
	if (!strncmp(name, "file:", 5))
		name += 5;
	len = strcspn(name, ":/");
	if (name[len] == ':')
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "the header of '%s' names '%.160s': the protocol '%.*s' is not supported",
				     image, name, (int)(len < 32 ? len : 32),
				     name);
	if (*name == '/' || !slash)
		*out = strdup(name);
	else if (asprintf(out, "%.*s%s", (int)(slash - image) + 1, image,
			  name) < 0)
		*out = NULL;
	return *out ? 0 : img_no_memory(e);
}
