/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Declarative options: one row gives parsing, --help and completion.
 */
#ifndef BLKCTL_OPT_H
#define BLKCTL_OPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/error.h"

enum opt_kind {
	OPT_FLAG,	/* bool */
	OPT_STRING,	/* const char *, into argv */
	OPT_NUMBER,	/* struct opt_number */
	OPT_ARG,	/* const char *, a positional argument */
	OPT_ARG_MAYBE,	/* the same, may be missing (NULL); only at the end */
	OPT_LIST,	/* struct opt_list: a string that may be given often */
	OPT_ACTION,	/* struct opt_list: flags and strings in their order */
	OPT_ARGS,	/* struct opt_list: one argument or more; the last row */
};

/* What the shell offers for a value, beyond opt.words. */
enum opt_complete {
	OPT_COMPLETE_NONE,
	OPT_COMPLETE_FILE,
	OPT_COMPLETE_DEVICE,	/* names of attached devices */
	OPT_COMPLETE_COMMAND,	/* QMP commands */
};

struct opt_number {
	bool set;
	unsigned long value;
};

struct opt;

/**
 * struct opt_list - what was given, in the order in which it was given
 * @which: the row it belongs to; several rows of kind OPT_ACTION may share one
 *         list, at one offset
 * @value: into argv; NULL for a row without opt.value
 * Freed by opt_free().
 */
struct opt_list {
	struct opt_item {
		const struct opt *which;
		const char *value;
	} *item;
	size_t n;
};

/**
 * struct opt - an option, or a positional argument
 * @kind: type of the variable at @offset of the structure that is filled in
 * @letter: short form, or 0
 * @name: long form without dashes; for an argument its name in upper case
 * @value: name of the option's value in --help, NULL for a flag
 * @help: one line
 * @words: the only values allowed, separated by spaces; NULL: any
 * @max: largest number allowed
 * @maybe: the value may be missing, and is "" then; it stands behind "=", and
 *         never behind the letter
 * @negative: the last argument of its table, which may be "-1G": a word that
 *            begins with a minus and a digit is no option then
 */
struct opt {
	enum opt_kind kind;
	char letter;
	const char *name;
	const char *value;
	const char *help;
	const char *words;
	unsigned long max;
	bool maybe;
	bool negative;
	enum opt_complete complete;
	size_t offset;
};

static inline bool opt_is_arg(const struct opt *o)
{
	return o->kind == OPT_ARG || o->kind == OPT_ARG_MAYBE ||
		o->kind == OPT_ARGS;
}

/* Is the next word its value? */
static inline bool opt_takes_value(const struct opt *o)
{
	return !o->maybe && o->kind != OPT_FLAG &&
		(o->kind != OPT_ACTION || o->value);
}

/* Is it one of @words, which are separated by spaces? */
bool opt_word_in(const char *words, const char *word);

/* A table with the structure that it fills in. */
struct opt_set {
	const struct opt *opts;
	void *base;
};

#define OPT_SETS 2

/**
 * opt_parse - parse argv[1..] by OPT_SETS tables
 * @argv: may be put into another order, and needs its NULL at the end
 * @sets: letters and names are unique over all of them; a NULL table is empty
 * Return: 0, or -EINVAL with class USAGE.  Later options win.
 */
int opt_parse(int argc, char **argv, const struct opt_set *sets,
	      struct blk_error *e);

/**
 * opt_free - free the lists that opt_parse() has made, also if it has failed
 */
void opt_free(const struct opt_set *sets);

/**
 * opt_first_word - index of the first element of argv that is no option
 * Unknown options are skipped.  Return: argc if there is none.
 */
int opt_first_word(int argc, char **argv, const struct opt_set *sets);

/* "[-r] [-f FORMAT] NAME IMAGE" */
void opt_print_usage(FILE *f, const struct opt *opts);
/* one line for each row */
void opt_print_help(FILE *f, const struct opt *opts);

#endif
