/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table line: text to numbers.  See linux/dm_qcow.h.
 */
#ifndef QCOW_TABLE_H
#define QCOW_TABLE_H

#include <linux/types.h>

struct dm_target;

/**
 * struct qcow_layer_spec - one layer of a table line
 * @device: where the layer is
 * @data: where its clusters are, NULL: on @device
 * @raw: not a qcow2 image
 * Strings point into the constructor's arguments.
 */
struct qcow_layer_spec {
	const char *device;
	const char *data;
	bool raw;
};

/**
 * struct qcow_table_spec - a parsed table line
 * @nr_layers: 1 to DM_QCOW_MAX_LAYERS
 * @layers: the top first; valid in the constructor only, which frees it
 * @no_space_timeout: seconds
 * @commit_interval: milliseconds
 * @has_timeout, @has_interval, @has_snapshot: the feature was given
 * @l1_offset, @l1_entries, @disk_size: of the snapshot (bytes, entries, bytes)
 */
struct qcow_table_spec {
	unsigned int nr_layers;
	struct qcow_layer_spec *layers;
	unsigned int no_space_timeout;
	unsigned int commit_interval;
	bool has_timeout;
	bool has_interval;
	bool has_snapshot;
	u32 l1_entries;
	u64 l1_offset;
	u64 disk_size;
};

/* Return: 0 or -errno, then ti->error is a sentence. */
int qcow_table_parse(struct dm_target *ti, unsigned int argc, char **argv,
		     struct qcow_table_spec *spec);

#endif
