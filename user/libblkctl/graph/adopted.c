// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Nodes of adopted devices: around files and images that are open already.
 *
 * Owns: the nodes, and below layer 0 what they are made around.
 * Must not: open, lock or block.
 * Threads: the graph's owner only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "graph/driver.h"
#include "graph/node_int.h"

static struct blk_node *new_adopted(struct blk_graph *g, const char *driver,
				    const char *name, bool implicit,
				    bool read_only, const char *path)
{
	struct blk_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	if (name && *name == '!') {
		implicit = true;
		name++;
	}
	n->graph = g;
	n->drv = blk_driver_find(driver);
	n->state = BLK_NODE_READY;
	n->implicit = implicit;
	n->read_only = read_only;
	n->opts.lazy_refcounts = -1;
	n->opts.filename = strdup(path);
	if (!name || blk_node_set_name(g, n, name, NULL))
		blk_node_generate_name(g, n);
	blk_node_link(g, n);
	return n;
}

static struct blk_node *new_file(struct blk_graph *g, const char *name,
				 const struct blk_file *f, bool read_only)
{
	return new_adopted(g, f->is_bdev ? "host_device" : "file", name, !name,
			   read_only, f->path);
}

static void use(struct blk_node *parent, enum blk_role role,
		struct blk_node *child)
{
	child->parents++;
	*blk_node_slot(parent, role) = child;
}

static void free_objects(const struct blk_adopted *l)
{
	if (l->image)
		blk_qcow2_close(l->image);
	blk_file_close(l->file);
	blk_file_close(l->data);
}

/* Another device that was adopted has brought the node back already? */
static struct blk_node *find_ready(struct blk_graph *g, const char *name,
				   const struct blk_file *file)
{
	struct blk_node *n = name ? blk_node_find(g, name) : NULL;
	const struct blk_file *f = n ? blk_node_file(n) : NULL;

	return f && n->state == BLK_NODE_READY && !n->writers &&
		blk_file_same(f, file) ? n : NULL;
}

/* A raw image has its file to itself, or shares it with others. */
static struct blk_node *find_file(struct blk_graph *g,
				  const struct blk_adopted *l, bool top)
{
	struct blk_node *n = top || l->image || l->bare ? NULL :
		find_ready(g, l->file_name, l->file);

	return n && n->file ? n : NULL;
}

/* The nodes of one layer, without their objects. */
static struct blk_node *new_layer(struct blk_graph *g,
				  const struct blk_adopted *l, bool top,
				  bool read_only)
{
	struct blk_node *same = find_file(g, l, top);
	struct blk_node *file, *data = NULL, *n = NULL;

	file = same ? same : new_file(g, l->bare ? l->name : l->file_name,
				      l->file, read_only);
	if (!file || l->bare)
		return file;
	if (l->data)
		data = new_file(g, l->data_name, l->data, read_only);
	if (!l->data || data)
		n = new_adopted(g, l->image ? "qcow2" : "raw", l->name,
				!top && !l->name, read_only, l->file->path);
	if (!n) {
		if (!same)
			blk_node_unlink(g, file);
		if (data)
			blk_node_unlink(g, data);
		return NULL;
	}
	use(n, BLK_ROLE_FILE, file);
	if (data)
		use(n, BLK_ROLE_DATA, data);
	return n;
}

static void give_objects(struct blk_node *n, const struct blk_adopted *l)
{
	if (l->bare)
		n->file = l->file;
	else if (n->child->file)
		blk_file_close(l->file);	/* another's, shared */
	else
		blk_node_replace(n, l->file, l->image);
	if (l->data)
		n->data->file = l->data;
}

static struct blk_node *find_same(struct blk_graph *g,
				  const struct blk_adopted *l, size_t depth)
{
	struct blk_node *n = find_ready(g, l->name, l->file);

	return n && blk_node_is_qcow2(n) == !!l->image &&
		blk_node_depth(n) == depth ? n : NULL;
}

int blk_node_add_adopted(struct blk_graph *g, const struct blk_adopted *layers,
			 size_t n, bool read_only, struct blk_node **out,
			 struct blk_error *e)
{
	struct blk_node *node[BLK_CHAIN_MAX] = { NULL };
	size_t i, made, shared;

	for (made = 0; made < n; made++) {
		node[made] = made ? find_same(g, &layers[made], n - made) :
			NULL;
		if (node[made])
			break;
		node[made] = new_layer(g, &layers[made], !made,
				       made || read_only);
		if (!node[made])
			goto fail;
	}
	for (i = 0; i < made; i++) {
		give_objects(node[i], &layers[i]);
		if (i + 1 < n)
			use(node[i], BLK_ROLE_BACKING, node[i + 1]);
	}
	for (shared = made; shared < n; shared++)
		free_objects(&layers[shared]);
	*out = node[0];
	return 0;
fail:
	while (made--)
		blk_node_drop(g, node[made]);
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

void blk_node_replace(struct blk_node *n, struct blk_file *file,
		      struct blk_qcow2 *image)
{
	n->child->file = file;
	n->image = image;
	if (image)
		n->header = *blk_qcow2_header(image);
}
