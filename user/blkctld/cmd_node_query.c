// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * query-named-block-nodes.
 *
 * Owns: queries that are under way, with a descriptor of each file.
 * Must not: ask for a file's size in the loop's thread: a server that is gone
 * may keep it waiting.
 * Threads: the loop's; size_run() in a thread of its own, which knows only the
 * query's own descriptors, as nodes may come and go meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cmd.h"
#include "graph/json.h"
#include "qmp.h"

/**
 * struct sized - a node whose file's size is wanted
 * @fd: its file, or -1
 * @protocol: the file's size is the node's
 * @image: of its reply; borrowed from @list of the query
 * @size, @actual: bytes, and bytes that the host has given; -1: unknown
 */
struct sized {
	int fd;
	bool protocol;
	json_t *image;
	int64_t size;
	int64_t actual;
};

struct query {
	struct blk_ev_work work;
	struct server *s;
	struct qmp_request *rq;
	json_t *list;
	size_t n;
	struct sized nodes[];
};

/*
 * What is known at once
 */

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

static json_t *image_info(const struct blk_node *n)
{
	const struct qcow2_header *h = &n->header;
	json_t *o = json_object();
	int bad = 0;

	bad |= blk_json_put_str(o, "filename", blk_node_filename(n));
	bad |= blk_json_put_str(o, "format", blk_node_driver(n));
	bad |= blk_json_put_uint(o, "virtual-size", n->child ? h->size : 0);
	bad |= blk_json_put_bool(o, "dirty-flag", n->child &&
				 h->incompatible_features &
				 QCOW2_INCOMPAT_DIRTY);
	if (n->child) {
		bad |= blk_json_put_uint(o, "cluster-size",
					 qcow2_cluster_size(h));
		bad |= json_object_set_new(o, "format-specific",
					   qcow2_specific(h));
		if (h->crypt_method)
			bad |= blk_json_put_bool(o, "encrypted", true);
	}
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

static json_t *node_info(const struct blk_node *n, json_t *image)
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
			      "children", children(n), "image", image,
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

/*
 * What may take long
 */

static void size_run(struct blk_ev_work *w)
{
	struct query *q = blk_container_of(w, struct query, work);
	struct sized *z;
	uint64_t bytes;
	struct stat st;

	for (z = q->nodes; z < q->nodes + q->n; z++) {
		if (z->fd < 0 || fstat(z->fd, &st))
			continue;
		z->actual = (int64_t)st.st_blocks * 512;
		if (!S_ISBLK(st.st_mode))
			z->size = st.st_size;
		else if (!ioctl(z->fd, BLKGETSIZE64, &bytes))
			z->size = (int64_t)bytes;
	}
}

static void free_query(struct query *q)
{
	size_t i;

	for (i = 0; i < q->n; i++)
		if (q->nodes[i].fd >= 0)
			close(q->nodes[i].fd);
	json_decref(q->list);
	free(q);
}

static void size_done(struct blk_ev_work *w)
{
	struct query *q = blk_container_of(w, struct query, work);
	struct server *s = q->s;
	struct sized *z;

	for (z = q->nodes; z < q->nodes + q->n; z++) {
		if (z->actual >= 0)
			blk_json_put_uint(z->image, "actual-size",
					  (uint64_t)z->actual);
		if (z->protocol && z->size >= 0)
			blk_json_put_uint(z->image, "virtual-size",
					  (uint64_t)z->size);
	}
	qmp_finish(q->rq, json_incref(q->list), NULL);
	free_query(q);
	server_check_stopped(s);
}

static int add_node(struct query *q, const struct blk_node *n)
{
	const struct blk_node *file = n->child ? n->child : n;
	struct sized *z = &q->nodes[q->n++];

	*z = (struct sized) {
		.fd = file->file ? fcntl(file->file->fd, F_DUPFD_CLOEXEC, 0) :
			-1,
		.protocol = !n->child,
		.image = image_info(n),
		.size = -1,
		.actual = -1,
	};
	return z->image && !json_array_append_new(q->list,
						  node_info(n, z->image)) ?
		0 : -ENOMEM;
}

int cmd_query_named_block_nodes(struct qmp_request *rq, json_t **ret,
				struct blk_error *e)
{
	struct blk_node *n;
	struct query *q;
	size_t count = 0;
	int err = 0;

	(void)ret;
	for (n = blk_graph_first(rq->s->graph); n; n = n->next)
		count++;
	q = calloc(1, sizeof(*q) + count * sizeof(q->nodes[0]));
	if (!q)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	q->s = rq->s;
	q->rq = rq;
	q->work.run = size_run;
	q->work.done = size_done;
	q->list = json_array();
	/* "flat" leaves out backing images, and there are none */
	for (n = blk_graph_first(rq->s->graph); n && !err; n = n->next)
		if (n->state == BLK_NODE_READY)
			err = add_node(q, n);
	if (!err)
		err = blk_ev_work_start(rq->s->ev, &q->work);
	if (!err)
		return QMP_LATER;
	free_query(q);
	return blk_error_set(e, BLK_ERR_FAILED, -err,
			     "no memory or no thread for this");
}
