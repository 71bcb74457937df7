// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * query-qmp-schema: the tables in QEMU's introspection format.
 *
 * Owns: the list of types while it is written.
 * Must not: show the names of types: as in QEMU they are numbers.
 * Threads: no state between calls.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema.h"

#define NAME_BYTES	24

struct walk {
	json_t *out;
	const struct qmp_type **types;	/* number = index + 1; 0 = no members */
	size_t n, cap;
	bool failed;
};

static const struct {
	enum qmp_kind kind;
	const char *name;
	const char *json_type;
} builtins[] = {
	{ QMP_STR, "str", "string" },
	{ QMP_INT, "int", "int" },
	{ QMP_NUMBER, "number", "number" },
	{ QMP_BOOL, "bool", "boolean" },
	{ QMP_NULL, "null", "null" },
	{ QMP_ANY, "any", "value" },
};
#define NR_BUILTINS (sizeof(builtins) / sizeof(builtins[0]))

static void emit(struct walk *w, json_t *o)
{
	if (json_array_append_new(w->out, o))
		w->failed = true;
}

/* The number of a type; it is put on the list when it is new */
static size_t number(struct walk *w, const struct qmp_type *t)
{
	const struct qmp_type **types;
	size_t i;

	for (i = 0; i < w->n; i++)
		if (w->types[i] == t)
			return i + 1;
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 64;
		types = realloc(w->types, w->cap * sizeof(*types));
		if (!types) {
			w->cap = w->n;
			w->failed = true;
			return 0;
		}
		w->types = types;
	}
	w->types[w->n++] = t;
	return w->n;
}

static void name_of(struct walk *w, const struct qmp_type *t, char *out)
{
	char elem[NAME_BYTES];
	size_t i;

	if (!t) {
		strcpy(out, "0");
		return;
	}
	for (i = 0; i < NR_BUILTINS; i++) {
		if (builtins[i].kind == t->kind) {
			strcpy(out, builtins[i].name);
			return;
		}
	}
	if (t->kind == QMP_ARRAY) {
		number(w, t);
		name_of(w, t->elem, elem);
		snprintf(out, NAME_BYTES, "[%.20s]", elem);
		return;
	}
	snprintf(out, NAME_BYTES, "%zu", number(w, t));
}

static json_t *members(struct walk *w, const struct qmp_type *t)
{
	json_t *list = json_array(), *o;
	const struct qmp_member *m;
	char type[NAME_BYTES];

	for (m = t->members; m->name; m++) {
		name_of(w, m->type, type);
		o = json_pack("{s:s, s:s}", "name", m->name, "type", type);
		if (m->optional && json_object_set_new(o, "default",
						       json_null()))
			w->failed = true;
		if (json_array_append_new(list, o))
			w->failed = true;
	}
	return list;
}

static void emit_object(struct walk *w, const struct qmp_type *t,
			const char *name)
{
	json_t *o = json_pack("{s:s, s:s, s:o}", "name", name, "meta-type",
			      "object", "members", members(w, t));
	const struct qmp_variant *v;
	char type[NAME_BYTES];
	json_t *list;

	if (t->tag) {
		list = json_array();
		for (v = t->variants; v->value; v++) {
			name_of(w, v->type, type);
			json_array_append_new(list,
					      json_pack("{s:s, s:s}", "case",
							v->value, "type",
							type));
		}
		json_object_set_new(o, "tag", json_string(t->tag));
		json_object_set_new(o, "variants", list);
	}
	emit(w, o);
}

static void emit_enum(struct walk *w, const struct qmp_type *t,
		      const char *name)
{
	json_t *list = json_array(), *values = json_array();
	size_t i;

	for (i = 0; t->values[i]; i++) {
		json_array_append_new(list, json_pack("{s:s}", "name",
						      t->values[i]));
		json_array_append_new(values, json_string(t->values[i]));
	}
	emit(w, json_pack("{s:s, s:s, s:o, s:o}", "name", name, "meta-type",
			  "enum", "members", list, "values", values));
}

static void emit_alternate(struct walk *w, const struct qmp_type *t,
			   const char *name)
{
	json_t *list = json_array();
	char type[NAME_BYTES];
	size_t i;

	for (i = 0; t->alts[i]; i++) {
		name_of(w, t->alts[i], type);
		json_array_append_new(list, json_pack("{s:s}", "type", type));
	}
	emit(w, json_pack("{s:s, s:s, s:o}", "name", name, "meta-type",
			  "alternate", "members", list));
}

static void emit_type(struct walk *w, const struct qmp_type *t)
{
	char name[NAME_BYTES], elem[NAME_BYTES];

	name_of(w, t, name);
	switch (t->kind) {
	case QMP_OBJECT:
		emit_object(w, t, name);
		break;
	case QMP_ENUM:
		emit_enum(w, t, name);
		break;
	case QMP_ALTERNATE:
		emit_alternate(w, t, name);
		break;
	default:
		name_of(w, t->elem, elem);
		emit(w, json_pack("{s:s, s:s, s:s}", "name", name,
				  "meta-type", "array", "element-type", elem));
	}
}

static void emit_builtins(struct walk *w)
{
	size_t i;

	for (i = 0; i < NR_BUILTINS; i++)
		emit(w, json_pack("{s:s, s:s, s:s}", "name", builtins[i].name,
				  "meta-type", "builtin", "json-type",
				  builtins[i].json_type));
	emit(w, json_pack("{s:s, s:s, s:[]}", "name", "0", "meta-type",
			  "object", "members"));
}

json_t *qmp_introspect(void)
{
	struct walk w = { .out = json_array() };
	char arg[NAME_BYTES], ret[NAME_BYTES];
	const struct qmp_command *c;
	const struct qmp_event *ev;
	size_t i;

	for (c = qmp_commands; c->name; c++) {
		name_of(&w, c->args, arg);
		name_of(&w, c->ret, ret);
		emit(&w, json_pack("{s:s, s:s, s:s, s:s}", "name", c->name,
				   "meta-type", "command", "arg-type", arg,
				   "ret-type", ret));
	}
	for (ev = qmp_events; ev->name; ev++) {
		name_of(&w, ev->data, arg);
		emit(&w, json_pack("{s:s, s:s, s:s}", "name", ev->name,
				   "meta-type", "event", "arg-type", arg));
	}
	emit_builtins(&w);
	/* Writing a type may put others on the list */
	for (i = 0; i < w.n; i++)
		emit_type(&w, w.types[i]);
	free(w.types);
	if (w.failed) {
		json_decref(w.out);
		w.out = NULL;
	}
	return w.out;
}
