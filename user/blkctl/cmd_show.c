// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl show: all that is known of one device.
 */
#include <stdio.h>

#include "client.h"
#include "device.h"
#include "out.h"

struct show_args {
	const char *name;
	bool bytes;
};

static const struct opt show_opts[] = {
	{ OPT_ARG, 0, "NAME", NULL, "name of the device",
	  .complete = OPT_COMPLETE_DEVICE,
	  .offset = offsetof(struct show_args, name) },
	{ OPT_FLAG, 'b', "bytes", NULL, "print sizes in bytes",
	  .offset = offsetof(struct show_args, bytes) },
	{}
};

static const struct out_line show_lines[] = {
	{ "name", "name", OUT_TEXT },
	{ "path", "path", OUT_TEXT },
	{ "device number", "device-number", OUT_TEXT },
	{ "size", "size", OUT_BYTES },
	{ "image", "image", OUT_TEXT },
	{ "format", "format", OUT_TEXT },
	{ "cluster size", "cluster-size", OUT_BYTES },
	{ "writable", "writable", OUT_BOOL },
	{ "mode", "mode", OUT_TEXT },
	{}
};

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct show_args *a = args;
	client_auto_t *c = NULL;
	json_auto_t *dev = NULL, *one = NULL;
	int rc;

	rc = client_open(cli->socket, &c, e);
	if (!rc)
		rc = device_find(c, a->name, &dev, e);
	if (rc)
		return rc;
	one = json_pack("[O]", dev);
	device_warn(cli, one);
	if (cli->json)
		out_document(cli, "device", json_incref(dev));
	else
		out_lines(show_lines, dev, a->bytes);
	return 0;
}

const struct verb verb_show = {
	.name = "show",
	.summary = "show the state and the counters of a device",
	.opts = show_opts,
	.args_size = sizeof(struct show_args),
	.run = run,
};
