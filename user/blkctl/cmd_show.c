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

static const struct out_line head_lines[] = {
	{ "name", "name", OUT_TEXT },
	{ "path", "path", OUT_TEXT },
	{ "major", "major", OUT_NUMBER },
	{ "minor", "minor", OUT_NUMBER },
	{ "size", "size", OUT_BYTES },
	{ "image", "image/filename", OUT_TEXT },
	{ "format", "image/format", OUT_TEXT },
	{ "snapshot", "snapshot", OUT_TEXT },
	{}
};

static const struct out_line show_lines[] = {
	{ "cluster size", "cluster-size", OUT_BYTES },
	{ "writable", "writable", OUT_BOOL },
	{ "mode", "mode", OUT_TEXT },
	{ "active", "active", OUT_BOOL },
	{ "managed", "managed", OUT_BOOL },
	{ "host is full", "host-full", OUT_BOOL },
	{ "corrupt", "corrupt", OUT_BOOL },
	{ "leaked", "leaked", OUT_BOOL },
	{ "export id", "id", OUT_TEXT },
	{ "node", "node-name", OUT_TEXT },
	{ "clusters granted", "granted", OUT_NUMBER },
	{ "clusters used", "consumed", OUT_NUMBER },
	{ "runs freed", "freed", OUT_NUMBER },
	{ "writes waiting", "parked", OUT_NUMBER },
	{ "generation", "generation", OUT_NUMBER },
	{ "read-mapped", "stats/read-mapped", OUT_NUMBER },
	{ "read-zero", "stats/read-zero", OUT_NUMBER },
	{ "write-mapped", "stats/write-mapped", OUT_NUMBER },
	{ "write-alloc", "stats/write-alloc", OUT_NUMBER },
	{ "write-joined", "stats/write-joined", OUT_NUMBER },
	{ "deferred", "stats/deferred", OUT_NUMBER },
	{ "flushes", "stats/flushes", OUT_NUMBER },
	{ "commits", "stats/commits", OUT_NUMBER },
	{ "slices-written", "stats/slices-written", OUT_NUMBER },
	{ "slice-loads", "stats/slice-loads", OUT_NUMBER },
	{ "slices-reclaimed", "stats/slices-reclaimed", OUT_NUMBER },
	{ "filled", "stats/filled", OUT_NUMBER },
	{ "parked", "stats/parked", OUT_NUMBER },
	{ "io-errors", "stats/io-errors", OUT_NUMBER },
	{ "read-below", "stats/read-below", OUT_NUMBER },
	{ "read-compressed", "stats/read-compressed", OUT_NUMBER },
	{ "decompressed", "stats/decompressed", OUT_NUMBER },
	{ "discards", "stats/discards", OUT_NUMBER },
	{ "write-zeroes", "stats/write-zeroes", OUT_NUMBER },
	{ "tables-copied", "stats/tables-copied", OUT_NUMBER },
	{}
};

/* One line for each image, unless the first is all there is to say. */
static void print_layers(const json_t *dev)
{
	const json_t *layers = json_object_get(dev, "layers"), *one;
	const char *file, *format, *data;
	char name[32];
	size_t i;

	if (json_array_size(layers) < 2 &&
	    !json_object_get(json_array_get(layers, 0), "data-file"))
		return;
	json_array_foreach(layers, i, one) {
		file = format = "?";
		data = NULL;
		json_unpack((json_t *)one, "{s?s, s?s, s?s}", "filename", &file,
			    "format", &format, "data-file", &data);
		snprintf(name, sizeof(name), "layer %zu", i);
		printf("%-18s %s (%s%s%s)\n", name, file, format,
		       data ? ", data in " : "", data ? data : "");
	}
}

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
	if (cli->json) {
		out_document(cli, "device", json_incref(dev));
		return 0;
	}
	out_lines(head_lines, dev, a->bytes);
	print_layers(dev);
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
