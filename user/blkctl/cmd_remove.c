// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl remove: a device goes away, its image is complete and free.
 *
 * Works on devices that others made over QMP too, but removes only nodes that
 * bear the name "create" gives: somebody else's stay.
 */
#include <errno.h>
#include <string.h>

#include "client.h"
#include "device.h"
#include "out.h"

struct remove_args {
	const char *name;
};

static const struct opt remove_opts[] = {
	{ OPT_ARG, 0, "NAME", NULL, "name of the device",
	  .complete = OPT_COMPLETE_DEVICE,
	  .offset = offsetof(struct remove_args, name) },
	{}
};

static int delete_export(struct client *c, const char *id, struct blk_error *e)
{
	json_t *args = json_pack("{s:s, s:s}", "id", id, "mode", "safe");
	int rc;

	rc = client_call(c, "block-export-del", args, NULL, e);
	return rc ? rc : client_wait(c, "BLOCK_EXPORT_DELETED", id, NULL, e);
}

static void delete_node(struct cli *cli, struct client *c, const char *node)
{
	struct blk_error e = { 0 };

	if (client_call(c, "blockdev-del",
			json_pack("{s:s}", "node-name", node), NULL, &e))
		out_warn(cli, "the device is gone, but the daemon keeps the image open: %s",
			 e.msg);
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct remove_args *a = args;
	const char *id = NULL, *node = NULL;
	char ours[DEVICE_NODE_MAX + 1];
	json_auto_t *dev = NULL;
	client_auto_t *c = NULL;
	int rc;

	rc = client_open(cli->socket, &c, e);
	if (!rc)
		rc = device_find(c, a->name, &dev, e);
	if (rc)
		return rc;
	if (json_unpack(dev, "{s:s, s:s}", "id", &id, "node-name", &node)) {
		blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			      "blkctld does not manage device '%s'", a->name);
		blk_error_hint(e, "restart blkctld to adopt it");
		return -EINVAL;
	}
	rc = delete_export(c, id, e);
	if (rc)
		return rc;
	device_node_name(a->name, ours);
	if (!strcmp(id, ours) && !strcmp(node, ours))
		delete_node(cli, c, node);
	if (cli->json)
		out_document(cli, "device",
			     json_pack("{s:s}", "name", a->name));
	return 0;
}

const struct verb verb_remove = {
	.name = "remove",
	.summary = "detach a device from its image",
	.opts = remove_opts,
	.args_size = sizeof(struct remove_args),
	.run = run,
};
