// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * object-add and object-del: secrets.
 *
 * Owns: additions that are under way.
 * Must not: read a file in the loop's thread.
 * Threads: the loop's; load_run() in a thread of its own.
 */
#include <errno.h>
#include <stdlib.h>

#include "cmd.h"
#include "graph/json.h"
#include "graph/secret.h"
#include "qmp.h"

struct object_op {
	struct blk_ev_work work;
	struct server *s;
	struct qmp_request *rq;
	struct blk_secret *secret;
	int ret;
	struct blk_error err;
};

static void load_run(struct blk_ev_work *w)
{
	struct object_op *op = blk_container_of(w, struct object_op, work);

	op->ret = blk_secrets_load(op->rq->args, &op->secret, &op->err);
}

static void load_done(struct blk_ev_work *w)
{
	struct object_op *op = blk_container_of(w, struct object_op, work);
	struct server *s = op->s;

	if (!op->ret)
		op->ret = blk_secrets_add(blk_graph_secrets(s->graph),
					  op->secret, &op->err);
	qmp_finish(op->rq, NULL, op->ret ? &op->err : NULL);
	free(op);
	server_check_stopped(s);
}

int cmd_object_add(struct qmp_request *rq, json_t **ret, struct blk_error *e)
{
	const char *id = blk_json_str(rq->args, "id", "");
	struct object_op *op;
	int err;

	(void)ret;
	/* before anything is read; and once more when it has been */
	err = blk_secrets_check(blk_graph_secrets(rq->s->graph), id, e);
	if (err)
		return err;
	op = calloc(1, sizeof(*op));
	if (op) {
		op->s = rq->s;
		op->rq = rq;
		op->work.run = load_run;
		op->work.done = load_done;
		if (!blk_ev_work_start(rq->s->ev, &op->work))
			return QMP_LATER;
	}
	free(op);
	return blk_error_set(e, BLK_ERR_FAILED, EAGAIN,
			     "no memory or no thread for this");
}

int cmd_object_del(struct qmp_request *rq, json_t **ret, struct blk_error *e)
{
	(void)ret;
	return blk_secrets_del(blk_graph_secrets(rq->s->graph),
			       blk_json_str(rq->args, "id", ""), e);
}
