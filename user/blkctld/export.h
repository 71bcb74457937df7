/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports: ways in which a node's data is offered to others.  A new type is one
 * row of a table.
 */
#ifndef BLKCTLD_EXPORT_H
#define BLKCTLD_EXPORT_H

#include <stdbool.h>

#include <jansson.h>

#include "qmp.h"
#include "server.h"

enum export_state {
	EXPORT_STARTING,
	EXPORT_RUNNING,
	EXPORT_RESIZING,
	EXPORT_STOPPING,
};

/**
 * struct export - what every type begins with
 * @id: owned
 * @node: counted in its users
 */
struct export {
	struct export *next;
	struct server *s;
	const struct export_type *type;
	char *id;
	struct blk_node *node;
	enum export_state state;
	bool writable;
};

/**
 * struct export_type - one value of block-export-add's "type"
 * @size: bytes of its struct, which begins with a struct export
 * @start: checks the arguments and begins; QMP_LATER or -errno.  When it has
 *         ended it calls export_started()
 * @stop: begins to remove; QMP_LATER or -errno.  When it has ended it calls
 *        export_stopped()
 * @resize: begins to change the size of a writable export and its image;
 *          QMP_LATER or -errno.  When it has ended it calls export_resized()
 * @abandon: the daemon ends, what is exported stays
 * @free: frees what the type has added
 * @info: adds the type's members to query-block-exports
 */
struct export_type {
	const char *name;
	size_t size;
	int (*start)(struct export *x, struct qmp_request *rq,
		     struct blk_error *e);
	int (*stop)(struct export *x, struct qmp_request *rq, bool hard,
		    struct blk_error *e);
	int (*resize)(struct export *x, struct qmp_request *rq, uint64_t size,
		      bool shrink, struct blk_error *e);
	void (*abandon)(struct export *x);
	void (*free)(struct export *x);
	int (*info)(const struct export *x, json_t *o);
};

struct export *export_find(struct server *s, const char *id);

/* An export that is not asked for by a client.  @id: copied.  NULL: no memory */
struct export *export_new(struct server *s, const struct export_type *type,
			  const char *id);
/* Takes it off the list, lets go of the node, frees it. */
void export_free(struct export *x);

/* Uses or lets go of a node: one that writes, or any number that read. */
int export_use_node(struct export *x, struct blk_node *node, bool writable,
		    struct blk_error *e);
void export_put_node(struct export *x);

/* @ret 0, or -errno with @e: then the export is freed.  Answers @rq. */
void export_started(struct export *x, struct qmp_request *rq, int ret,
		    const struct blk_error *e);
/*
 * @ret 0: it is gone and is freed (@e, if not NULL: what went wrong all the
 * same); else it goes on.  Tells everybody, answers @rq (NULL: nobody asked).
 */
void export_stopped(struct export *x, struct qmp_request *rq, int ret,
		    const struct blk_error *e);

/* @ret 0, or -errno with @e: it has the size that it had.  Answers @rq. */
void export_resized(struct export *x, struct qmp_request *rq, int ret,
		    const struct blk_error *e);

void export_abandon_all(struct server *s);

#endif
