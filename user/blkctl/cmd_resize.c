// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl resize: another size for a device and its image, while it is in use.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>

#include "client.h"
#include "device.h"
#include "out.h"
#include "size.h"

struct resize_args {
	const char *name;
	const char *size;
	bool shrink;
};

static const struct opt resize_opts[] = {
	{ OPT_ARG, 0, "NAME", NULL, "name of the device",
	  .complete = OPT_COMPLETE_DEVICE,
	  .offset = offsetof(struct resize_args, name) },
	{ OPT_ARG, 0, "SIZE", NULL,
	  "new size, or +SIZE or -SIZE; K, M, G, T after the number",
	  .negative = true, .offset = offsetof(struct resize_args, size) },
	{ OPT_FLAG, 0, "shrink", NULL,
	  "it may become smaller: what is behind the new end is lost",
	  .offset = offsetof(struct resize_args, shrink) },
	{}
};

static int find_size(const json_t *dev, const char *text, uint64_t *out,
		     struct blk_error *e)
{
	uint64_t old = json_integer_value(json_object_get(dev, "size")), size;
	int rc = size_change("the device", text, old, &size, e);

	if (rc)
		return rc;
	if (size & 511)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "%" PRIu64 " bytes are no multiple of 512",
				     size);
	*out = size;
	return 0;
}

static int check_managed(const struct resize_args *a, const json_t *dev,
			 struct blk_error *e)
{
	if (json_is_string(json_object_get(dev, "node-name")))
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EINVAL,
		      "blkctld does not manage device '%s'", a->name);
	blk_error_hint(e, "restart blkctld to adopt it");
	return -EINVAL;
}

static int resize(struct client *c, const struct resize_args *a,
		  const json_t *dev, uint64_t size, struct blk_error *e)
{
	json_t *args = json_pack("{s:O, s:I}", "node-name",
				 json_object_get(dev, "node-name"), "size",
				 (json_int_t)size);

	if (a->shrink)
		json_object_set_new(args, "shrink", json_true());
	return client_call(c, "block_resize", args, NULL, e);
}

/* Said here too, in this program's words. */
static int check_shrink(const struct resize_args *a, const json_t *dev,
			uint64_t size, struct blk_error *e)
{
	uint64_t old = json_integer_value(json_object_get(dev, "size"));

	if (size >= old || a->shrink)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "device '%s' has %" PRIu64 " bytes, and %" PRIu64
		      " are less: what is behind them would be lost", a->name,
		      old, size);
	blk_error_hint(e, "make the file system smaller first, then --shrink");
	return -EINVAL;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct resize_args *a = args;
	client_auto_t *c = NULL;
	json_auto_t *dev = NULL;
	uint64_t size = 0;
	int rc;

	rc = client_open(cli->socket, &c, e);
	if (!rc)
		rc = device_find(c, a->name, &dev, e);
	if (!rc)
		rc = check_managed(a, dev, e);
	if (!rc)
		rc = find_size(dev, a->size, &size, e);
	if (!rc)
		rc = check_shrink(a, dev, size, e);
	if (!rc)
		rc = resize(c, a, dev, size, e);
	if (!rc && cli->json)
		out_document(cli, "device",
			     json_pack("{s:s, s:I}", "name", a->name, "size",
				       (json_int_t)size));
	return rc;
}

const struct verb verb_resize = {
	.name = "resize",
	.summary = "change the size of a device and its image",
	.opts = resize_opts,
	.args_size = sizeof(struct resize_args),
	.run = run,
};
