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
#include "graph/node_int.h"
#include "io/lock.h"

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
		blk_encrypt_forget(n);
		free(n->opts.filename);
		free(n);
	}
	blk_secrets_free(g->secrets);
	while (g->n_allowed)
		free(g->allowed[--g->n_allowed]);
	free(g->allowed);
	free(g->allow_list);
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

/*
 * Looking at a node
 */

struct blk_node **blk_node_slot(struct blk_node *n, enum blk_role role)
{
	switch (role) {
	case BLK_ROLE_DATA:
		return &n->data;
	case BLK_ROLE_BACKING:
		return &n->backing;
	default:
		return &n->child;
	}
}

struct blk_node *blk_node_child(const struct blk_node *n, enum blk_role role)
{
	return *blk_node_slot((struct blk_node *)n, role);
}

const char *blk_role_name(enum blk_role role)
{
	static const char *const names[BLK_ROLES] = {
		"file", "data-file", "backing",
	};

	return names[role];
}

struct blk_file *blk_node_file(const struct blk_node *n)
{
	return n->child ? n->child->file : n->file;
}

bool blk_node_is_qcow2(const struct blk_node *n)
{
	return n->drv->chained;
}

size_t blk_node_depth(const struct blk_node *n)
{
	size_t depth = 0;

	for (; n; n = n->backing)
		depth++;
	return depth;
}

int64_t blk_node_size(const struct blk_node *n)
{
	if (blk_node_is_qcow2(n))
		return n->header.size;
	return blk_node_file(n) ? blk_file_size(blk_node_file(n)) : -EIO;
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

void blk_node_generate_name(struct blk_graph *g, struct blk_node *n)
{
	do {
		snprintf(n->name, sizeof(n->name), "#block%03u",
			 g->generated++);
	} while (blk_node_find(g, n->name));
}

int blk_node_set_name(struct blk_graph *g, struct blk_node *n,
		      const char *name, struct blk_error *e)
{
	if (!name) {
		if (!n->implicit)
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "'node-name' must be specified for the root node");
		blk_node_generate_name(g, n);
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

void blk_node_link(struct blk_graph *g, struct blk_node *n)
{
	n->next = g->first;
	g->first = n;
}

void blk_node_unlink(struct blk_graph *g, struct blk_node *n)
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

static void let_go(struct blk_graph *g, struct blk_node *child)
{
	if (!child || --child->parents)
		return;
	if (child->implicit)
		blk_node_drop(g, child);
	else if (child->file && child->state == BLK_NODE_READY)
		blk_unlock_image(child->file->fd);
}

/* The node is closed: forget it, its implicit children, its references */
void blk_node_drop(struct blk_graph *g, struct blk_node *n)
{
	enum blk_role role;

	for (role = 0; role < BLK_ROLES; role++)
		let_go(g, blk_node_child(n, role));
	blk_node_unlink(g, n);
}

/* Of what has been made together: the node and its implicit children. */
void blk_node_set_state(struct blk_node *n, enum blk_node_state state)
{
	struct blk_node *child;
	enum blk_role role;

	n->state = state;
	for (role = 0; role < BLK_ROLES; role++) {
		child = blk_node_child(n, role);
		if (child && child->implicit)
			blk_node_set_state(child, state);
	}
}

int blk_node_ready(const struct blk_node *n, struct blk_error *e)
{
	if (n->state == BLK_NODE_READY)
		return 0;
	return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			     "Node '%s' is being %s", n->name,
			     n->state == BLK_NODE_OPENING ? "opened" :
			     "closed");
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
	ret = blk_node_ready(n, e);
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
	blk_node_set_state(n, BLK_NODE_CLOSING);
	*out = n;
	return 0;
}

void blk_node_close(struct blk_node *n)
{
	blk_chain_close(n);
}

void blk_node_del_end(struct blk_graph *g, struct blk_node *n)
{
	blk_node_drop(g, n);
}

void blk_node_del_undo(struct blk_node *n)
{
	blk_node_set_state(n, BLK_NODE_READY);
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
