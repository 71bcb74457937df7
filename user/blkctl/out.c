// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Output.
 *
 * Owns stdout and stderr.  Tables and JSON documents are both made from the
 * same objects; no document is ever made from a table.  The only file that
 * includes libsmartcols.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <libsmartcols/libsmartcols.h>

#include "out.h"

#define COLUMNS_MAX 32

static const json_t *lookup(const json_t *object, const char *key)
{
	char part[64];

	while (object && *key) {
		size_t n = strcspn(key, "/");

		snprintf(part, sizeof(part), "%.*s", (int)n, key);
		object = json_object_get(object, part);
		key += n + (key[n] == '/');
	}
	return object;
}

static void format_bytes(char *buf, size_t room, uint64_t v)
{
	static const char units[] = "BKMGTPE";
	unsigned int u = 0;
	uint64_t tenths;

	while (u < 6 && v >> (10 * (u + 1)))
		u++;
	/* of the next smaller unit, so that nothing overflows */
	tenths = u ? ((v >> (10 * (u - 1))) * 10 + 512) >> 10 : v * 10;
	if (tenths % 10)
		snprintf(buf, room, "%" PRIu64 ".%u%c", tenths / 10,
			 (unsigned int)(tenths % 10), units[u]);
	else
		snprintf(buf, room, "%" PRIu64 "%c", tenths / 10, units[u]);
}

/* The text of one property, "" when it has none. */
static const char *format_value(const json_t *object, const char *key,
				bool human, char *buf, size_t room)
{
	const json_t *v = lookup(object, key);

	*buf = '\0';
	if (json_is_string(v))
		return json_string_value(v);
	if (json_is_boolean(v))
		return json_is_true(v) ? "yes" : "no";
	if (!json_is_integer(v))
		return buf;
	if (human)
		format_bytes(buf, room, json_integer_value(v));
	else
		snprintf(buf, room, "%" JSON_INTEGER_FORMAT,
			 json_integer_value(v));
	return buf;
}

static const struct out_column *find_column(const struct out_column *columns,
					    const char *name, size_t len)
{
	const struct out_column *c;

	for (c = columns; c->name; c++)
		if (strlen(c->name) == len && !strncasecmp(c->name, name, len))
			return c;
	return NULL;
}

static int no_column(const struct out_table *t, const char *name, size_t len,
		     struct blk_error *e)
{
	const struct out_column *c;
	char all[200] = "";
	size_t n = 0;

	for (c = t->columns; c->name && n < sizeof(all); c++)
		n += snprintf(all + n, sizeof(all) - n, "%s%s", n ? "," : "",
			      c->name);
	blk_error_set(e, BLK_ERR_USAGE, EINVAL, "'%.*s' is no column",
		      (int)len, name);
	blk_error_hint(e, "columns are %s", all);
	return -EINVAL;
}

static int select_columns(const struct out_table *t,
			  const struct out_column **out, size_t *n,
			  struct blk_error *e)
{
	const struct out_column *c;
	const char *s = t->select;

	*n = 0;
	for (c = t->columns; !s && c->name && *n < COLUMNS_MAX; c++)
		if (!c->hidden)
			out[(*n)++] = c;
	while (s && *n < COLUMNS_MAX) {
		size_t len = strcspn(s, ",");

		c = find_column(t->columns, s, len);
		if (!c)
			return no_column(t, s, len, e);
		out[(*n)++] = c;
		s = s[len] ? s + len + 1 : NULL;
	}
	return 0;
}

static int fill_table(struct libscols_table *tb, const struct out_table *t,
		      const struct out_column **sel, size_t n,
		      const json_t *rows)
{
	const json_t *row;
	char buf[32];
	size_t i, r;

	for (i = 0; i < n; i++) {
		bool right = sel[i]->type == OUT_BYTES ||
			     sel[i]->type == OUT_NUMBER;

		if (!scols_table_new_column(tb, sel[i]->name, 0,
					    right ? SCOLS_FL_RIGHT : 0))
			return -ENOMEM;
	}
	json_array_foreach(rows, r, row) {
		struct libscols_line *line = scols_table_new_line(tb, NULL);

		if (!line)
			return -ENOMEM;
		for (i = 0; i < n; i++) {
			bool human = sel[i]->type == OUT_BYTES && !t->bytes;

			scols_line_set_data(line, i,
					    format_value(row, sel[i]->key,
							 human, buf,
							 sizeof(buf)));
		}
	}
	return 0;
}

int out_table(const struct out_table *t, const json_t *rows,
	      struct blk_error *e)
{
	const struct out_column *sel[COLUMNS_MAX];
	struct libscols_table *tb;
	size_t n;
	int rc;

	rc = select_columns(t, sel, &n, e);
	if (rc)
		return rc;
	if (!json_array_size(rows))
		return 0;	/* no headings over nothing */
	scols_init_debug(0);
	tb = scols_new_table();
	if (!tb)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	scols_table_enable_noheadings(tb, t->noheadings);
	rc = fill_table(tb, t, sel, n, rows);
	if (!rc)
		rc = scols_print_table(tb);
	scols_unref_table(tb);
	return rc ? blk_error_set(e, BLK_ERR_FAILED, -rc,
				  "cannot print the table: %s", strerror(-rc))
		  : 0;
}

void out_lines(const struct out_line *lines, const json_t *object, bool bytes)
{
	const struct out_line *l;
	char buf[32];

	for (l = lines; l->name; l++) {
		const char *v = format_value(object, l->key,
					     l->type == OUT_BYTES && !bytes,
					     buf, sizeof(buf));

		if (*v)
			printf("%-18s %s\n", l->name, v);
	}
}

static void emit(json_t *doc)
{
	json_dumpf(doc, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(doc);
}

void out_document(struct cli *cli, const char *key, json_t *value)
{
	emit(json_pack("{s:i, s:O, s:o}", "schema-version",
		       OUT_SCHEMA_VERSION, "warnings", cli->warnings, key,
		       value));
}

/* "blkctl: create: " */
static void print_prefix(const struct cli *cli)
{
	fprintf(stderr, "blkctl: %s%s", cli->verb ? cli->verb->name : "",
		cli->verb ? ": " : "");
}

void out_warn(struct cli *cli, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (cli->json) {
		json_array_append_new(cli->warnings, json_string(text));
		return;
	}
	print_prefix(cli);
	fprintf(stderr, "warning: %s\n", text);
}

void out_error(struct cli *cli, const struct blk_error *e)
{
	json_t *doc;

	if (!cli->json) {
		print_prefix(cli);
		fprintf(stderr, "%s\n", e->msg);
		if (*e->hint)
			fprintf(stderr, "hint: %s\n", e->hint);
		return;
	}
	doc = json_pack("{s:s, s:s, s:i}", "code", blk_error_code(e->cls),
			"message", e->msg, "errno", e->err);
	if (*e->hint)
		json_object_set_new(doc, "hint", json_string(e->hint));
	out_document(cli, "error", doc);
}

int out_finish(struct blk_error *e)
{
	if (!fflush(stdout) && !ferror(stdout))
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, errno ? errno : EIO,
			     "cannot write the output: %s",
			     strerror(errno ? errno : EIO));
}

void out_text(const char *s)
{
	for (; *s; s++)
		putchar((unsigned char)*s < ' ' || *s == 127 ? '?' : *s);
}
