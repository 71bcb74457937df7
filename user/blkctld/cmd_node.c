// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Commands about nodes.
 *
 * Owns: additions and removals that are under way.
 * Must not: open or close anything in the loop's thread.
 * Threads: the loop's; open_run() and close_run() in threads of their own.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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

/*
 * query-named-block-nodes
 */

/* Bytes that a node's file has, and that it takes from the host; -1: unknown */
static int64_t file_sizes(struct blk_node *n, int64_t *actual)
{
	struct stat st;
	int64_t size;

	*actual = -1;
	if (!n->file)
		return n->size;
	size = blk_file_size(n->file);
	if (size >= 0)
		n->size = size;
	if (!fstat(n->file->fd, &st))
		*actual = (int64_t)st.st_blocks * 512;
	return n->size;
}

static json_t *qcow2_specific(const struct qcow2_header *h)
{
	json_t *data = json_pack("{s:s, s:s, s:i}",
				 "compat", h->version >= 3 ? "1.1" : "0.10",
				 "compression-type",
				 h->compression_type ? "zstd" : "zlib",
				 "refcount-bits", 1 << h->refcount_order);

	if (data && h->version >= 3) {
		blk_json_put_bool(data, "lazy-refcounts",
				  h->compatible_features &
				  QCOW2_COMPAT_LAZY_REFCOUNTS);
		blk_json_put_bool(data, "corrupt", h->incompatible_features &
				  QCOW2_INCOMPAT_CORRUPT);
		blk_json_put_bool(data, "extended-l2",
				  h->incompatible_features &
				  QCOW2_INCOMPAT_EXTL2);
	}
	return json_pack("{s:s, s:o}", "type", "qcow2", "data", data);
}

static json_t *image_info(struct blk_node *n)
{
	struct blk_node *file = n->child ? n->child : n;
	const struct qcow2_header *h = &n->header;
	int64_t size, actual;
	json_t *o = json_object();
	int bad = 0;

	size = file_sizes(file, &actual);
	bad |= blk_json_put_str(o, "filename", blk_node_filename(n));
	bad |= blk_json_put_str(o, "format", blk_node_driver(n));
	if (actual >= 0)
		bad |= blk_json_put_uint(o, "actual-size", (uint64_t)actual);
	if (n->child) {
		bad |= blk_json_put_uint(o, "virtual-size", h->size);
		bad |= blk_json_put_uint(o, "cluster-size",
					 qcow2_cluster_size(h));
		if (h->crypt_method)
			bad |= blk_json_put_bool(o, "encrypted", true);
		bad |= json_object_set_new(o, "format-specific",
					   qcow2_specific(h));
	} else {
		bad |= blk_json_put_uint(o, "virtual-size", (uint64_t)size);
	}
	bad |= blk_json_put_bool(o, "dirty-flag", n->child &&
				 h->incompatible_features &
				 QCOW2_INCOMPAT_DIRTY);
	if (!bad)
		return o;
	json_decref(o);
	return NULL;
}

static json_t *children(const struct blk_node *n)
{
	if (!n->child)
		return json_array();
	return json_pack("[{s:s, s:s}]", "child", "file", "node-name",
			 n->child->name);
}

static json_t *node_info(struct blk_node *n)
{
	static const char *const zeroes[] = {
		"backing_file_depth", "bps", "bps_rd", "bps_wr", "iops",
		"iops_rd", "iops_wr", "write_threshold",
	};
	json_t *o = json_pack("{s:s, s:b, s:s, s:b, s:b, s:s, s:o, s:o, s:{s:b, s:b, s:b}}",
			      "node-name", n->name, "ro", n->read_only,
			      "drv", blk_node_driver(n), "active", 1,
			      "encrypted", n->header.crypt_method != 0,
			      "detect_zeroes", "off",
			      "children", children(n),
			      "image", image_info(n),
			      "cache", "writeback", 1, "direct", 1,
			      "no-flush", 0);
	size_t i;

	if (!o || blk_json_put_str(o, "file", blk_node_filename(n)))
		goto fail;
	for (i = 0; i < sizeof(zeroes) / sizeof(zeroes[0]); i++)
		if (blk_json_put_uint(o, zeroes[i], 0))
			goto fail;
	return o;
fail:
	json_decref(o);
	return NULL;
}

int cmd_query_named_block_nodes(struct qmp_request *rq, json_t **ret,
				struct blk_error *e)
{
	json_t *list = json_array();
	struct blk_node *n;

	/* "flat" leaves out backing images, and there are none */
	for (n = blk_graph_first(rq->s->graph); n; n = n->next) {
		if (n->state != BLK_NODE_READY)
			continue;
		if (json_array_append_new(list, node_info(n))) {
			json_decref(list);
			return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					     "out of memory");
		}
	}
	*ret = list;
	return 0;
}
