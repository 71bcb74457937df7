/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands, their arguments and replies, declared once.  From the tables
 * come the validation of requests, query-commands and query-qmp-schema.
 */
#ifndef BLKCTLD_SCHEMA_H
#define BLKCTLD_SCHEMA_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"

struct qmp_request;

enum qmp_kind {
	QMP_STR,
	QMP_INT,
	QMP_NUMBER,
	QMP_BOOL,
	QMP_NULL,
	QMP_ANY,
	QMP_ENUM,
	QMP_ARRAY,
	QMP_OBJECT,
	QMP_ALTERNATE,
};

/**
 * struct qmp_type - a type, as in QEMU's schema language
 * @name: QEMU's; for messages, never shown in introspection
 * @values: ENUM: NULL ended
 * @elem: ARRAY
 * @members: OBJECT: ended by a NULL name
 * @tag: OBJECT, union: the member that selects the variant, or NULL
 * @variants: OBJECT, union: ended by a NULL value
 * @alts: ALTERNATE: NULL ended; told apart by their JSON types
 */
struct qmp_type {
	enum qmp_kind kind;
	const char *name;
	const char *const *values;
	const struct qmp_type *elem;
	const struct qmp_member *members;
	const char *tag;
	const struct qmp_variant *variants;
	const struct qmp_type *const *alts;
};

/**
 * struct qmp_member - a member of an object
 * @only: the option exists in QEMU and has no meaning here yet: this JSON text
 *        is the one value that is accepted; "" = none.  NULL: it has a meaning
 * @max: integers: the largest value, with 0 as the smallest; 0: no limit
 */
struct qmp_member {
	const char *name;
	const struct qmp_type *type;
	bool optional;
	const char *only;
	int64_t max;
};

struct qmp_variant {
	const char *value;
	const struct qmp_type *type;
};

/**
 * struct qmp_command - a command
 * @args: NULL: none
 * @ret: NULL: an empty object
 * @fn: arguments are in the request and valid.  Returns 0 with *ret (NULL: an
 *      empty object), -errno with @e, or QMP_LATER: it will call qmp_finish()
 */
struct qmp_command {
	const char *name;
	const struct qmp_type *args;
	const struct qmp_type *ret;
	int (*fn)(struct qmp_request *rq, json_t **ret, struct blk_error *e);
};

#define QMP_LATER 1

struct qmp_event {
	const char *name;
	const struct qmp_type *data;
};

/* Ended by a NULL name. */
extern const struct qmp_command qmp_commands[];
extern const struct qmp_event qmp_events[];

extern const struct qmp_type qmp_str, qmp_int, qmp_number, qmp_bool, qmp_null,
	qmp_any;

const struct qmp_command *qmp_command_find(const char *name);

/* -EINVAL in QEMU's words; @args may be NULL: none were given */
int qmp_validate(const struct qmp_type *type, const json_t *args,
		 struct blk_error *e);

/* query-qmp-schema's reply; NULL when memory ran out */
json_t *qmp_introspect(void);

#endif
