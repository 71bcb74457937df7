// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Declarative options over getopt_long.
 *
 * Owns the translation from option tables to getopt's arrays, the checks of
 * values, and the words of usage errors.  Knows no verb and prints nothing but
 * help.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "opt.h"

#define OPT_MAX 64
#define OPT_VAL_BASE 256	/* getopt's val of row i is OPT_VAL_BASE + i */

/* getopt's view of the tables */
struct parser {
	struct option longs[OPT_MAX + 1];
	char shorts[2 * OPT_MAX + 3];
	const struct opt *row[OPT_MAX];
	void *base[OPT_MAX];
	int n;
};

static void parser_add(struct parser *p, const struct opt_set *set)
{
	const struct opt *o;
	char *s = p->shorts + strlen(p->shorts);

	for (o = set->opts; o && o->name; o++) {
		if (opt_is_arg(o) || p->n == OPT_MAX)
			continue;
		p->longs[p->n] = (struct option){
			.name = o->name,
			.has_arg = o->maybe ? optional_argument :
				opt_takes_value(o) ? required_argument :
				no_argument,
			.val = OPT_VAL_BASE + p->n,
		};
		p->row[p->n] = o;
		p->base[p->n] = set->base;
		p->n++;
		if (!o->letter)
			continue;
		*s++ = o->letter;
		if (opt_takes_value(o))
			*s++ = ':';
	}
	*s = '\0';
}

/* @how: getopt's first characters: "+:" or ":" */
static void parser_init(struct parser *p, const struct opt_set *sets,
			const char *how)
{
	int i;

	memset(p, 0, sizeof(*p));
	strcpy(p->shorts, how);
	for (i = 0; i < OPT_SETS; i++)
		parser_add(p, &sets[i]);
	opterr = 0;
	optind = 0;	/* glibc: start anew */
}

static int parser_find(const struct parser *p, int val)
{
	int i;

	if (val >= OPT_VAL_BASE)
		return val - OPT_VAL_BASE;
	for (i = 0; val && i < p->n; i++)
		if (p->row[i]->letter == val)
			return i;
	return -1;
}

bool opt_word_in(const char *words, const char *word)
{
	size_t len = strlen(word);
	const char *w = words;

	while (*w) {
		size_t n = strcspn(w, " ");

		if (n == len && !memcmp(w, word, n))
			return true;
		w += n;
		w += strspn(w, " ");
	}
	return false;
}

static int store_number(const struct opt *o, const char *text,
			struct opt_number *out, struct blk_error *e)
{
	unsigned long v;
	char *end;

	errno = 0;
	v = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || v > o->max)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "option '--%s': '%s' is no number from 0 to %lu",
				     o->name, text, o->max);
	*out = (struct opt_number){ .set = true, .value = v };
	return 0;
}

static int append(const struct opt *o, struct opt_list *list, const char *text,
		  struct blk_error *e)
{
	struct opt_item *item = realloc(list->item,
					(list->n + 1) * sizeof(*item));

	if (!item)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	item[list->n++] = (struct opt_item){ .which = o, .value = text };
	list->item = item;
	return 0;
}

static int store(const struct opt *o, void *base, const char *text,
		 struct blk_error *e)
{
	void *where = (char *)base + o->offset;

	if (o->maybe && !text)
		text = "";
	if (o->words && text && !opt_word_in(o->words, text))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is no %s (choose from: %s)", text,
				     o->value ? o->value : o->name, o->words);
	switch (o->kind) {
	case OPT_FLAG:
		*(bool *)where = true;
		return 0;
	case OPT_NUMBER:
		return store_number(o, text, where, e);
	case OPT_LIST:
	case OPT_ACTION:
	case OPT_ARGS:
		return append(o, where, text, e);
	default:
		*(const char **)where = text;
		return 0;
	}
}

static int bad_option(const struct parser *p, int what, char **argv,
		      struct blk_error *e)
{
	int i = parser_find(p, optopt);
	const char *why = what == ':' ? "needs a value"
			: i >= 0 ? "takes no value" : "is unknown or ambiguous";

	if (i >= 0)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "option '--%s' %s", p->row[i]->name, why);
	if (optopt)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "option '-%c' is unknown", optopt);
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "option '%s' %s",
			     argv[optind - 1], why);
}

static int parse_args(int argc, char **argv, const struct opt_set *sets,
		      struct blk_error *e)
{
	int i, arg = optind;

	for (i = 0; i < OPT_SETS; i++) {
		const struct opt *o;

		for (o = sets[i].opts; o && o->name; o++) {
			int rc;

			if (!opt_is_arg(o))
				continue;
			if (arg == argc && o->kind != OPT_ARG_MAYBE)
				return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
						     "argument %s is missing",
						     o->name);
			if (arg == argc)
				continue;
			do {
				rc = store(o, sets[i].base, argv[arg++], e);
				if (rc)
					return rc;
			} while (o->kind == OPT_ARGS && arg < argc);
		}
	}
	if (arg < argc)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is one argument too many",
				     argv[arg]);
	return 0;
}

static bool takes_negative(const struct opt_set *sets)
{
	const struct opt *o;
	int i;

	for (i = 0; i < OPT_SETS; i++)
		for (o = sets[i].opts; o && o->name; o++)
			if (o->negative)
				return true;
	return false;
}

/*
 * Puts "--" and the first negative number at the end, where getopt takes it for
 * what it is.  The NULL of argv makes room.  Return: the new argc.
 */
static int move_negative(int argc, char **argv)
{
	static char separator[] = "--";
	char *word;
	int i;

	for (i = 1; i < argc && strcmp(argv[i], separator); i++) {
		word = argv[i];
		if (word[0] != '-' || word[1] < '0' || word[1] > '9')
			continue;
		memmove(argv + i, argv + i + 1, (argc - i - 1) * sizeof(*argv));
		argv[argc - 1] = separator;
		argv[argc] = word;
		return argc + 1;
	}
	return argc;
}

int opt_parse(int argc, char **argv, const struct opt_set *sets,
	      struct blk_error *e)
{
	struct parser p;
	int c, i, rc;

	if (takes_negative(sets))
		argc = move_negative(argc, argv);
	parser_init(&p, sets, ":");
	while ((c = getopt_long(argc, argv, p.shorts, p.longs, NULL)) != -1) {
		if (c == '?' || c == ':')
			return bad_option(&p, c, argv, e);
		i = parser_find(&p, c);
		rc = store(p.row[i], p.base[i], optarg, e);
		if (rc)
			return rc;
	}
	return parse_args(argc, argv, sets, e);
}

void opt_free(const struct opt_set *sets)
{
	const struct opt *o;
	int i;

	for (i = 0; i < OPT_SETS; i++)
		for (o = sets[i].opts; o && o->name; o++) {
			struct opt_list *list;

			if (o->kind != OPT_LIST && o->kind != OPT_ACTION &&
			    o->kind != OPT_ARGS)
				continue;
			list = (void *)((char *)sets[i].base + o->offset);
			free(list->item);
			*list = (struct opt_list){ 0 };
		}
}

int opt_first_word(int argc, char **argv, const struct opt_set *sets)
{
	struct parser p;

	parser_init(&p, sets, "+:");
	while (getopt_long(argc, argv, p.shorts, p.longs, NULL) != -1)
		;
	return optind;
}

void opt_print_usage(FILE *f, const struct opt *opts)
{
	const struct opt *o;

	for (o = opts; o && o->name; o++) {
		if (o->kind == OPT_ARG)
			fprintf(f, " %s", o->name);
		else if (o->kind == OPT_ARG_MAYBE)
			fprintf(f, " [%s]", o->name);
		else if (o->kind == OPT_ARGS)
			fprintf(f, " %s...", o->name);
	}
}

void opt_print_help(FILE *f, const struct opt *opts)
{
	const struct opt *o;
	char left[64];

	for (o = opts; o && o->name; o++) {
		if (opt_is_arg(o))
			snprintf(left, sizeof(left), "%s", o->name);
		else
			snprintf(left, sizeof(left), "%c%c%s--%s%s%s%s",
				 o->letter ? '-' : ' ',
				 o->letter ? o->letter : ' ',
				 o->letter ? ", " : "  ", o->name,
				 o->maybe ? "[=" : o->value ? " " : "",
				 o->value ? o->value : "",
				 o->maybe ? "]" : "");
		fprintf(f, "  %-28s %s", left, o->help);
		if (o->words)
			fprintf(f, " (%s)", o->words);
		fputc('\n', f);
	}
}
