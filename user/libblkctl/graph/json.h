/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Short words for what is done all the time with jansson's objects.
 */
#ifndef BLK_GRAPH_JSON_H
#define BLK_GRAPH_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

/* A member's value, or @def where it is absent or of another type. */
const char *blk_json_str(const json_t *o, const char *key, const char *def);
bool blk_json_bool(const json_t *o, const char *key, bool def);
int64_t blk_json_int(const json_t *o, const char *key, int64_t def);

/*
 * Add a member.  Strings that are not UTF-8 (file names may be anything) have
 * their bad bytes replaced.  0 or -1 when memory ran out.
 */
int blk_json_put_str(json_t *o, const char *key, const char *val);
int blk_json_put_bool(json_t *o, const char *key, bool val);
/* counters above 2^63-1 are shown as that */
int blk_json_put_uint(json_t *o, const char *key, uint64_t val);

#endif
