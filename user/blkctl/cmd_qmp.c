// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl qmp: any command of the daemon's, as it is.
 */
#include <errno.h>
#include <stdio.h>

#include "client.h"
#include "out.h"

struct qmp_args {
	const char *command;
	const char *arguments;
};

static const struct opt qmp_opts[] = {
	{ OPT_ARG, 0, "COMMAND", NULL, "QMP command",
	  .complete = OPT_COMPLETE_COMMAND,
	  .offset = offsetof(struct qmp_args, command) },
	{ OPT_ARG_MAYBE, 0, "JSON", NULL, "its arguments, a JSON object",
	  .offset = offsetof(struct qmp_args, arguments) },
	{}
};

static int parse_arguments(const char *text, json_t **out, struct blk_error *e)
{
	json_error_t je;

	*out = NULL;
	if (!text)
		return 0;
	*out = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	if (json_is_object(*out))
		return 0;
	if (*out)
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "the arguments are no JSON object");
	else
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "the arguments are no JSON: %s at character %d",
			      je.text, je.column);
	json_decref(*out);
	blk_error_hint(e, "blkctl qmp blockdev-del '{\"node-name\": \"disk\"}'");
	return -EINVAL;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct qmp_args *a = args;
	json_t *arguments, *ret;
	client_auto_t *c = NULL;
	int rc;

	rc = parse_arguments(a->arguments, &arguments, e);
	if (rc)
		return rc;
	rc = client_open(cli->socket, &c, e);
	if (rc) {
		json_decref(arguments);
		return rc;
	}
	rc = client_call(c, a->command, arguments, &ret, e);
	if (rc)
		return rc;
	if (cli->json) {
		out_document(cli, "return", ret);
		return 0;
	}
	json_dumpf(ret, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
	json_decref(ret);
	return 0;
}

const struct verb verb_qmp = {
	.name = "qmp",
	.summary = "send a QMP command to blkctld and print its answer",
	.opts = qmp_opts,
	.args_size = sizeof(struct qmp_args),
	.run = run,
};
