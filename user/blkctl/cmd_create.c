// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl create: an image becomes a device.
 *
 * Two steps at the daemon, a node and its export; if the second fails the
 * first is undone.  Prints the path of the device and nothing else.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "client.h"
#include "device.h"
#include "key.h"
#include "out.h"

#define ASK_TRIES 3

struct create_args {
	const char *name;
	const char *image;
	const char *format;
	const char *snapshot;
	bool read_only;
	bool allow_external;
	bool invalidate_bitmaps;
	struct opt_number no_space_timeout;
	struct key_source key;
};

#define ARG(field) .offset = offsetof(struct create_args, field)

static const struct opt create_opts[] = {
	{ OPT_ARG, 0, "NAME", NULL, "name of the device in " DEVICE_DIR,
	  ARG(name) },
	{ OPT_ARG, 0, "IMAGE", NULL, "file or block device with the image",
	  .complete = OPT_COMPLETE_FILE, ARG(image) },
	{ OPT_FLAG, 'r', "read-only", NULL, "never write to the image",
	  ARG(read_only) },
	{ OPT_STRING, 'f', "format", "FORMAT", "format of the image",
	  .words = "qcow2", ARG(format) },
	{ OPT_STRING, 0, "snapshot", "TAG",
	  "show an internal snapshot, read-only; its id or name",
	  ARG(snapshot) },
	{ OPT_FLAG, 0, "allow-external", NULL,
	  "the image may name files outside its directory",
	  ARG(allow_external) },
	{ OPT_FLAG, 0, "invalidate-bitmaps", NULL,
	  "give up bitmaps that would miss what is written",
	  ARG(invalidate_bitmaps) },
	{ OPT_NUMBER, 0, "no-space-timeout", "SEC",
	  "how long writes wait when the host is full", .max = 86400,
	  ARG(no_space_timeout) },
	{ OPT_STRING, 0, "key-file", "FILE",
	  "passphrase of an encrypted image, \"-\": standard input",
	  .complete = OPT_COMPLETE_FILE, ARG(key.file) },
	{ OPT_STRING, 0, "key-keyring", "DESCRIPTION",
	  "the same, from a key of type \"user\" in the kernel's keyrings",
	  ARG(key.keyring) },
	{}
};

/* What the daemon is to open, seen from any working directory. */
static int resolve_image(const char *image, char **path, const char **driver,
			 struct blk_error *e)
{
	struct stat st;

	*path = realpath(image, NULL);
	if (!*path || stat(*path, &st))
		return blk_error_set(e, errno == ENOENT ? BLK_ERR_NOT_FOUND
							: BLK_ERR_FAILED,
				     errno, "cannot open '%s': %s", image,
				     strerror(errno));
	if (S_ISREG(st.st_mode))
		*driver = "file";
	else if (S_ISBLK(st.st_mode))
		*driver = "host_device";
	else
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "'%s' is neither a file nor a block device",
				     image);
	return 0;
}

static int check_name(struct client *c, const char *name, struct blk_error *e)
{
	json_auto_t *dev = NULL;
	const char *image = NULL;
	int rc;

	rc = device_find(c, name, &dev, e);
	if (rc == -ENOENT) {
		*e = (struct blk_error){ 0 };
		return 0;
	}
	if (rc)
		return rc;
	json_unpack(dev, "{s?{s?s}}", "image", "filename", &image);
	return blk_error_set(e, BLK_ERR_BUSY, EEXIST,
			     "device '%s' exists already, for image '%s'",
			     name, image ? image : "?");
}

static bool is_read_only(const struct create_args *a)
{
	return a->read_only || a->snapshot;
}

static int add_node(struct client *c, const struct create_args *a,
		    const char *node, const char *driver, const char *path,
		    const struct key *key, struct blk_error *e)
{
	json_t *args = json_pack("{s:s, s:s, s:b, s:{s:s, s:s}}",
				 "driver", a->format ? a->format : "qcow2",
				 "node-name", node,
				 "read-only", (int)is_read_only(a),
				 "file", "driver", driver, "filename", path);

	if (a->allow_external)
		json_object_set_new(args, "allow-external", json_true());
	return key->data ? key_call(c, "blockdev-add", args, key, e) :
		client_call(c, "blockdev-add", args, NULL, e);
}

/* It has turned out to be encrypted. */
static int ask_and_add_node(struct client *c, const struct create_args *a,
			    const char *node, const char *driver,
			    const char *path, struct blk_error *e)
{
	struct key key;
	int i, rc = -EKEYREJECTED;

	for (i = 0; i < ASK_TRIES && rc == -EKEYREJECTED; i++) {
		if (i)
			fprintf(stderr, "blkctl: that is not the passphrase\n");
		rc = key_ask(path, &key, e);
		if (rc)
			return rc;
		*e = (struct blk_error){ 0 };
		rc = add_node(c, a, node, driver, path, &key, e);
		key_wipe(&key);
	}
	return rc;
}

static int open_image(struct client *c, const struct create_args *a,
		      const char *node, const char *driver, const char *path,
		      struct blk_error *e)
{
	struct key key = { NULL, 0 };
	int rc;

	if (key_is_given(&a->key)) {
		rc = key_read(&a->key, &key, e);
		if (rc)
			return rc;
	}
	rc = add_node(c, a, node, driver, path, &key, e);
	key_wipe(&key);
	if (rc != -ENOKEY || key_is_given(&a->key))
		return rc;
	return ask_and_add_node(c, a, node, driver, path, e);
}

static int add_export(struct client *c, const struct create_args *a,
		      const char *node, struct blk_error *e)
{
	json_t *args = json_pack("{s:s, s:s, s:s, s:s, s:b}",
				 "type", "device-mapper", "id", node,
				 "node-name", node, "name", a->name,
				 "writable", (int)!is_read_only(a));

	if (a->snapshot)
		json_object_set_new(args, "snapshot",
				    json_string(a->snapshot));
	if (a->invalidate_bitmaps)
		json_object_set_new(args, "invalidate-bitmaps", json_true());
	if (a->no_space_timeout.set)
		json_object_set_new(args, "no-space-timeout",
				    json_integer(a->no_space_timeout.value));
	return client_call(c, "block-export-add", args, NULL, e);
}

static int create(struct client *c, const struct create_args *a,
		  const char *driver, const char *path, struct blk_error *e)
{
	char node[DEVICE_NODE_MAX + 1];
	int rc;

	device_node_name(a->name, node);
	rc = check_name(c, a->name, e);
	if (!rc)
		rc = open_image(c, a, node, driver, path, e);
	if (rc)
		return rc;
	rc = add_export(c, a, node, e);
	if (rc)
		client_call(c, "blockdev-del",
			    json_pack("{s:s}", "node-name", node), NULL, NULL);
	return rc;
}

static void print_device(struct cli *cli, const struct create_args *a,
			 const char *path)
{
	if (!cli->json) {
		printf(DEVICE_DIR "%s\n", a->name);
		return;
	}
	out_document(cli, "device",
		     json_pack("{s:s, s:o, s:s, s:b}", "name", a->name,
			       "path", json_sprintf(DEVICE_DIR "%s", a->name),
			       "image", path, "writable",
			       (int)!is_read_only(a)));
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct create_args *a = args;
	client_auto_t *c = NULL;
	const char *driver = NULL;
	char *path = NULL;
	int rc;

	rc = resolve_image(a->image, &path, &driver, e);
	if (!rc)
		rc = client_open(cli->socket, &c, e);
	if (!rc)
		rc = create(c, a, driver, path, e);
	if (!rc)
		print_device(cli, a, path);
	free(path);
	return rc;
}

const struct verb verb_create = {
	.name = "create",
	.summary = "make a device of an image",
	.opts = create_opts,
	.args_size = sizeof(struct create_args),
	.run = run,
};
