// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The model: joins what the daemon says of devices and of nodes.
 *
 * Owns the names that blkctl gives to nodes.  Prints nothing.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "device.h"

int device_nodes(struct client *c, json_t **out, struct blk_error *e)
{
	return client_call(c, "query-named-block-nodes", NULL, out, e);
}

const json_t *device_node(const json_t *nodes, const char *name)
{
	const json_t *n, *v;
	size_t i;

	json_array_foreach(nodes, i, n) {
		v = json_object_get(n, "node-name");
		if (v && !strcmp(json_string_value(v), name))
			return n;
	}
	return NULL;
}

/* Adds what the user calls the device and the image. */
static void add_names(json_t *dev, const json_t *nodes)
{
	const char *name = "", *node = "";
	const json_t *n;

	json_unpack(dev, "{s?s, s?s}", "name", &name, "node-name", &node);
	json_object_set_new(dev, "path",
			    json_sprintf(DEVICE_DIR "%s", name));
	n = device_node(nodes, node);
	json_object_set(dev, "image", json_object_get(n, "file"));
	json_object_set(dev, "format", json_object_get(n, "drv"));
}

int device_list(struct client *c, json_t **out, struct blk_error *e)
{
	json_auto_t *nodes = NULL;
	json_t *dev;
	size_t i;
	int rc;

	rc = device_nodes(c, &nodes, e);
	if (!rc)
		rc = client_call(c, "query-device-mapper", NULL, out, e);
	if (rc)
		return rc;
	json_array_foreach(*out, i, dev)
		add_names(dev, nodes);
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

void device_warn(struct cli *cli, const json_t *devices)
{
	const json_t *dev;
	size_t i;

	json_array_foreach(devices, i, dev) {
		const char *name = "", *mode = "";
		int writable = 0;

		json_unpack((json_t *)dev, "{s?s, s?s, s?b}", "name", &name,
			    "mode", &mode, "writable", &writable);
		if (writable && strcmp(mode, "rw"))
			out_warn(cli, "device '%s' is in mode %s", name, mode);
	}
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
