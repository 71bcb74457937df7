// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl list: the devices of the daemon, one a line.
 */
#include "client.h"
#include "device.h"
#include "out.h"

struct list_args {
	const char *columns;
	bool noheadings;
	bool bytes;
};

static const struct opt list_opts[] = {
	{ OPT_STRING, 'o', "output", "COLUMNS",
	  "which columns, separated by commas",
	  .offset = offsetof(struct list_args, columns) },
	{ OPT_FLAG, 'n', "noheadings", NULL, "leave out the headings",
	  .offset = offsetof(struct list_args, noheadings) },
	{ OPT_FLAG, 'b', "bytes", NULL, "print sizes in bytes",
	  .offset = offsetof(struct list_args, bytes) },
	{}
};

static const struct out_column list_columns[] = {
	{ "NAME", "name", OUT_TEXT, false, "name of the device" },
	{ "SIZE", "size", OUT_BYTES, false,
	  "size of the device" },
	{ "MODE", "mode", OUT_TEXT, false, "rw, out_of_space, ro or fail" },
	{ "FORMAT", "image/format", OUT_TEXT, false, "format of the image" },
	{ "IMAGE", "image/filename", OUT_TEXT, false,
	  "file name of the image" },
	{ "PATH", "path", OUT_TEXT, true, "path of the device" },
	{ "WRITABLE", "writable", OUT_BOOL, true, "attached for writing" },
	{ "MANAGED", "managed", OUT_BOOL, true, "known to this daemon" },
	{ "CLUSTER", "cluster-size", OUT_BYTES, true, "cluster size" },
	{ "MAJOR", "major", OUT_NUMBER, true, "device number" },
	{ "MINOR", "minor", OUT_NUMBER, true, "device number" },
	{ "ID", "id", OUT_TEXT, true, "export id" },
	{ "NODE", "node-name", OUT_TEXT, true, "node that is exported" },
	{ "DEPTH", "image/backing-depth", OUT_NUMBER, true,
	  "how many images are below" },
	{ "SNAPSHOT", "snapshot", OUT_TEXT, true,
	  "internal snapshot that is shown" },
	{}
};

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct list_args *a = args;
	struct out_table t = {
		.columns = list_columns,
		.select = a->columns,
		.noheadings = a->noheadings,
		.bytes = a->bytes,
	};
	client_auto_t *c = NULL;
	json_auto_t *devices = NULL;
	int rc;

	rc = client_open(cli->socket, &c, e);
	if (!rc)
		rc = device_list(c, &devices, e);
	if (rc)
		return rc;
	device_warn(cli, devices);
	if (!cli->json)
		return out_table(&t, devices, e);
	out_document(cli, "devices", json_incref(devices));
	return 0;
}

const struct verb verb_list = {
	.name = "list",
	.summary = "list the devices",
	.opts = list_opts,
	.columns = list_columns,
	.args_size = sizeof(struct list_args),
	.run = run,
};
