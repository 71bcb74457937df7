/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The graph of named nodes that blockdev-add builds.  A protocol node ("file",
 * "host_device") has an open blk_file; a format node ("qcow2", "raw") has a
 * child "file".  A qcow2 node has an open image, and perhaps the children
 * "data-file" and "backing": the chain of images is the list of backing nodes.
 *
 * Only the owner of the graph (the daemon's main thread) calls these, but for
 * blk_node_open() and blk_node_close(), which block and may run elsewhere: the
 * node is OPENING or CLOSING meanwhile, its name is taken, and nobody can use it.
 */
#ifndef BLK_GRAPH_NODE_H
#define BLK_GRAPH_NODE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "fmt/luks.h"
#include "fmt/qcow2.h"
#include "io/file.h"

#define BLK_NODE_NAME_MAX 31

#define BLK_CHAIN_MAX DM_QCOW_MAX_LAYERS

struct blk_graph;
struct blk_driver;
struct blk_encrypt;
struct blk_secrets;

/* What a child is to its parent */
enum blk_role {
	BLK_ROLE_FILE,
	BLK_ROLE_DATA,		/* external data file */
	BLK_ROLE_BACKING,
	BLK_ROLES
};

enum blk_node_state {
	BLK_NODE_OPENING,
	BLK_NODE_READY,
	BLK_NODE_CLOSING,
};

/**
 * struct blk_node_options - what blockdev-add asked for
 * @filename: as given, or the path of an adopted file; NULL for format nodes
 * @auto_read_only: fall back to read-only where writing is not permitted
 * @no_backing: "backing": null
 * @encrypt: the passphrase, until the image is open
 * @allow_external: the image's header may name files of any directory
 * @lazy_refcounts: -1 not given, else what was given
 */
struct blk_node_options {
	char *filename;
	bool auto_read_only;
	bool no_backing;
	struct blk_encrypt *encrypt;
	bool allow_external;
	int lazy_refcounts;
};

/**
 * struct blk_node - one node; fields are read-only for users
 * @graph: only its policy is for the threads that open nodes
 * @implicit: made as a child of another node; dies with it
 * @locks: 1 << role: it is the first to use that child: takes the locks when
 *         it opens
 * @parents: nodes that use it as a child
 * @users: exports and jobs that use it; the user counts
 * @writers: how many of the users write; the user counts
 * @child, @data, @backing: the children, or NULL
 * @file: protocol nodes; NULL if it was lost
 * @image: qcow2 nodes; NULL if it was lost
 * @key: of an encrypted image; NULL also if it was adopted: then its key is
 *       not known here
 * @header: of @image, when it was opened: may be read while others use @image
 */
struct blk_node {
	char name[BLK_NODE_NAME_MAX + 1];
	const struct blk_driver *drv;
	enum blk_node_state state;
	bool read_only;
	bool implicit;
	unsigned int locks;
	unsigned int parents;
	unsigned int users;
	unsigned int writers;
	struct blk_graph *graph;
	struct blk_node *child;
	struct blk_node *data;
	struct blk_node *backing;
	struct blk_file *file;
	struct blk_qcow2 *image;
	struct blk_luks_key *key;
	struct blk_node_options opts;
	struct qcow2_header header;
	struct blk_node *next;
};

struct blk_graph *blk_graph_new(void);
/*
 * Closes everything without unlocking: what the kernel holds stays locked.
 * Nothing may be in use, opening or closing; what an attachment owns has been
 * replaced.
 */
void blk_graph_free(struct blk_graph *g);
/* What object-add has made. */
struct blk_secrets *blk_graph_secrets(struct blk_graph *g);

/*
 * Policy: an image's header may name a file outside the image's own directory
 * only if the node allows it, or if it is in one of these directories, or in
 * one that the file @list names (absolute, one a line, # begins a comment; it
 * is read when it is needed and may be missing).  Copied.  Before any node is
 * added.
 */
int blk_graph_allow_dir(struct blk_graph *g, const char *dir);
int blk_graph_allow_list(struct blk_graph *g, const char *list);

/**
 * blk_node_add_begin - first part of blockdev-add: names and references
 * @options: the arguments of QMP's blockdev-add, already checked against the
 *           schema; borrowed
 * Then blk_node_open(), then blk_node_add_end().
 */
int blk_node_add_begin(struct blk_graph *g, const json_t *options,
		       struct blk_node **out, struct blk_error *e);
/*
 * Opens the file, takes QEMU's image locks, validates the image, and does the
 * same with the images below that are not open yet.  Blocks; any thread.  On
 * failure nothing stays open.
 */
int blk_node_open(struct blk_node *n, struct blk_error *e);
/* @opened: blk_node_open() returned 0; else the node is removed and freed. */
void blk_node_add_end(struct blk_graph *g, struct blk_node *n, bool opened);

/* All three at once. */
int blk_node_add(struct blk_graph *g, const json_t *options,
		 struct blk_node **out, struct blk_error *e);

/*
 * blockdev-del: begin (class BUSY while it has parents or users), close
 * (blocks; any thread), end.
 */
int blk_node_del_begin(struct blk_graph *g, const char *name,
		       struct blk_node **out, struct blk_error *e);
void blk_node_close(struct blk_node *n);
void blk_node_del_end(struct blk_graph *g, struct blk_node *n);
/* Instead of close and end: it stays. */
void blk_node_del_undo(struct blk_node *n);
int blk_node_del(struct blk_graph *g, const char *name, struct blk_error *e);

/**
 * struct blk_adopted - one image of an adopted device, and the names it had
 * @file, @data, @image: as in struct blk_attach_layer; the nodes' from now on,
 *        but for layer 0, whose owner may be the attachment
 * @name: NULL: generated, and the node is implicit below layer 0; with a "!"
 *        in front: the name of an implicit node
 * @file_name, @data_name: the same
 * @bare: it has no image, and the file's node is the backing node itself
 */
struct blk_adopted {
	struct blk_file *file;
	struct blk_file *data;
	struct blk_qcow2 *image;
	const char *name;
	const char *file_name;
	const char *data_name;
	bool bare;
};

/*
 * An adopted device's chain.  Names that are not valid or taken are replaced
 * by generated ones; but where a node of that name has the same image already,
 * with as many below it, it is used, and the objects for it are closed.
 * On failure the objects are the caller's as before.
 */
int blk_node_add_adopted(struct blk_graph *g, const struct blk_adopted *layers,
			 size_t n, bool read_only, struct blk_node **out,
			 struct blk_error *e);
/*
 * When the attachment that owns a node's objects is going, NULLs replace them;
 * when it is gone, others of the node's own; or the same again if it stays.
 */
void blk_node_replace(struct blk_node *n, struct blk_file *file,
		      struct blk_qcow2 *image);

/* In any state. */
struct blk_node *blk_node_find(struct blk_graph *g, const char *name);
struct blk_node *blk_graph_first(struct blk_graph *g);	/* then ->next */

/* The child in that role, or NULL; "file", "data-file", "backing" */
struct blk_node *blk_node_child(const struct blk_node *n, enum blk_role role);
const char *blk_role_name(enum blk_role role);

/* The node's own file, or that of its child "file"; NULL: lost */
struct blk_file *blk_node_file(const struct blk_node *n);
bool blk_node_is_qcow2(const struct blk_node *n);
/* Images from this one down */
size_t blk_node_depth(const struct blk_node *n);
/* Bytes of the disk; blocks for raw ones.  -errno */
int64_t blk_node_size(const struct blk_node *n);

/*
 * Another size for an image that is not attached, and that nobody else uses
 * meanwhile (the caller counts itself as a user).  Blocks; any thread.
 */
int blk_node_resize(struct blk_node *n, uint64_t size, bool shrink,
		    struct blk_error *e);

const char *blk_node_driver(const struct blk_node *n);
/* As given, or the file's path: never NULL */
const char *blk_node_filename(const struct blk_node *n);
/* QEMU's rule for ids: a letter, then letters, digits, '-', '.', '_' */
bool blk_id_wellformed(const char *id);

#endif
