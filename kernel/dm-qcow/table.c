// SPDX-License-Identifier: GPL-2.0-only
/*
 * The table line.  Owns its syntax; opens nothing.  Called in the constructor
 * and in status, without locks.
 */
#include <linux/device-mapper.h>

#include <linux/dm_qcow.h>

#include "table.h"

struct feature {
	const char *name;
	unsigned int min;
	unsigned int max;
	size_t value;
	size_t given;
};

#define FEATURE(nm, field, flag, lo, hi) {				\
	.name = nm, .min = lo, .max = hi,				\
	.value = offsetof(struct qcow_table_spec, field),		\
	.given = offsetof(struct qcow_table_spec, flag),		\
}

static const struct feature features[] = {
	FEATURE("no_space_timeout", no_space_timeout, has_timeout, 0, 86400),
	FEATURE("commit_interval", commit_interval, has_interval, 10, 600000),
};

static int parse_feature(struct dm_target *ti, struct dm_arg_set *as,
			 struct qcow_table_spec *spec)
{
	const char *name = dm_shift_arg(as);
	const char *value = dm_shift_arg(as);
	unsigned int i, v;

	for (i = 0; i < ARRAY_SIZE(features); i++) {
		const struct feature *f = &features[i];

		if (strcasecmp(name, f->name))
			continue;
		if (!value || kstrtouint(value, 10, &v) || v < f->min ||
		    v > f->max) {
			ti->error = "a feature's value is missing or out of range";
			return -EINVAL;
		}
		*(unsigned int *)((char *)spec + f->value) = v;
		*((bool *)spec + f->given) = true;
		return 0;
	}
	ti->error = "unknown feature (known: no_space_timeout, commit_interval)";
	return -EINVAL;
}

static int parse_layer(struct dm_target *ti, struct dm_arg_set *as,
		       struct qcow_table_spec *spec)
{
	const char *type = dm_shift_arg(as);
	const char *data;

	if (!type || strcasecmp(type, "qcow2")) {
		ti->error = "layer 0 must be of type qcow2";
		return -EINVAL;
	}
	spec->device = dm_shift_arg(as);
	data = dm_shift_arg(as);
	if (!spec->device || !data) {
		ti->error = "a qcow2 layer needs <dev> and <data_dev|->";
		return -EINVAL;
	}
	if (strcmp(data, "-")) {
		ti->error = "external data devices are not supported";
		return -EINVAL;
	}
	return 0;
}

int qcow_table_parse(struct dm_target *ti, unsigned int argc, char **argv,
		     struct qcow_table_spec *spec)
{
	static const struct dm_arg nr_layers = {
		1, DM_QCOW_MAX_LAYERS, "the number of layers is out of range",
	};
	static const struct dm_arg nr_features = {
		0, 2 * ARRAY_SIZE(features),
		"the number of feature arguments is out of range",
	};
	struct dm_arg_set as = { .argc = argc, .argv = argv };
	unsigned int layers, left;
	int r;

	memset(spec, 0, sizeof(*spec));
	spec->no_space_timeout = 60;
	spec->commit_interval = 1000;
	r = dm_read_arg(&nr_layers, &as, &layers, &ti->error);
	if (r)
		return r;
	if (layers != 1) {
		ti->error = "backing chains (more than one layer) are not supported";
		return -EINVAL;
	}
	r = parse_layer(ti, &as, spec);
	if (r || !as.argc)
		return r;
	r = dm_read_arg_group(&nr_features, &as, &left, &ti->error);
	if (r)
		return r;
	while (as.argc) {
		if (!left) {
			ti->error = "arguments after the features";
			return -EINVAL;
		}
		r = parse_feature(ti, &as, spec);
		if (r)
			return r;
		left -= min(left, 2U);
	}
	return 0;
}

void qcow_table_emit(const struct qcow_table_spec *spec, const char *device,
		     char *result, unsigned int maxlen)
{
	unsigned int sz = 0;

	DMEMIT("1 qcow2 %s -", device);
	if (spec->has_timeout || spec->has_interval)
		DMEMIT(" %u", 2 * (spec->has_timeout + spec->has_interval));
	if (spec->has_timeout)
		DMEMIT(" no_space_timeout %u", spec->no_space_timeout);
	if (spec->has_interval)
		DMEMIT(" commit_interval %u", spec->commit_interval);
}
