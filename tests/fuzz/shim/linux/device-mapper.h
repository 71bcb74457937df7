/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What kernel/dm-qcow/table.c uses of device-mapper, for tests/fuzz/table.c:
 * the same promises as the kernel's, written anew.
 */
#ifndef SHIM_DEVICE_MAPPER_H
#define SHIM_DEVICE_MAPPER_H

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef uint32_t u32;
typedef unsigned long long u64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define min(a, b) ((a) < (b) ? (a) : (b))

struct dm_target {
	char *error;
};

struct dm_arg {
	unsigned int min;
	unsigned int max;
	char *error;
};

struct dm_arg_set {
	unsigned int argc;
	char **argv;
};

static inline int kstrtouint(const char *s, unsigned int base,
			     unsigned int *out)
{
	unsigned long long v;
	char *end;

	s += *s == '+';
	if (*s < '0' || *s > '9')
		return -EINVAL;
	errno = 0;
	v = strtoull(s, &end, (int)base);
	end += *end == '\n';
	if (*end)
		return -EINVAL;
	if (errno || v > UINT_MAX)
		return -ERANGE;
	*out = (unsigned int)v;
	return 0;
}

static inline const char *dm_shift_arg(struct dm_arg_set *as)
{
	if (!as->argc)
		return NULL;
	as->argc--;
	return *as->argv++;
}

static inline int shim_arg(const struct dm_arg *arg, struct dm_arg_set *as,
			   unsigned int *value, char **error, bool group)
{
	const char *s = dm_shift_arg(as);
	char end;

	if (!s || sscanf(s, "%u%c", value, &end) != 1 || *value < arg->min ||
	    *value > arg->max || (group && as->argc < *value)) {
		*error = arg->error;
		return -EINVAL;
	}
	return 0;
}

static inline int dm_read_arg(const struct dm_arg *arg, struct dm_arg_set *as,
			      unsigned int *value, char **error)
{
	return shim_arg(arg, as, value, error, false);
}

static inline int dm_read_arg_group(const struct dm_arg *arg,
				    struct dm_arg_set *as, unsigned int *value,
				    char **error)
{
	return shim_arg(arg, as, value, error, true);
}

#endif
