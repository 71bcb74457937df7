// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Helpers over jansson.
 *
 * Owns nothing.  Must not: keep references.  Threads: as jansson's objects, one
 * at a time.
 */
#include <stdlib.h>
#include <string.h>

#include "graph/json.h"

const char *blk_json_str(const json_t *o, const char *key, const char *def)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : def;
}

bool blk_json_bool(const json_t *o, const char *key, bool def)
{
	const json_t *v = json_object_get(o, key);

	return json_is_boolean(v) ? json_is_true(v) : def;
}

int64_t blk_json_int(const json_t *o, const char *key, int64_t def)
{
	const json_t *v = json_object_get(o, key);

	return json_is_integer(v) ? json_integer_value(v) : def;
}

int blk_json_put_str(json_t *o, const char *key, const char *val)
{
	json_t *v = json_string(val);
	char *copy, *p;

	if (v)
		return json_object_set_new(o, key, v);
	copy = strdup(val);
	if (!copy)
		return -1;
	for (p = copy; *p; p++)
		if (*p & 0x80)
			*p = '?';
	v = json_string(copy);
	free(copy);
	return json_object_set_new(o, key, v);
}

int blk_json_put_bool(json_t *o, const char *key, bool val)
{
	return json_object_set_new(o, key, json_boolean(val));
}

int blk_json_put_uint(json_t *o, const char *key, uint64_t val)
{
	return json_object_set_new(o, key,
				   json_integer(val > INT64_MAX ? INT64_MAX :
						(json_int_t)val));
}
