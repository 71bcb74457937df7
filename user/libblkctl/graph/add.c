// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Adding nodes: names, children that are given, who may share what.
 *
 * Owns: what is between blk_node_add_begin() and blk_node_add_end().
 * Must not: block; blk_node_open() in between does.
 * Threads: the graph's owner only, but for blk_node_open().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "graph/driver.h"
#include "graph/encrypt.h"
#include "graph/json.h"
#include "graph/node_int.h"

static bool writes(const struct blk_node *n, enum blk_role role)
{
	return role != BLK_ROLE_BACKING && n->drv->chained && !n->read_only;
}

static int conflict(const struct blk_node *child, const struct blk_node *w,
		    const struct blk_node *other, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			     "Permission conflict on node '%s': permissions 'write, resize' are both required by node '%s' (uses node '%s' as 'file' child) and unshared by node '%s' (uses node '%s' as 'file' child)",
			     child->name, w->name, child->name, other->name,
			     child->name);
}

/* One writer, or any number of readers */
static int check_sharing(struct blk_graph *g, const struct blk_node *child,
			 const struct blk_node *n, enum blk_role role,
			 struct blk_error *e)
{
	struct blk_node *p;
	enum blk_role r;

	for (p = g->first; p; p = p->next) {
		for (r = 0; r < BLK_ROLES; r++) {
			if (blk_node_child(p, r) != child)
				continue;
			/* It may turn out to be read-only, or fail */
			if (p->state != BLK_NODE_READY)
				return blk_node_ready(p, e);
			if (writes(n, role))
				return conflict(child, n, p, e);
			if (writes(p, r))
				return conflict(child, p, n, e);
		}
	}
	return 0;
}

static int check_kind(const struct blk_node *child, enum blk_role role,
		      struct blk_error *e)
{
	if (child->drv->protocol)
		return 0;
	if (role != BLK_ROLE_BACKING)
		return blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				     "Node '%s' (driver '%s') can't be the %s of another node: only 'file' and 'host_device' nodes can",
				     child->name, child->drv->name,
				     role == BLK_ROLE_DATA ? "data file" :
				     "file");
	if (!child->writers)
		return 0;
	return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			     "Node '%s' is in use by an export that writes to it: it can't be a backing node",
			     child->name);
}

static int use_child(struct blk_graph *g, struct blk_node *n,
		     enum blk_role role, const char *name, struct blk_error *e)
{
	struct blk_node *child = blk_node_find(g, name);
	int ret;

	if (!child)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "Cannot find device='%.80s' nor node-name='%.80s'",
				     name, name);
	ret = blk_node_ready(child, e);
	if (!ret)
		ret = check_kind(child, role, e);
	if (!ret && child->drv->protocol)
		ret = check_sharing(g, child, n, role, e);
	if (ret)
		return ret;
	*blk_node_slot(n, role) = child;
	if (!child->parents++ && child->drv->protocol)
		n->locks |= 1U << role;
	return 0;
}

/* Of an inline child what is not given is the parent's, as in QEMU. */
static void set_options(struct blk_node *n, const json_t *o,
			const struct blk_node *parent, enum blk_role role)
{
	const json_t *lazy = json_object_get(o, "lazy-refcounts");
	bool below = parent && role == BLK_ROLE_BACKING;

	n->read_only = blk_json_bool(o, "read-only", below ||
				     (parent && parent->read_only));
	n->opts.auto_read_only =
		blk_json_bool(o, "auto-read-only", parent && !below &&
			      parent->opts.auto_read_only);
	n->opts.allow_external =
		blk_json_bool(o, "allow-external",
			      parent && parent->opts.allow_external);
	n->opts.no_backing = json_is_null(json_object_get(o, "backing"));
	n->opts.lazy_refcounts = lazy ? json_is_true(lazy) : -1;
}

static int new_node(struct blk_graph *g, const json_t *o,
		    struct blk_node *parent, enum blk_role role,
		    struct blk_node **out, struct blk_error *e)
{
	const char *driver = blk_json_str(o, "driver", "");
	const char *filename = blk_json_str(o, "filename", NULL);
	struct blk_node *n = calloc(1, sizeof(*n));
	int ret = 0;

	if (!n)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	n->graph = g;
	n->drv = blk_driver_find(driver);
	n->implicit = parent;
	set_options(n, o, parent, role);
	if (!n->drv ||
	    (parent && role != BLK_ROLE_BACKING && !n->drv->protocol))
		ret = blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				    "Driver '%.80s' is not supported here",
				    driver);
	if (!ret)
		ret = blk_node_set_name(g, n,
					blk_json_str(o, "node-name", NULL), e);
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
	blk_node_link(g, n);
	if (parent) {
		n->parents = 1;
		*blk_node_slot(parent, role) = n;
		parent->locks |= 1U << role;
	}
	*out = n;
	return 0;
}

/* The children that are given, inline or by name; other ones the header has. */
static int add_children(struct blk_graph *g, struct blk_node *n,
			const json_t *options, struct blk_error *e)
{
	struct blk_node *child;
	enum blk_role role;
	int ret = 0;

	for (role = 0; role < BLK_ROLES && !n->drv->protocol && !ret; role++) {
		const json_t *o = json_object_get(options,
						  blk_role_name(role));

		if (json_is_string(o)) {
			ret = use_child(g, n, role, json_string_value(o), e);
		} else if (json_is_object(o)) {
			ret = new_node(g, o, n, role, &child, e);
			if (!ret)
				ret = add_children(g, child, o, e);
		}
	}
	return ret;
}

int blk_node_add_begin(struct blk_graph *g, const json_t *options,
		       struct blk_node **out, struct blk_error *e)
{
	struct blk_node *n;
	int ret;

	ret = new_node(g, options, NULL, BLK_ROLE_FILE, &n, e);
	if (ret)
		return ret;
	ret = add_children(g, n, options, e);
	if (ret) {
		blk_node_drop(g, n);
		return ret;
	}
	*out = n;
	return 0;
}

int blk_node_open(struct blk_node *n, struct blk_error *e)
{
	return blk_chain_open(n, e);
}

/* What was opened because a header names it comes into the graph. */
static void join(struct blk_graph *g, struct blk_node *n)
{
	struct blk_node *child;
	enum blk_role role;

	for (role = 0; role < BLK_ROLES; role++) {
		child = blk_node_child(n, role);
		if (!child || !child->implicit)
			continue;
		if (!*child->name) {
			blk_node_generate_name(g, child);
			blk_node_link(g, child);
		}
		join(g, child);
	}
}

void blk_node_add_end(struct blk_graph *g, struct blk_node *n, bool opened)
{
	if (!opened) {
		blk_node_drop(g, n);
		return;
	}
	join(g, n);
	blk_node_set_state(n, BLK_NODE_READY);
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
