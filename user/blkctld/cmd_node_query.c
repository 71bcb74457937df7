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
 * @node: who it is; only as long as the graph cannot change
 * @fd: its file, or -1
 * @raw: the file's size is the node's
 * @image: of its reply; borrowed from @list of the query
 * @size, @actual: bytes, and bytes that the host has given; -1: unknown
 */
struct sized {
	const struct blk_node *node;
	int fd;
	bool raw;
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

static json_t *qcow2_specific(const struct blk_node *n)
{
	const struct qcow2_header *h = &n->header;
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
	if (data && n->data) {
		blk_json_put_str(data, "data-file",
				 blk_node_filename(n->data));
		blk_json_put_bool(data, "data-file-raw",
				  h->autoclear_features &
				  QCOW2_AUTOCLEAR_DATA_FILE_RAW);
	}
	return json_pack("{s:s, s:o}", "type", "qcow2", "data", data);
}

/* While the image is lent to somebody who may drop it, it is not looked at. */
static int put_backing(const struct blk_node *n, json_t *o)
{
	const char *full = n->backing ? blk_node_filename(n->backing) : NULL;
	const char *name = n->image ? blk_qcow2_backing_file(n->image) : full;
	const char *format = n->image ?
		blk_qcow2_backing_format(n->image) : NULL;
	int bad = 0;

	if (!name)
		return 0;
	bad |= blk_json_put_str(o, "backing-filename", name);
	if (full)
		bad |= blk_json_put_str(o, "full-backing-filename", full);
	if (format)
		bad |= blk_json_put_str(o, "backing-filename-format", format);
	return bad;
}

static json_t *image_info(const struct blk_node *n)
{
	const struct qcow2_header *h = &n->header;
	bool qcow2 = blk_node_is_qcow2(n);
	json_t *o = json_object();
	int bad = 0;

	bad |= blk_json_put_str(o, "filename", blk_node_filename(n));
	bad |= blk_json_put_str(o, "format", blk_node_driver(n));
	bad |= blk_json_put_uint(o, "virtual-size", qcow2 ? h->size : 0);
	bad |= blk_json_put_bool(o, "dirty-flag", qcow2 &&
				 h->incompatible_features &
				 QCOW2_INCOMPAT_DIRTY);
	if (qcow2) {
		bad |= blk_json_put_uint(o, "cluster-size",
					 qcow2_cluster_size(h));
		bad |= json_object_set_new(o, "format-specific",
					   qcow2_specific(n));
		bad |= put_backing(n, o);
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
	json_t *list = json_array();
	const struct blk_node *child;
	enum blk_role role;

	for (role = 0; role < BLK_ROLES; role++) {
		child = blk_node_child(n, role);
		if (child)
			json_array_append_new(list,
					      json_pack("{s:s, s:s}", "child",
							blk_role_name(role),
							"node-name",
							child->name));
	}
	return list;
}

static json_t *node_info(const struct blk_node *n, json_t *image, bool flat)
{
	static const char *const zeroes[] = {
		"bps", "bps_rd", "bps_wr", "iops",
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

	if (!o || blk_json_put_str(o, "file", blk_node_filename(n)) ||
	    blk_json_put_uint(o, "backing_file_depth",
			      flat ? 0 : blk_node_depth(n) - 1))
		goto fail;
	if (n->backing && blk_json_put_str(o, "backing_file",
					   blk_node_filename(n->backing)))
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
		if (z->raw && z->size >= 0)
			blk_json_put_uint(z->image, "virtual-size",
					  (uint64_t)z->size);
	}
	qmp_finish(q->rq, json_incref(q->list), NULL);
	free_query(q);
	server_check_stopped(s);
}

static int add_node(struct query *q, const struct blk_node *n, bool flat)
{
	const struct blk_file *file = blk_node_file(n);
	struct sized *z = &q->nodes[q->n++];

	*z = (struct sized) {
		.node = n,
		.fd = file ? fcntl(file->fd, F_DUPFD_CLOEXEC, 0) : -1,
		.raw = !blk_node_is_qcow2(n),
		.image = image_info(n),
		.size = -1,
		.actual = -1,
	};
	return z->image && !json_array_append_new(q->list,
						  node_info(n, z->image, flat)) ?
		0 : -ENOMEM;
}

/* Unless it is "flat", an image's information has that of the one below. */
static void nest(struct query *q)
{
	struct sized *z, *below;

	for (z = q->nodes; z < q->nodes + q->n; z++)
		for (below = q->nodes; below < q->nodes + q->n; below++)
			if (z->node->backing == below->node)
				json_object_set(z->image, "backing-image",
						below->image);
}

int cmd_query_named_block_nodes(struct qmp_request *rq, json_t **ret,
				struct blk_error *e)
{
	bool flat = blk_json_bool(rq->args, "flat", false);
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
	for (n = blk_graph_first(rq->s->graph); n && !err; n = n->next)
		if (n->state == BLK_NODE_READY)
			err = add_node(q, n, flat);
	if (!err && !flat)
		nest(q);
	if (!err)
		err = blk_ev_work_start(rq->s->ev, &q->work);
	if (!err)
		return QMP_LATER;
	free_query(q);
	return blk_error_set(e, BLK_ERR_FAILED, -err,
			     "no memory or no thread for this");
}
