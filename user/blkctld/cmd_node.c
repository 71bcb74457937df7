// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blockdev-add and blockdev-del.
 *
 * Owns: additions and removals that are under way.
 * Must not: open or close anything in the loop's thread.
 * Threads: the loop's; open_run() and close_run() in threads of their own.
 */
#include <errno.h>
#include <stdlib.h>

#include "cmd.h"
#include "graph/json.h"
#include "qmp.h"

struct node_op {
	struct blk_ev_work work;
	struct server *s;
	struct qmp_request *rq;
	struct blk_node *node;
	int ret;
	struct blk_error err;
};

static struct node_op *new_op(struct qmp_request *rq, struct blk_node *node,
			      void (*run)(struct blk_ev_work *w),
			      void (*done)(struct blk_ev_work *w))
{
	struct node_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->s = rq->s;
	op->rq = rq;
	op->node = node;
	op->work.run = run;
	op->work.done = done;
	if (blk_ev_work_start(rq->s->ev, &op->work)) {
		free(op);
		return NULL;
	}
	return op;
}

static int no_op(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EAGAIN,
			     "no memory or no thread for this");
}

static void end_op(struct node_op *op)
{
	struct server *s = op->s;

	qmp_finish(op->rq, NULL, op->ret ? &op->err : NULL);
	free(op);
	server_check_stopped(s);
}

/*
 * blockdev-add
 */

static void open_run(struct blk_ev_work *w)
{
	struct node_op *op = blk_container_of(w, struct node_op, work);

	op->ret = blk_node_open(op->node, &op->err);
}

static void open_done(struct blk_ev_work *w)
{
	struct node_op *op = blk_container_of(w, struct node_op, work);

	blk_node_add_end(op->s->graph, op->node, !op->ret);
	end_op(op);
}

int cmd_blockdev_add(struct qmp_request *rq, json_t **ret,
		     struct blk_error *e)
{
	struct blk_node *node;
	int err;

	(void)ret;
	err = blk_node_add_begin(rq->s->graph, rq->args, &node, e);
	if (err)
		return err;
	if (new_op(rq, node, open_run, open_done))
		return QMP_LATER;
	blk_node_add_end(rq->s->graph, node, false);
	return no_op(e);
}

/*
 * blockdev-del
 */

static void close_run(struct blk_ev_work *w)
{
	struct node_op *op = blk_container_of(w, struct node_op, work);

	blk_node_close(op->node);
}

static void close_done(struct blk_ev_work *w)
{
	struct node_op *op = blk_container_of(w, struct node_op, work);

	blk_node_del_end(op->s->graph, op->node);
	end_op(op);
}

int cmd_blockdev_del(struct qmp_request *rq, json_t **ret,
		     struct blk_error *e)
{
	struct blk_node *node;
	int err;

	(void)ret;
	err = blk_node_del_begin(rq->s->graph,
				 blk_json_str(rq->args, "node-name", ""),
				 &node, e);
	if (err)
		return err;
	if (new_op(rq, node, close_run, close_done))
		return QMP_LATER;
	blk_node_del_undo(node);
	return no_op(e);
}
