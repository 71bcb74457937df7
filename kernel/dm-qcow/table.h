/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The table line: text to numbers and back.  See linux/dm_qcow.h.
 */
#ifndef QCOW_TABLE_H
#define QCOW_TABLE_H

#include <linux/types.h>

/**
 * struct qcow_table_spec - a parsed table line
 * @device: of layer 0, points into the arguments and is valid in the
 *          constructor only
 * @no_space_timeout: seconds
 * @commit_interval: milliseconds
 * @has_timeout, @has_interval: the feature was given
 */
struct qcow_table_spec {
	const char *device;
	unsigned int no_space_timeout;
	unsigned int commit_interval;
	bool has_timeout;
	bool has_interval;
};

struct dm_target;

/* Return: 0 or -EINVAL, then ti->error is a sentence. */
int qcow_table_parse(struct dm_target *ti, unsigned int argc, char **argv,
		     struct qcow_table_spec *spec);
/* Writes the arguments as qcow_table_parse() takes them. */
void qcow_table_emit(const struct qcow_table_spec *spec, const char *device,
		     char *result, unsigned int maxlen);

#endif
