/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything that blkctl prints: tables, documents, warnings, errors.
 */
#ifndef BLKCTL_OUT_H
#define BLKCTL_OUT_H

#include <stdbool.h>
#include <stddef.h>

#include "cli.h"

#define OUT_SCHEMA_VERSION 1

/* How a property is printed; "key" is where it is: "/" descends. */
enum out_type {
	OUT_TEXT,
	OUT_BYTES,	/* "1.5G", or the integer with --bytes */
	OUT_NUMBER,
	OUT_BOOL,	/* "yes", "no" */
};

/**
 * struct out_column - one property of every object, as a column
 * @name: heading, in upper case
 * @help: for --help and the manual
 * @hidden: not shown unless -o names it
 */
struct out_column {
	const char *name;
	const char *key;
	enum out_type type;
	bool hidden;
	const char *help;
};

/* One property of one object, as a line "name  value". */
struct out_line {
	const char *name;
	const char *key;
	enum out_type type;
};

/**
 * struct out_table - how to print an array of objects
 * @columns: ended by a row without a name
 * @select: names separated by commas, or NULL for all that are not hidden
 */
struct out_table {
	const struct out_column *columns;
	const char *select;
	bool noheadings;
	bool bytes;
};

/* Class USAGE when @select names no column. */
int out_table(const struct out_table *t, const json_t *rows,
	      struct blk_error *e);
/* @lines: ended by a row without a name; what @object lacks is left out */
void out_lines(const struct out_line *lines, const json_t *object, bool bytes);

/**
 * out_document - the one document of --json
 * { "schema-version": 1, "warnings": [...], @key: @value }; takes @value
 */
void out_document(struct cli *cli, const char *key, json_t *value);

/* Names come from images: what a terminal would obey is not printed. */
void out_text(const char *s);

/* A warning: on stderr, or for the document of --json. */
void out_warn(struct cli *cli, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* The error and its hint: on stderr, or as the document of --json. */
void out_error(struct cli *cli, const struct blk_error *e);

/* Flushes stdout.  -errno when something could not be written. */
int out_finish(struct blk_error *e);

#endif
