// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Judges a request's arguments by the schema.
 *
 * Owns: nothing.  Must not: change the arguments.  Threads: no state.
 *
 * Order and words of complaints are QEMU's (qobject-input-visitor.c): members
 * in the schema's order, and what is left over at the end.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "schema.h"

#define PATH_BYTES	160

static int complain(struct blk_error *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

static int complain(struct blk_error *e, const char *fmt, ...)
{
	char msg[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", msg);
}

static void join(char *out, const char *path, const char *name)
{
	snprintf(out, PATH_BYTES, "%.70s%s%.80s", path, *path ? "." : "",
		 name);
}

static int check(const struct qmp_type *t, const json_t *v, const char *path,
		 struct blk_error *e);

static int check_enum(const struct qmp_type *t, const char *val,
		      const char *path, struct blk_error *e)
{
	char list[200] = "";
	size_t i, n = 0;

	for (i = 0; t->values[i]; i++) {
		if (!strcmp(t->values[i], val))
			return 0;
		if (n < sizeof(list))
			n += (size_t)snprintf(list + n, sizeof(list) - n,
					      "%s%s", i ? ", " : "",
					      t->values[i]);
	}
	complain(e, "Parameter '%s' does not accept value '%.80s'", path, val);
	if (i)
		blk_error_hint(e, "the values are: %s", list);
	return -EINVAL;
}

/* Does a value's JSON type fit?  (Not: is its content right?) */
static bool fits(const struct qmp_type *t, const json_t *v)
{
	switch (t->kind) {
	case QMP_STR:
	case QMP_ENUM:
		return json_is_string(v);
	case QMP_INT:
		return json_is_integer(v);
	case QMP_NUMBER:
		return json_is_number(v);
	case QMP_BOOL:
		return json_is_boolean(v);
	case QMP_NULL:
		return json_is_null(v);
	case QMP_ARRAY:
		return json_is_array(v);
	case QMP_OBJECT:
		return json_is_object(v);
	default:
		return true;
	}
}

static const char *expected(const struct qmp_type *t)
{
	switch (t->kind) {
	case QMP_ENUM:
		return "string";
	case QMP_OBJECT:
		return "object";
	case QMP_ARRAY:
		return "array";
	default:
		return t->name;
	}
}

static int check_array(const struct qmp_type *t, const json_t *v,
		       const char *path, struct blk_error *e)
{
	char sub[PATH_BYTES];
	size_t i;
	int ret;

	for (i = 0; i < json_array_size(v); i++) {
		snprintf(sub, sizeof(sub), "%.120s[%zu]", path, i);
		ret = check(t->elem, json_array_get(v, i), sub, e);
		if (ret)
			return ret;
	}
	return 0;
}

static int check_only(const struct qmp_member *m, const json_t *v,
		      const char *path, struct blk_error *e)
{
	json_t *want = *m->only ?
		json_loads(m->only, JSON_DECODE_ANY, NULL) : NULL;
	bool same = want && json_equal(v, want);

	json_decref(want);
	if (same)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
		      *m->only ? "Parameter '%s' is supported only with its default, %s" :
		      "Parameter '%s' is not supported yet%s",
		      path, m->only);
	return -ENOTSUP;
}

static int check_member(const struct qmp_member *m, const json_t *v,
			const char *path, struct blk_error *e)
{
	char sub[PATH_BYTES];
	int ret;

	join(sub, path, m->name);
	if (!v)
		return m->optional ? 0 :
			complain(e, "Parameter '%s' is missing", sub);
	ret = check(m->type, v, sub, e);
	if (ret)
		return ret;
	if (m->max && (json_integer_value(v) < 0 ||
		       json_integer_value(v) > m->max))
		return complain(e, "Parameter '%s' expects a value between 0 and %lld",
				sub, (long long)m->max);
	return m->only ? check_only(m, v, sub, e) : 0;
}

static int check_members(const struct qmp_type *t, const json_t *v,
			 const char *path, struct blk_error *e)
{
	const struct qmp_member *m;
	int ret;

	for (m = t->members; m->name; m++) {
		ret = check_member(m, json_object_get(v, m->name), path, e);
		if (ret)
			return ret;
	}
	return 0;
}

static const struct qmp_type *variant(const struct qmp_type *t,
				      const json_t *v)
{
	const char *tag = t->tag ?
		json_string_value(json_object_get(v, t->tag)) : NULL;
	const struct qmp_variant *var;

	for (var = t->variants; tag && var->value; var++)
		if (!strcmp(var->value, tag))
			return var->type;
	return NULL;
}

static bool has_member(const struct qmp_type *t, const char *name)
{
	const struct qmp_member *m;

	for (m = t ? t->members : NULL; m && m->name; m++)
		if (!strcmp(m->name, name))
			return true;
	return false;
}

static int check_object(const struct qmp_type *t, const json_t *v,
			const char *path, struct blk_error *e)
{
	const struct qmp_type *var;
	char sub[PATH_BYTES];
	const char *key;
	json_t *val;
	int ret;

	ret = check_members(t, v, path, e);
	if (ret)
		return ret;
	var = variant(t, v);
	ret = var ? check_members(var, v, path, e) : 0;
	if (ret)
		return ret;
	json_object_foreach((json_t *)v, key, val) {
		if (has_member(t, key) || has_member(var, key))
			continue;
		join(sub, path, key);
		return complain(e, "Parameter '%s' is unexpected", sub);
	}
	return 0;
}

static int check_alternate(const struct qmp_type *t, const json_t *v,
			   const char *path, struct blk_error *e)
{
	size_t i;

	for (i = 0; t->alts[i]; i++)
		if (fits(t->alts[i], v))
			return check(t->alts[i], v, path, e);
	return complain(e, "Invalid parameter type for '%s', expected: %s",
			path, t->name);
}

static int check(const struct qmp_type *t, const json_t *v, const char *path,
		 struct blk_error *e)
{
	if (!fits(t, v))
		return complain(e, "Invalid parameter type for '%s', expected: %s",
				path, expected(t));
	if (json_is_string(v) &&
	    strlen(json_string_value(v)) != json_string_length(v))
		return complain(e, "Parameter '%s' contains a NUL character",
				path);
	switch (t->kind) {
	case QMP_ENUM:
		return check_enum(t, json_string_value(v), path, e);
	case QMP_ARRAY:
		return check_array(t, v, path, e);
	case QMP_OBJECT:
		return check_object(t, v, path, e);
	case QMP_ALTERNATE:
		return check_alternate(t, v, path, e);
	default:
		return 0;
	}
}

int qmp_validate(const struct qmp_type *type, const json_t *args,
		 struct blk_error *e)
{
	static const struct qmp_member no_members[] = { { .name = NULL } };
	static const struct qmp_type nothing = {
		.kind = QMP_OBJECT, .members = no_members,
	};
	json_t *empty;
	int ret;

	if (args)
		return check(type ? type : &nothing, args, "", e);
	empty = json_object();
	if (!empty)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = check(type ? type : &nothing, empty, "", e);
	json_decref(empty);
	return ret;
}
