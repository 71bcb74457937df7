// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl resize: another size for a device and its image, while it is in use.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "device.h"
#include "out.h"

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

static int bad_size(const char *text, struct blk_error *e)
{
	blk_error_set(e, BLK_ERR_USAGE, EINVAL, "'%s' is no size", text);
	blk_error_hint(e, "a number, perhaps with K, M, G or T after it, and + or - in front");
	return -EINVAL;
}

/* The digits behind the point, in units of 1 / (1 << @shift): rounded down. */
static uint64_t fraction(const char **text, unsigned int shift)
{
	uint64_t value = 0, scale = 1;
	const char *p = *text;

	for (; isdigit((unsigned char)*p); p++) {
		if (scale > 100000000)
			continue;	/* finer than a sector of a terabyte */
		value = 10 * value + (*p - '0');
		scale *= 10;
	}
	*text = p;
	/* value < 10^9 < 2^30: no overflow up to a terabyte */
	return shift > 30 ? ((value << 30) / scale) << (shift - 30) :
		(value << shift) / scale;
}

static unsigned int shift_of(char unit)
{
	static const char units[] = "BKMGTPE";
	const char *u = unit ? strchr(units, toupper((unsigned char)unit)) :
		units;

	return u ? 10 * (u - units) : UINT32_MAX;
}

/* "1.5G": bytes */
static int parse_size(const char *whole, const char *text, uint64_t *out,
		      struct blk_error *e)
{
	const char *point, *unit = text + strspn(text, "0123456789.");
	unsigned int shift = shift_of(*unit);
	uint64_t value, part = 0;
	char *end;

	if (!isdigit((unsigned char)*text) || shift == UINT32_MAX ||
	    (*unit && unit[1]))
		return bad_size(whole, e);
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || value > (uint64_t)INT64_MAX >> shift)
		return bad_size(whole, e);
	point = end;
	if (*point == '.') {
		point++;
		part = fraction(&point, shift) & ~511ULL;
	}
	if (point != unit)
		return bad_size(whole, e);
	*out = (value << shift) + part;
	return 0;
}

static int find_size(const json_t *dev, const char *text, uint64_t *out,
		     struct blk_error *e)
{
	uint64_t old = json_integer_value(json_object_get(dev, "size")), size;
	bool relative = *text == '+' || *text == '-';
	int rc;

	rc = parse_size(text, text + relative, &size, e);
	if (rc)
		return rc;
	if (*text == '-' && size >= old)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "the device has %" PRIu64
				     " bytes, which cannot be made smaller by %"
				     PRIu64, old, size);
	if (*text == '+')
		size = old + size;
	else if (*text == '-')
		size = old - size;
	if (size & 511 || size > INT64_MAX)
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
