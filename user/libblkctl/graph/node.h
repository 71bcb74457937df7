/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The graph of named nodes that blockdev-add builds.  A protocol node ("file",
 * "host_device") has an open blk_file; a format node ("qcow2") has one child,
 * "file", and an open image.  Single-threaded: only the owner of the graph (the
 * daemon's main thread) calls these.
 */
#ifndef BLK_GRAPH_NODE_H
#define BLK_GRAPH_NODE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "fmt/qcow2.h"
#include "io/file.h"

#define BLK_NODE_NAME_MAX 31

struct blk_graph;

/**
 * struct blk_node - one node; fields are read-only for users
 * @implicit: made inline as a child of another node; dies with it
 * @parents: nodes that use it as a child
 * @users: exports and jobs that use it
 */
struct blk_node {
	char name[BLK_NODE_NAME_MAX + 1];
	const char *driver;
	bool read_only;
	bool implicit;
	unsigned int parents;
	unsigned int users;
	struct blk_node *child;
	struct blk_file *file;		/* protocol nodes */
	struct blk_qcow2 *image;	/* qcow2 nodes */
	struct blk_node *next;
};

struct blk_graph *blk_graph_new(void);
void blk_graph_free(struct blk_graph *g);

/**
 * blk_node_add - blockdev-add
 * @options: the arguments of QMP's blockdev-add, already checked against the
 *           schema; borrowed
 * Opens the file, takes QEMU's image locks, validates the image.  On failure
 * nothing is left behind.
 */
int blk_node_add(struct blk_graph *g, const json_t *options,
		 struct blk_node **out, struct blk_error *e);
/*
 * An adopted device's image: a qcow2 node @name over a "file"/"host_device"
 * node, both around objects that stay the attachment's.
 */
int blk_node_add_adopted(struct blk_graph *g, const char *name,
			 const char *file_name, struct blk_file *file,
			 struct blk_qcow2 *image, bool read_only,
			 struct blk_node **out, struct blk_error *e);
/* blockdev-del; class BUSY while it has parents or users */
int blk_node_del(struct blk_graph *g, const char *name, struct blk_error *e);
struct blk_node *blk_node_find(struct blk_graph *g, const char *name);
struct blk_node *blk_graph_first(struct blk_graph *g);	/* then ->next */

#endif
