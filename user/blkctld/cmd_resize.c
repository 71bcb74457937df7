// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * block_resize: of a device with its image, or of an image alone.
 *
 * Owns: resizes of images that are not exported, while they are under way.
 * Must not: touch an image in the loop's thread.
 * Threads: the loop's; resize_run() in a thread of its own, while the node
 * counts it as a user that writes.
 */
#include <errno.h>
#include <stdlib.h>

#include "cmd.h"
#include "export_dm.h"
#include "graph/json.h"
#include "qmp.h"

struct resize_op {
	struct blk_ev_work work;
	struct server *s;
	struct qmp_request *rq;
	struct blk_node *node;
	uint64_t size;
	bool shrink;
	int ret;
	struct blk_error err;
};

static void resize_run(struct blk_ev_work *w)
{
	struct resize_op *op = blk_container_of(w, struct resize_op, work);

	op->ret = blk_node_resize(op->node, op->size, op->shrink, &op->err);
}

static void resize_done(struct blk_ev_work *w)
{
	struct resize_op *op = blk_container_of(w, struct resize_op, work);
	struct blk_node *n = op->node;
	struct server *s = op->s;

	n->users--;
	n->writers--;
	if (n->image)
		n->header = *blk_qcow2_header(n->image);
	qmp_finish(op->rq, NULL, op->ret ? &op->err : NULL);
	free(op);
	server_check_stopped(s);
}

static int begin(struct qmp_request *rq, struct blk_node *n, uint64_t size,
		 bool shrink, struct blk_error *e)
{
	struct resize_op *op = calloc(1, sizeof(*op));

	if (op) {
		op->s = rq->s;
		op->rq = rq;
		op->node = n;
		op->size = size;
		op->shrink = shrink;
		op->work.run = resize_run;
		op->work.done = resize_done;
		if (!blk_ev_work_start(rq->s->ev, &op->work)) {
			n->users++;
			n->writers++;
			return QMP_LATER;
		}
	}
	free(op);
	return blk_error_set(e, BLK_ERR_FAILED, EAGAIN,
			     "no memory or no thread for this");
}

/* "device" is an export: its id, or the name of its device. */
static struct blk_node *find_node(struct server *s, const char *device,
				  const char *name, struct blk_error *e)
{
	const struct export *x = *device ? export_find(s, device) : NULL;
	struct blk_node *n = *name ? blk_node_find(s->graph, name) : NULL;

	if (!*name && *device && !x)
		x = export_dm_by_name(s, device);
	if (!*name && x)
		n = x->node;
	if (!n)
		blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
			      "Cannot find device='%.80s' nor node-name='%.80s'",
			      device, name);
	return n;
}

static struct export *writer_of(struct server *s, const struct blk_node *n)
{
	struct export *x;

	for (x = s->exports; x; x = x->next)
		if (x->node == n && x->writable)
			return x;
	return NULL;
}

static int check_node(const struct blk_node *n, struct blk_error *e)
{
	if (n->state != BLK_NODE_READY)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node '%s' is being opened or closed",
				     n->name);
	if (!blk_node_is_qcow2(n))
		return blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				     "Node '%s' has driver '%s': only nodes of driver 'qcow2' can be resized",
				     n->name, blk_node_driver(n));
	if (n->read_only)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "Block node is read-only");
	if (n->parents)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node '%s' is a backing node: what is above it would change",
				     n->name);
	return 0;
}

static int resize_export(struct export *x, struct qmp_request *rq,
			 uint64_t size, bool shrink, struct blk_error *e)
{
	int ret;

	if (x->state != EXPORT_RUNNING)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Export '%s' is being added, resized or removed",
				     x->id);
	x->state = EXPORT_RESIZING;
	ret = x->type->resize(x, rq, size, shrink, e);
	if (ret < 0)
		x->state = EXPORT_RUNNING;
	return ret;
}

int cmd_block_resize(struct qmp_request *rq, json_t **ret,
		     struct blk_error *e)
{
	int64_t size = blk_json_int(rq->args, "size", 0);
	bool shrink = blk_json_bool(rq->args, "shrink", false);
	struct blk_node *n;
	struct export *x;
	int err;

	(void)ret;
	n = find_node(rq->s, blk_json_str(rq->args, "device", ""),
		      blk_json_str(rq->args, "node-name", ""), e);
	if (!n)
		return -ENOENT;
	if (size <= 0)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "Parameter 'size' expects a >0 size");
	err = check_node(n, e);
	if (err)
		return err;
	x = writer_of(rq->s, n);
	if (x)
		return resize_export(x, rq, size, shrink, e);
	if (n->users)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node '%s' is in use", n->name);
	return begin(rq, n, size, shrink, e);
}
