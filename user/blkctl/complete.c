// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the shell offers, and which verb a typing mistake meant.
 *
 * Everything comes from the option tables and from the daemon; the shell's
 * part is a few lines that call "blkctl --complete".  Never fails: without a
 * daemon there are fewer candidates.
 */
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "out.h"

#define MISTAKES_MAX 2

static void offer(const char *before, const char *word, const char *prefix)
{
	char full[64];

	snprintf(full, sizeof(full), "%s%s", before, word);
	if (!strncmp(full, prefix, strlen(prefix)))
		puts(full);
}

static void offer_words(const char *words, const char *prefix)
{
	char word[64];

	while (*words) {
		size_t n = strcspn(words, " ");

		snprintf(word, sizeof(word), "%.*s", (int)n, words);
		offer("", word, prefix);
		words += n;
		words += strspn(words, " ");
	}
}

/* The strings at @key of what @command returns. */
static void offer_query(struct cli *cli, const char *command, const char *key,
			const char *prefix)
{
	client_auto_t *c = NULL;
	json_auto_t *all = NULL;
	const json_t *one;
	const char *s;
	size_t i;

	if (client_open(cli->socket, &c, NULL) ||
	    client_call(c, command, NULL, &all, NULL))
		return;
	json_array_foreach(all, i, one) {
		s = json_string_value(json_object_get(one, key));
		if (s)
			offer("", s, prefix);
	}
}

static void offer_value(struct cli *cli, const struct opt *o,
			const char *prefix)
{
	if (o->words)
		offer_words(o->words, prefix);
	else if (o->complete == OPT_COMPLETE_FILE)
		puts(":file");
	else if (o->complete == OPT_COMPLETE_DEVICE)
		offer_query(cli, "query-device-mapper", "name", prefix);
	else if (o->complete == OPT_COMPLETE_COMMAND)
		offer_query(cli, "query-commands", "name", prefix);
}

static void offer_options(const struct opt *o, const char *prefix)
{
	for (; o->name; o++)
		if (!opt_is_arg(o))
			offer("--", o->name, prefix);
}

static const struct opt *named_by(const struct opt *o, const char *word)
{
	for (; o->name; o++) {
		if (opt_is_arg(o))
			continue;
		if (word[0] == '-' && word[1] == '-' &&
		    !strcmp(word + 2, o->name))
			return o;
		if (o->letter && word[0] == '-' && word[1] == o->letter &&
		    !word[2])
			return o;
	}
	return NULL;
}

/* The option whose value comes after @word, or NULL. */
static const struct opt *awaits_value(const struct verb *v, const char *word)
{
	const struct opt *o = named_by(cli_opts, word);

	if (!o && v && v->opts)
		o = named_by(v->opts, word);
	return o && opt_takes_value(o) ? o : NULL;
}

static const struct opt *nth_argument(const struct verb *v, int n)
{
	const struct opt *o;

	for (o = v->opts; o->name; o++)
		if (opt_is_arg(o) && (!n-- || o->kind == OPT_ARGS))
			return o;
	return NULL;
}

static void offer_verbs(const struct verb *const *v, const char *prefix)
{
	for (; *v; v++)
		offer("", (*v)->name, prefix);
}

static void offer_here(struct cli *cli, int args, const char *before,
		       const char *prefix)
{
	const struct verb *v = cli->verb;
	const struct opt *o = awaits_value(v, before);

	if (!o && *prefix == '-') {
		offer_options(cli_opts, prefix);
		if (!v || v->opts)
			offer_options((v ? v : &verb_list)->opts, prefix);
		return;
	}
	if (!o && (!v || v->subs)) {
		offer_verbs(v ? v->subs : cli->verbs, prefix);
		return;
	}
	if (!o)
		o = nth_argument(v, args);
	if (o)
		offer_value(cli, o, prefix);
}

void cli_complete(struct cli *cli, int cword, char **words, int nwords)
{
	const char *before = "";
	int i, args = 0;

	if (cword < 1 || cword > nwords)
		return;
	/* the shell makes three words of "--output=json" */
	if (cword < nwords && !strcmp(words[cword], "="))
		words[cword] = words[nwords - 1] + strlen(words[nwords - 1]);
	for (i = 1; i < cword; i++) {
		const struct opt *o = awaits_value(cli->verb, before);

		if (o && !strcmp(words[i], "="))
			continue;
		if (o && !strcmp(o->name, "socket"))
			cli->socket = words[i];
		if (!o && *words[i] != '-') {
			if (cli->verb && !cli->verb->subs)
				args++;
			else
				cli->verb = cli_find_verb(cli->verb ?
					cli->verb->subs : cli->verbs, words[i]);
		}
		before = o ? "" : words[i];
	}
	offer_here(cli, args, before, cword < nwords ? words[cword] : "");
}

/* How many letters must change: Levenshtein's distance. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[32], diagonal, up;
	size_t i, j, n = strlen(b);

	if (n >= 32)
		return n;
	for (j = 0; j <= n; j++)
		row[j] = j;
	for (i = 0; a[i]; i++) {
		diagonal = row[0];
		row[0] = i + 1;
		for (j = 0; j < n; j++) {
			unsigned int best = diagonal + (a[i] != b[j]);

			up = row[j + 1];
			if (up + 1 < best)
				best = up + 1;
			if (row[j] + 1 < best)
				best = row[j] + 1;
			diagonal = up;
			row[j + 1] = best;
		}
	}
	return row[n];
}

const char *cli_suggest(const struct verb *const *verbs, const char *word)
{
	/* what other tools call it */
	static const char *const aliases[][2] = {
		{ "attach", "create" }, { "add", "create" },
		{ "detach", "remove" }, { "delete", "remove" },
		{ "rm", "remove" }, { "ls", "list" }, { "info", "show" },
		{ "status", "show" }, { "grow", "resize" },
		{ "truncate", "resize" },
	};
	unsigned int d, best = MISTAKES_MAX + 1;
	const char *found = NULL;
	size_t i;

	for (i = 0; i < sizeof(aliases) / sizeof(*aliases); i++)
		if (!strcmp(word, aliases[i][0]) &&
		    cli_find_verb(verbs, aliases[i][1]))
			return aliases[i][1];
	for (; *verbs; verbs++) {
		d = distance(word, (*verbs)->name);
		if (d < best) {
			best = d;
			found = (*verbs)->name;
		}
	}
	return found;
}
