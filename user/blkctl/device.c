// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The devices of the daemon, and what is wrong with them.
 *
 * Owns the names that blkctl gives to nodes.  Asks the daemon for everything
 * else; prints nothing but warnings.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "device.h"

int device_list(struct client *c, json_t **out, struct blk_error *e)
{
	json_t *dev;
	size_t i;
	int rc;

	rc = client_call(c, "query-device-mapper", NULL, out, e);
	if (rc)
		return rc;
	json_array_foreach(*out, i, dev) {
		json_object_set(dev, "path", json_object_get(dev, "device"));
		json_object_del(dev, "device");
	}
	return 0;
}

int device_find(struct client *c, const char *name, json_t **out,
		struct blk_error *e)
{
	json_auto_t *all = NULL;
	json_t *dev;
	size_t i;
	int rc;

	rc = device_list(c, &all, e);
	if (rc)
		return rc;
	json_array_foreach(all, i, dev) {
		const char *n = json_string_value(json_object_get(dev, "name"));

		if (n && !strcmp(n, name)) {
			*out = json_incref(dev);
			return 0;
		}
	}
	blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
		      "there is no device '%s'", name);
	blk_error_hint(e, "blkctl list");
	return -ENOENT;
}

static void warn_one(struct cli *cli, json_t *dev)
{
	int writable = 0, managed = 1, full = 0, corrupt = 0, err = 0;
	const char *name = "", *mode = "";

	json_unpack(dev, "{s?s, s?s, s?b, s?b, s?b, s?b, s?i}", "name", &name,
		    "mode", &mode, "writable", &writable, "managed", &managed,
		    "host-full", &full, "corrupt", &corrupt, "errno", &err);
	if (!managed)
		out_warn(cli, "device '%s' is not managed by this daemon",
			 name);
	if (corrupt)
		out_warn(cli, "device '%s': its image has bad metadata, see qemu-img check",
			 name);
	if (full)
		out_warn(cli, "device '%s': the host has no space left", name);
	if (writable && !strcmp(mode, "ro"))
		out_warn(cli, "device '%s' has become read-only: %s", name,
			 err ? strerror(err) : "its mapping cannot be written");
	else if (!strcmp(mode, "fail"))
		out_warn(cli, "device '%s' has failed: %s", name,
			 err ? strerror(err) : "its image cannot be used");
}

void device_warn(struct cli *cli, const json_t *devices)
{
	json_t *dev;
	size_t i;

	json_array_foreach(devices, i, dev)
		warn_one(cli, dev);
}

/* QEMU's rule for ids: a letter, then letters, digits and "-._" */
static bool legal_node_name(const char *s)
{
	if (!isalpha((unsigned char)*s) || strlen(s) > DEVICE_NODE_MAX)
		return false;
	for (; *s; s++)
		if (!isalnum((unsigned char)*s) && !strchr("-._", *s))
			return false;
	return true;
}

void device_node_name(const char *name, char *buf)
{
	uint64_t h = 0xcbf29ce484222325;	/* FNV-1a */
	const char *s;

	if (legal_node_name(name)) {
		strcpy(buf, name);
		return;
	}
	for (s = name; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3;
	snprintf(buf, DEVICE_NODE_MAX + 1, "device-%016" PRIx64, h);
}
