/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What main.c and the verbs share: one invocation of blkctl.
 */
#ifndef BLKCTL_CLI_H
#define BLKCTL_CLI_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "opt.h"

#ifndef BLKCTL_VERSION
#define BLKCTL_VERSION "0.1.0"
#endif

#define CLI_SOCKET "/run/blkctld.sock"

struct cli;
struct out_column;

/**
 * struct verb - one row of the table in main.c
 * @name: as typed
 * @summary: one line for --help
 * @opts: options and arguments, ended by a row without a name
 * @columns: what -o can name; NULL for a verb without tables
 * @subs: verbs behind this one ("image" before "create"), ended by NULL; it has
 *        nothing else then
 * @qemu_codes: its exit codes are those of qemu-img's verb: 1 for every failure,
 *        unless @run has set cli->exit_code
 * @of: the verb in front of it, "image"; NULL: none
 * @args_size: size of the structure that @opts fills in; it starts as zeroes
 * @run: 0 or -errno with @e set; what it prints goes to stdout, through out.h
 */
struct verb {
	const char *name;
	const char *summary;
	const struct opt *opts;
	const struct out_column *columns;
	const struct verb *const *subs;
	bool qemu_codes;
	const char *of;
	size_t args_size;
	int (*run)(struct cli *cli, const void *args, struct blk_error *e);
};

/**
 * struct cli - one invocation
 * @verb: what runs; NULL before it is known
 * @verbs: the table, ended by NULL
 * @json: print one JSON document, errors and warnings included
 * @socket: where blkctld listens
 * @exit_code: of a verb that printed its result and is not content with it; or
 *             that failed, and knows better than the class of its error
 * @warnings: array of strings for the document
 */
struct cli {
	const struct verb *verb;
	const struct verb *const *verbs;
	bool json;
	bool help;
	bool version;
	int exit_code;
	const char *socket;
	json_t *warnings;
};

extern const struct verb verb_create, verb_remove, verb_resize, verb_list,
	verb_show, verb_qmp, verb_doctor, verb_image;

/* The options that every verb takes; they fill in struct cli. */
extern const struct opt cli_opts[];

/* main.c: NULL: there is none of that name */
const struct verb *cli_find_verb(const struct verb *const *verbs,
				 const char *name);

/*
 * complete.c: prints the candidates for word @cword of the command line @words
 * (word 0 is the program), one a line; a line ":file" stands for file names
 */
void cli_complete(struct cli *cli, int cword, char **words, int nwords);
/* complete.c: the verb that @word may have meant, or NULL */
const char *cli_suggest(const struct verb *const *verbs, const char *word);

#endif
