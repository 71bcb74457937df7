// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table line.  Owns its syntax; opens nothing.  Called in the constructor,
 * without locks.
 */
#include <linux/device-mapper.h>
#include <linux/slab.h>

#include <linux/dm_qcow.h>

#include "table.h"

static bool parse_uint(const char *value, unsigned int min, unsigned int max,
		       unsigned int *out)
{
	return !kstrtouint(value, 10, out) && *out >= min && *out <= max;
}

static bool parse_timeout(struct qcow_table_spec *spec, const char *value)
{
	spec->has_timeout = true;
	return parse_uint(value, 0, 86400, &spec->no_space_timeout);
}

static bool parse_interval(struct qcow_table_spec *spec, const char *value)
{
	spec->has_interval = true;
	return parse_uint(value, 10, 600000, &spec->commit_interval);
}

/* The numbers are judged together with the image's header. */
static bool parse_snapshot(struct qcow_table_spec *spec, const char *value)
{
	char end;

	spec->has_snapshot = true;
	return sscanf(value, "%llu,%u,%llu%c", &spec->l1_offset,
		      &spec->l1_entries, &spec->disk_size, &end) == 3;
}

struct feature {
	const char *name;
	bool (*parse)(struct qcow_table_spec *spec, const char *value);
};

static const struct feature features[] = {
	{ "no_space_timeout", parse_timeout },
	{ "commit_interval", parse_interval },
	{ "snapshot", parse_snapshot },
};

static int parse_feature(struct dm_target *ti, struct dm_arg_set *as,
			 struct qcow_table_spec *spec)
{
	const char *name = dm_shift_arg(as);
	const char *value = dm_shift_arg(as);
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(features); i++) {
		if (strcasecmp(name, features[i].name))
			continue;
		if (value && features[i].parse(spec, value))
			return 0;
		ti->error = "a feature's value is missing or out of range";
		return -EINVAL;
	}
	ti->error = "unknown feature (known: no_space_timeout, commit_interval, snapshot)";
	return -EINVAL;
}

static int parse_features(struct dm_target *ti, struct dm_arg_set *as,
			  struct qcow_table_spec *spec)
{
	static const struct dm_arg nr_features = {
		0, 2 * ARRAY_SIZE(features),
		"the number of feature arguments is out of range",
	};
	unsigned int left;
	int r;

	r = dm_read_arg_group(&nr_features, as, &left, &ti->error);
	while (!r && as->argc) {
		if (!left) {
			ti->error = "arguments after the features";
			return -EINVAL;
		}
		r = parse_feature(ti, as, spec);
		left -= min(left, 2U);
	}
	return r;
}

static int parse_layer(struct dm_target *ti, struct dm_arg_set *as,
		       struct qcow_table_spec *spec, unsigned int i)
{
	struct qcow_layer_spec *layer = &spec->layers[i];
	const char *type = dm_shift_arg(as);

	layer->raw = type && !strcasecmp(type, "raw");
	if (!type || (!layer->raw && strcasecmp(type, "qcow2"))) {
		ti->error = "a layer must be of type qcow2 or raw";
		return -EINVAL;
	}
	if (layer->raw && (!i || i + 1 < spec->nr_layers)) {
		ti->error = "a raw layer can only be the last of several";
		return -EINVAL;
	}
	layer->device = dm_shift_arg(as);
	layer->data = layer->raw ? "-" : dm_shift_arg(as);
	if (!layer->device || !layer->data) {
		ti->error = "a qcow2 layer needs <dev> and <data_dev|->, a raw one <dev>";
		return -EINVAL;
	}
	if (!strcmp(layer->data, "-"))
		layer->data = NULL;
	return 0;
}

int qcow_table_parse(struct dm_target *ti, unsigned int argc, char **argv,
		     struct qcow_table_spec *spec)
{
	static const struct dm_arg nr_layers = {
		1, DM_QCOW_MAX_LAYERS, "the number of layers is out of range",
	};
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	unsigned int i;
	int r;

	memset(spec, 0, sizeof(*spec));
	spec->no_space_timeout = 60;
	spec->commit_interval = 1000;
	r = dm_read_arg(&nr_layers, &as, &spec->nr_layers, &ti->error);
	if (r)
		return r;
	spec->layers = kcalloc(spec->nr_layers, sizeof(*spec->layers),
			       GFP_KERNEL);
	if (!spec->layers) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	for (i = 0; i < spec->nr_layers && !r; i++)
		r = parse_layer(ti, &as, spec, i);
	if (!r && as.argc)
		r = parse_features(ti, &as, spec);
	return r;
}
