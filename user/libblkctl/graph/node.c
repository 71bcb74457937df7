// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The graph: names, references, who may use whom.
 *
 * Owns: the nodes, and through them open files and images, unless an
 * adopted attachment owns these.
 * Must not: block (drivers do, in blk_node_open() and blk_node_close()).
 * Threads: the graph's owner only, but for these two functions.
 *
 * Image locks are taken on the protocol node's file when a format node opens
 * over it, and dropped when its last parent has gone.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph/driver.h"
#include "graph/encrypt.h"
#include "graph/json.h"
#include "graph/node.h"
#include "io/lock.h"

struct blk_graph {
	struct blk_node *first;
	unsigned int generated;		/* names so far */
	struct blk_secrets *secrets;
};

struct blk_graph *blk_graph_new(void)
{
	struct blk_graph *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->secrets = blk_secrets_new();
	if (g->secrets)
		return g;
	free(g);
	return NULL;
}

void blk_graph_free(struct blk_graph *g)
{
	struct blk_node *n;

	if (!g)
		return;
	/* A format node comes before its child: link() adds at the front */
	for (n = g->first; n; n = n->next)
		if (!n->drv->protocol && n->image)
			n->drv->close(n);
	while ((n = g->first)) {
		g->first = n->next;
		if (n->drv->protocol && n->file)
			n->drv->close(n);
		free(n->opts.filename);
		free(n);
	}
	blk_secrets_free(g->secrets);
	free(g);
}

struct blk_secrets *blk_graph_secrets(struct blk_graph *g)
{
	return g->secrets;
}

struct blk_node *blk_graph_first(struct blk_graph *g)
{
	return g->first;
}

struct blk_node *blk_node_find(struct blk_graph *g, const char *name)
{
	struct blk_node *n;

	for (n = g->first; n; n = n->next)
		if (!strcmp(n->name, name))
			return n;
	return NULL;
}

const char *blk_node_driver(const struct blk_node *n)
{
	return n->drv->name;
}

const char *blk_node_filename(const struct blk_node *n)
{
	if (n->child)
		n = n->child;
	if (n->opts.filename)
		return n->opts.filename;
	return n->file && n->file->path ? n->file->path : "";
}

bool blk_id_wellformed(const char *id)
{
	if (!isascii((unsigned char)*id) || !isalpha((unsigned char)*id))
		return false;
	for (id++; *id; id++) {
		unsigned char c = (unsigned char)*id;

		if (!isascii(c) || (!isalnum(c) && !strchr("-._", c)))
			return false;
	}
	return true;
}

static void generate_name(struct blk_graph *g, char *name)
{
	do {
		snprintf(name, BLK_NODE_NAME_MAX + 1, "#block%03u",
			 g->generated++);
	} while (blk_node_find(g, name));
}

static int set_name(struct blk_graph *g, struct blk_node *n, const char *name,
		    struct blk_error *e)
{
	if (!name) {
		if (!n->implicit)
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "'node-name' must be specified for the root node");
		generate_name(g, n->name);
		return 0;
	}
	if (!blk_id_wellformed(name))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "Invalid node-name: '%.80s'", name);
	if (blk_node_find(g, name))
		return blk_error_set(e, BLK_ERR_BUSY, EEXIST,
				     "Duplicate nodes with node-name='%.80s'",
				     name);
	if (strlen(name) > BLK_NODE_NAME_MAX)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "Node name too long");
	strcpy(n->name, name);
	return 0;
}

static void link_node(struct blk_graph *g, struct blk_node *n)
{
	n->next = g->first;
	g->first = n;
}

static void unlink_node(struct blk_graph *g, struct blk_node *n)
{
	struct blk_node **p;

	for (p = &g->first; *p && *p != n; p = &(*p)->next)
		;
	if (*p)
		*p = n->next;
	blk_encrypt_forget(n);
	free(n->opts.filename);
	free(n);
}

/* The node is closed: forget it, its implicit child, or the reference to it */
static void drop(struct blk_graph *g, struct blk_node *n)
{
	struct blk_node *child = n->child;

	unlink_node(g, n);
	if (!child || --child->parents)
		return;
	if (child->implicit)
		unlink_node(g, child);
	else if (child->file && child->state == BLK_NODE_READY)
		blk_unlock_image(child->file->fd);
}

/*
 * Adding
 */

static int ready(const struct blk_node *n, struct blk_error *e)
{
	if (n->state == BLK_NODE_READY)
		return 0;
	return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			     "Node '%s' is being %s", n->name,
			     n->state == BLK_NODE_OPENING ? "opened" :
			     "closed");
}

/* One writer, or any number of readers */
static int check_sharing(struct blk_graph *g, const struct blk_node *child,
			 const struct blk_node *n, struct blk_error *e)
{
	struct blk_node *p;

	for (p = g->first; p; p = p->next) {
		const struct blk_node *w = n->read_only ? p : n;

		if (p->child != child)
			continue;
		/* It may turn out to be read-only, or fail, with its locks */
		if (p->state != BLK_NODE_READY)
			return ready(p, e);
		if (p->read_only && n->read_only)
			continue;
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Permission conflict on node '%s': permissions 'write, resize' are both required by node '%s' (uses node '%s' as 'file' child) and unshared by node '%s' (uses node '%s' as 'file' child)",
				     child->name, w->name, child->name,
				     w == n ? p->name : n->name, child->name);
	}
	return 0;
}

static int use_child(struct blk_graph *g, struct blk_node *n, const char *name,
		     struct blk_error *e)
{
	struct blk_node *child = blk_node_find(g, name);
	int ret;

	if (!child)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "Cannot find device='%.80s' nor node-name='%.80s'",
				     name, name);
	ret = ready(child, e);
	if (ret)
		return ret;
	if (!child->drv->protocol)
		return blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				     "Node '%s' (driver '%s') can't be the file of another node: only 'file' and 'host_device' nodes can",
				     name, child->drv->name);
	ret = check_sharing(g, child, n, e);
	if (ret)
		return ret;
	n->child = child;
	n->locks = !child->parents++;
	return 0;
}

static int new_node(struct blk_graph *g, const json_t *o,
		    const struct blk_node *parent, struct blk_node **out,
		    struct blk_error *e)
{
	const char *driver = blk_json_str(o, "driver", "");
	const char *filename = blk_json_str(o, "filename", NULL);
	const json_t *lazy = json_object_get(o, "lazy-refcounts");
	struct blk_node *n = calloc(1, sizeof(*n));
	int ret;

	if (!n)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	n->drv = blk_driver_find(driver);
	n->implicit = parent;
	n->read_only = blk_json_bool(o, "read-only",
				     parent ? parent->read_only : false);
	n->opts.auto_read_only =
		blk_json_bool(o, "auto-read-only",
			      parent ? parent->opts.auto_read_only : false);
	n->opts.no_backing = json_is_null(json_object_get(o, "backing"));
	n->opts.lazy_refcounts = lazy ? json_is_true(lazy) : -1;
	ret = 0;
	if (!n->drv || (parent && !n->drv->protocol))
		ret = blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				    "Driver '%.80s' is not supported here",
				    driver);
	if (!ret)
		ret = set_name(g, n, blk_json_str(o, "node-name", NULL), e);
	if (!ret && n->drv->protocol &&
	    !(n->opts.filename = strdup(filename ? filename : "")))
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				    "out of memory");
	if (!ret)
		ret = blk_encrypt_parse(n, o, g->secrets, e);
	if (ret) {
		blk_encrypt_forget(n);
		free(n->opts.filename);
		free(n);
		return ret;
	}
	link_node(g, n);
	*out = n;
	return 0;
}

int blk_node_add_begin(struct blk_graph *g, const json_t *options,
		       struct blk_node **out, struct blk_error *e)
{
	const json_t *file = json_object_get(options, "file");
	struct blk_node *n, *child;
	int ret;

	ret = new_node(g, options, NULL, &n, e);
	if (ret)
		return ret;
	if (!n->drv->protocol) {
		if (json_is_string(file)) {
			ret = use_child(g, n, json_string_value(file), e);
		} else {
			ret = new_node(g, file, n, &child, e);
			if (!ret) {
				n->child = child;
				n->locks = true;
				child->parents = 1;
			}
		}
	}
	if (ret) {
		drop(g, n);
		return ret;
	}
	*out = n;
	return 0;
}

int blk_node_open(struct blk_node *n, struct blk_error *e)
{
	struct blk_node *child = n->child;
	int ret;

	if (child && child->implicit) {
		ret = child->drv->open(child, e);
		if (ret)
			return ret;
	}
	ret = n->drv->open(n, e);
	if (ret && child && child->implicit)
		child->drv->close(child);
	return ret;
}

void blk_node_add_end(struct blk_graph *g, struct blk_node *n, bool opened)
{
	if (!opened) {
		drop(g, n);
		return;
	}
	n->state = BLK_NODE_READY;
	if (n->child && n->child->implicit)
		n->child->state = BLK_NODE_READY;
}

int blk_node_add(struct blk_graph *g, const json_t *options,
		 struct blk_node **out, struct blk_error *e)
{
	int ret = blk_node_add_begin(g, options, out, e);

	if (ret)
		return ret;
	ret = blk_node_open(*out, e);
	blk_node_add_end(g, *out, !ret);
	return ret;
}

/*
 * Removing
 */

int blk_node_del_begin(struct blk_graph *g, const char *name,
		       struct blk_node **out, struct blk_error *e)
{
	struct blk_node *n = blk_node_find(g, name);
	int ret;

	if (!n)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "Failed to find node with node-name='%.80s'",
				     name);
	ret = ready(n, e);
	if (ret)
		return ret;
	if (n->implicit)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node %s is not owned by the monitor",
				     name);
	if (n->users)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node %s is in use", name);
	if (n->parents)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Block device %s is in use", name);
	n->state = BLK_NODE_CLOSING;
	if (n->child && n->child->implicit)
		n->child->state = BLK_NODE_CLOSING;
	*out = n;
	return 0;
}

void blk_node_close(struct blk_node *n)
{
	struct blk_node *child = n->child;

	n->drv->close(n);
	if (!child || !child->implicit)
		return;
	/* Closing is not enough: a loop device may still be on its way out */
	if (child->file)
		blk_unlock_image(child->file->fd);
	child->drv->close(child);
}

void blk_node_del_end(struct blk_graph *g, struct blk_node *n)
{
	drop(g, n);
}

void blk_node_del_undo(struct blk_node *n)
{
	n->state = BLK_NODE_READY;
	if (n->child && n->child->implicit)
		n->child->state = BLK_NODE_READY;
}

int blk_node_del(struct blk_graph *g, const char *name, struct blk_error *e)
{
	struct blk_node *n;
	int ret = blk_node_del_begin(g, name, &n, e);

	if (ret)
		return ret;
	blk_node_close(n);
	blk_node_del_end(g, n);
	return 0;
}

/*
 * Adopted devices
 */

static struct blk_node *new_adopted(struct blk_graph *g, const char *driver,
				    const char *name, bool implicit,
				    bool read_only, const char *path)
{
	struct blk_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->drv = blk_driver_find(driver);
	n->state = BLK_NODE_READY;
	n->implicit = implicit;
	n->read_only = read_only;
	n->opts.lazy_refcounts = -1;
	n->opts.filename = strdup(path);
	if (!name || (implicit && *name == '#') || set_name(g, n, name, NULL))
		generate_name(g, n->name);
	link_node(g, n);
	return n;
}

int blk_node_add_adopted(struct blk_graph *g, const char *name,
			 const char *file_name, bool file_implicit,
			 struct blk_file *file, struct blk_qcow2 *image,
			 bool read_only, struct blk_node **out,
			 struct blk_error *e)
{
	struct blk_node *n, *child;

	child = new_adopted(g, file->is_bdev ? "host_device" : "file",
			    file_name, file_implicit, read_only, file->path);
	n = child ? new_adopted(g, "qcow2", name, false, read_only,
				file->path) : NULL;
	if (!n) {
		if (child)
			unlink_node(g, child);
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	}
	child->parents = 1;
	n->child = child;
	blk_node_replace(n, file, image);
	*out = n;
	return 0;
}

void blk_node_replace(struct blk_node *n, struct blk_file *file,
		      struct blk_qcow2 *image)
{
	n->child->file = file;
	n->image = image;
	if (image)
		n->header = *blk_qcow2_header(image);
}
