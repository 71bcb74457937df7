// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl: the table of verbs, and what happens before and after one runs.
 *
 * Owns the order: find the verb, parse, run, report, exit code.  A new verb is
 * one file cmd_NAME.c and one row here.
 */
#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "key.h"
#include "out.h"

static const struct verb *const verbs[] = {
	&verb_create,
	&verb_remove,
	&verb_resize,
	&verb_list,
	&verb_show,
	&verb_qmp,
	&verb_doctor,
	&verb_image,
	NULL
};

const struct opt cli_opts[] = {
	{ OPT_FLAG, 0, "json", NULL, "print one JSON document",
	  .offset = offsetof(struct cli, json) },
	{ OPT_STRING, 0, "socket", "PATH",
	  "where blkctld listens, default " CLI_SOCKET,
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct cli, socket) },
	{ OPT_FLAG, 'h', "help", NULL, "print this",
	  .offset = offsetof(struct cli, help) },
	{ OPT_FLAG, 'V', "version", NULL, "print the version",
	  .offset = offsetof(struct cli, version) },
	{}
};

static void print_columns(const struct out_column *columns)
{
	const struct out_column *c;

	printf("\nColumns for -o:\n");
	for (c = columns; c->name; c++)
		printf("  %-15s %s\n", c->name, c->help);
}

static void print_subs(const struct verb *parent)
{
	const struct verb *const *v;

	printf("usage: blkctl %s VERB [OPTION]... [ARGUMENT]...\n%s\n\n",
	       parent->name, parent->summary);
	for (v = parent->subs; *v; v++)
		printf("  %-10s %s\n", (*v)->name, (*v)->summary);
	printf("\nSee also: blkctl %s VERB --help, man blkctl-%s\n",
	       parent->name, parent->name);
}

static void print_verb_help(const struct verb *v)
{
	if (v->subs) {
		print_subs(v);
		return;
	}
	printf("usage: blkctl %s%s%s [OPTION]...", v->of ? v->of : "",
	       v->of ? " " : "", v->name);
	opt_print_usage(stdout, v->opts);
	printf("\n%s\n\n", v->summary);
	opt_print_help(stdout, v->opts);
	opt_print_help(stdout, cli_opts);
	if (v->columns)
		print_columns(v->columns);
	printf("\nSee also: man blkctl-%s%s%s\n", v->of ? v->of : "",
	       v->of ? "-" : "", v->name);
}

static void print_help(void)
{
	const struct verb *const *v;

	printf("usage: blkctl [VERB] [OPTION]... [ARGUMENT]...\n"
	       "Disk images as block devices; without a verb: list\n\n");
	for (v = verbs; *v; v++)
		printf("  %-10s %s\n", (*v)->name, (*v)->summary);
	printf("\nOptions of every verb:\n");
	opt_print_help(stdout, cli_opts);
	printf("\nExit codes: 0 done, 1 failed, 2 usage, 3 no daemon or module, "
	       "4 busy, 5 not found\n"
	       "See also: blkctl VERB --help, man blkctl\n");
}

const struct verb *cli_find_verb(const struct verb *const *v, const char *name)
{
	for (; *v; v++)
		if (!strcmp((*v)->name, name))
			return *v;
	return NULL;
}

/* A verb that has one of that name behind it, or NULL */
static const struct verb *parent_of(const struct verb *const *v,
				    const char *word)
{
	for (; *v; v++)
		if ((*v)->subs && cli_find_verb((*v)->subs, word))
			return *v;
	return NULL;
}

static int no_verb(const struct verb *const *all, const char *word,
		   struct blk_error *e)
{
	const char *maybe = cli_suggest(all, word);
	const struct verb *parent = parent_of(all, word);

	blk_error_set(e, BLK_ERR_USAGE, EINVAL, "'%s' is no verb", word);
	if (parent)
		blk_error_hint(e, "did you mean '%s %s'?", parent->name, word);
	else if (maybe)
		blk_error_hint(e, "did you mean '%s'?", maybe);
	else if (all[0] && all[0]->of)
		blk_error_hint(e, "blkctl %s --help", all[0]->of);
	else
		blk_error_hint(e, "blkctl --help");
	return -EINVAL;
}

/* Puts the word at @at, a verb, at argv[1], and makes that argv[0]. */
static void to_front(int *argc, char ***argv, int at)
{
	char **av = *argv, *word = av[at];

	memmove(av + 2, av + 1, (at - 1) * sizeof(*av));
	av[1] = word;
	(*argv)++;
	(*argc)--;
}

/* The verb behind a verb like "image"; none: its help */
static int take_sub(struct cli *cli, int *argc, char ***argv,
		    struct blk_error *e)
{
	struct opt_set sets[OPT_SETS] = { { .opts = cli_opts } };
	int at = opt_first_word(*argc, *argv, sets);
	const struct verb *sub;

	if (at >= *argc) {
		cli->help = true;
		return 0;
	}
	sub = cli_find_verb(cli->verb->subs, (*argv)[at]);
	if (!sub)
		return no_verb(cli->verb->subs, (*argv)[at], e);
	cli->verb = sub;
	to_front(argc, argv, at);
	return 0;
}

/*
 * Moves the verb to argv[0], so that options may stand before and after it;
 * without a verb it is "list".  Options before the verb are read as list's.
 */
static int take_verb(struct cli *cli, int *argc, char ***argv,
		     struct blk_error *e)
{
	struct opt_set sets[OPT_SETS] = {
		{ .opts = cli_opts },
		{ .opts = verb_list.opts },
	};
	int at = opt_first_word(*argc, *argv, sets);

	if (at >= *argc) {
		cli->verb = cli->help ? NULL : &verb_list;
		return 0;
	}
	cli->verb = cli_find_verb(verbs, (*argv)[at]);
	if (!cli->verb)
		return no_verb(verbs, (*argv)[at], e);
	to_front(argc, argv, at);
	return cli->verb->subs ? take_sub(cli, argc, argv, e) : 0;
}

/* For scripts that know qemu-img's */
static int exit_code(const struct cli *cli, int rc, const struct blk_error *e)
{
	if (!rc || cli->exit_code)
		return cli->exit_code;
	return cli->verb && cli->verb->qemu_codes ? 1 : blk_error_exit(e->cls);
}

static int run_verb(struct cli *cli, int argc, char **argv,
		    struct blk_error *e)
{
	const struct verb *v = cli->verb;
	void *args = calloc(1, v->args_size + 1);
	struct opt_set sets[OPT_SETS] = {
		{ cli_opts, cli },
		{ v->opts, args },
	};
	int rc;

	if (!args)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	rc = v->subs ? 0 : opt_parse(argc, argv, sets, e);
	if (cli->help)
		print_verb_help(v);
	else if (cli->version)
		printf("blkctl %s\n", BLKCTL_VERSION);
	else if (rc)
		blk_error_hint(e, "blkctl %s%s%s --help", v->of ? v->of : "",
			       v->of ? " " : "", v->name);
	else
		rc = v->run(cli, args, e);
	opt_free(sets);
	free(args);
	return cli->help || cli->version ? 0 : rc;
}

/* Errors must know early how they are to be printed. */
static bool has_flag(int argc, char **argv, const char *flag)
{
	int i;

	for (i = 1; i < argc && strcmp(argv[i], "--"); i++)
		if (!strcmp(argv[i], flag))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	struct cli cli = { .verbs = verbs, .socket = CLI_SOCKET };
	struct blk_error e = { 0 };
	int rc;

	setlocale(LC_ALL, "");
	key_protect_json();
	if (argc > 3 && !strcmp(argv[1], "--complete")) {
		cli_complete(&cli, atoi(argv[2]), argv + 3, argc - 3);
		return 0;
	}
	cli.warnings = json_array();
	cli.json = has_flag(argc, argv, "--json");
	cli.help = has_flag(argc, argv, "--help") ||
		   has_flag(argc, argv, "-h");
	rc = take_verb(&cli, &argc, &argv, &e);
	if (!rc && !cli.verb)
		print_help();
	else if (!rc)
		rc = run_verb(&cli, argc, argv, &e);
	if (!rc)
		rc = out_finish(&e);
	if (rc)
		out_error(&cli, &e);
	json_decref(cli.warnings);
	return exit_code(&cli, rc, &e);
}
