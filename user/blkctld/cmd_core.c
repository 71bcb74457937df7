// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Commands about the daemon itself.
 *
 * Owns: nothing.  Threads: the loop's only.
 */
#include <errno.h>

#include "cmd.h"
#include "qmp.h"

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

int cmd_qmp_capabilities(struct qmp_request *rq, json_t **ret,
			 struct blk_error *e)
{
	/* The schema has let none but an empty list through */
	(void)ret;
	(void)e;
	conn_set_negotiated(rq->conn);
	return 0;
}

int cmd_query_version(struct qmp_request *rq, json_t **ret,
		      struct blk_error *e)
{
	(void)rq;
	*ret = qmp_version();
	return *ret ? 0 : no_memory(e);
}

int cmd_query_commands(struct qmp_request *rq, json_t **ret,
		       struct blk_error *e)
{
	json_t *list = json_array();
	const struct qmp_command *c;

	(void)rq;
	for (c = qmp_commands; c->name; c++) {
		if (json_array_append_new(list, json_pack("{s:s}", "name",
							  c->name))) {
			json_decref(list);
			return no_memory(e);
		}
	}
	*ret = list;
	return 0;
}

int cmd_query_qmp_schema(struct qmp_request *rq, json_t **ret,
			 struct blk_error *e)
{
	(void)rq;
	*ret = qmp_introspect();
	return *ret ? 0 : no_memory(e);
}

int cmd_quit(struct qmp_request *rq, json_t **ret, struct blk_error *e)
{
	(void)ret;
	(void)e;
	server_stop(rq->s);
	return 0;
}
