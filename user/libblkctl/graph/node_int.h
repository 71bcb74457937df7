/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the graph share.  Nobody else includes it.
 */
#ifndef BLK_GRAPH_NODE_INT_H
#define BLK_GRAPH_NODE_INT_H

#include "graph/node.h"

/**
 * struct blk_graph - all nodes, and what they may open
 * @generated: names so far
 * @secrets: what object-add has made
 * @allowed, @n_allowed, @allow_list: blk_graph_allow_dir(), _list(); constant
 *        once there are nodes
 */
struct blk_graph {
	struct blk_node *first;
	unsigned int generated;
	struct blk_secrets *secrets;
	char **allowed;
	size_t n_allowed;
	char *allow_list;
};

/* node.c */
struct blk_node **blk_node_slot(struct blk_node *n, enum blk_role role);
void blk_node_generate_name(struct blk_graph *g, struct blk_node *n);
int blk_node_set_name(struct blk_graph *g, struct blk_node *n,
		      const char *name, struct blk_error *e);
void blk_node_link(struct blk_graph *g, struct blk_node *n);
/* Takes it off the list and frees it. */
void blk_node_unlink(struct blk_graph *g, struct blk_node *n);
/* The same, and lets go of its children. */
void blk_node_drop(struct blk_graph *g, struct blk_node *n);

/* Of what has been made together: the node and its implicit children. */
void blk_node_set_state(struct blk_node *n, enum blk_node_state state);
/* Class BUSY: it is being opened or closed */
int blk_node_ready(const struct blk_node *n, struct blk_error *e);

/* chain.c: a node and what hangs on it; both block, any thread */
int blk_chain_open(struct blk_node *n, struct blk_error *e);
void blk_chain_close(struct blk_node *n);

/*
 * named.c: the child that the header of @n names, as nodes without names that
 * are on no list, and not open.  0 and *out == NULL: it names none.
 */
int blk_named_child(struct blk_node *n, enum blk_role role,
		    struct blk_node **out, struct blk_error *e);
/* Once it is open: is it still a file that the policy permits? */
int blk_named_check(const struct blk_node *n, enum blk_role role,
		    const struct blk_file *f, struct blk_error *e);

#endif
