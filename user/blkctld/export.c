// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The list of exports, and what is the same for every type of them.
 *
 * Owns: exports.
 * Must not: know how a type does its work.
 * Threads: the loop's only.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "export.h"
#include "export_dm.h"
#include "graph/json.h"
#include "log.h"

static const struct export_type *const types[] = { &export_dm };

static const struct export_type *find_type(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(types[i]->name, name))
			return types[i];
	return NULL;
}

struct export *export_find(struct server *s, const char *id)
{
	struct export *x;

	for (x = s->exports; x; x = x->next)
		if (!strcmp(x->id, id))
			return x;
	return NULL;
}

struct export *export_new(struct server *s, const struct export_type *type,
			  const char *id)
{
	struct export *x = calloc(1, type->size);

	if (!x)
		return NULL;
	x->id = strdup(id);
	if (!x->id) {
		free(x);
		return NULL;
	}
	x->s = s;
	x->type = type;
	x->state = EXPORT_STARTING;
	x->next = s->exports;
	s->exports = x;
	return x;
}

void export_free(struct export *x)
{
	struct export **p;

	for (p = &x->s->exports; *p && *p != x; p = &(*p)->next)
		;
	if (*p)
		*p = x->next;
	export_put_node(x);
	x->type->free(x);
	free(x->id);
	free(x);
}

/*
 * Nodes
 */

static const char *user_of(const struct export *x, const struct blk_node *node)
{
	const struct export *o;

	for (o = x->s->exports; o; o = o->next)
		if (o != x && o->node == node)
			return o->id;
	return "?";
}

int export_use_node(struct export *x, struct blk_node *node, bool writable,
		    struct blk_error *e)
{
	if (node->state != BLK_NODE_READY)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node '%s' is being opened or closed",
				     node->name);
	if (writable && node->read_only)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "Cannot export read-only node as writable");
	if (writable && node->parents)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node '%s' is a backing node: what is above it would change",
				     node->name);
	if (writable ? node->users : node->writers)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Node '%s' is in use by export '%.80s'%s",
				     node->name, user_of(x, node),
				     node->writers ? ", which is writable" :
				     "");
	x->node = node;
	x->writable = writable;
	node->users++;
	node->writers += writable;
	return 0;
}

void export_put_node(struct export *x)
{
	if (!x->node)
		return;
	x->node->users--;
	x->node->writers -= x->writable;
	x->node = NULL;
}

/*
 * block-export-add
 */

int cmd_block_export_add(struct qmp_request *rq, json_t **ret,
			 struct blk_error *e)
{
	const char *id = blk_json_str(rq->args, "id", "");
	const char *name = blk_json_str(rq->args, "node-name", "");
	struct blk_node *node;
	struct export *x;
	int err;

	(void)ret;
	if (!blk_id_wellformed(id))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "Invalid block export id");
	if (export_find(rq->s, id))
		return blk_error_set(e, BLK_ERR_BUSY, EEXIST,
				     "Block export id '%.80s' is already in use",
				     id);
	node = blk_node_find(rq->s->graph, name);
	if (!node)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "Cannot find device='' nor node-name='%.80s'",
				     name);
	x = export_new(rq->s, find_type(blk_json_str(rq->args, "type", "")),
		       id);
	if (!x)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	err = export_use_node(x, node,
			      blk_json_bool(rq->args, "writable", false), e);
	if (!err)
		err = x->type->start(x, rq, e);
	if (err < 0)
		export_free(x);
	return err;
}

void export_started(struct export *x, struct qmp_request *rq, int ret,
		    const struct blk_error *e)
{
	struct server *s = x->s;
	struct blk_error copy;

	if (ret) {
		log_warn("export '%s': %s", x->id, e->msg);
		copy = *e;	/* it may be part of what is freed */
		export_free(x);
	} else {
		x->state = EXPORT_RUNNING;
	}
	qmp_finish(rq, NULL, ret ? &copy : NULL);
	server_check_stopped(s);
}

/*
 * block-export-del
 */

int cmd_block_export_del(struct qmp_request *rq, json_t **ret,
			 struct blk_error *e)
{
	const char *id = blk_json_str(rq->args, "id", "");
	const char *mode = blk_json_str(rq->args, "mode", "safe");
	struct export *x = export_find(rq->s, id);
	int err;

	(void)ret;
	if (!x)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "Export '%.80s' is not found", id);
	if (x->state != EXPORT_RUNNING)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "Export '%s' is %s", id,
				     x->state == EXPORT_STARTING ?
				     "still being added" :
				     x->state == EXPORT_RESIZING ?
				     "being resized" :
				     "already shutting down");
	x->state = EXPORT_STOPPING;
	err = x->type->stop(x, rq, !strcmp(mode, "hard"), e);
	if (err < 0)
		x->state = EXPORT_RUNNING;
	return err;
}

void export_stopped(struct export *x, struct qmp_request *rq, int ret,
		    const struct blk_error *e)
{
	struct server *s = x->s;
	json_t *data;

	if (ret) {
		x->state = EXPORT_RUNNING;
	} else {
		data = json_pack("{s:s}", "id", x->id);
		if (e) {
			log_error("export '%s': %s", x->id, e->msg);
			blk_json_put_str(data, "warning", e->msg);
		}
		qmp_event(s, "BLOCK_EXPORT_DELETED", data);
		export_free(x);
	}
	if (rq)
		qmp_finish(rq, NULL, ret ? e : NULL);
	server_check_stopped(s);
}

void export_resized(struct export *x, struct qmp_request *rq, int ret,
		    const struct blk_error *e)
{
	struct server *s = x->s;

	x->state = EXPORT_RUNNING;
	if (ret)
		log_warn("export '%s': %s", x->id, e->msg);
	qmp_finish(rq, NULL, ret ? e : NULL);
	server_check_stopped(s);
}

/*
 * query-block-exports
 */

int cmd_query_block_exports(struct qmp_request *rq, json_t **ret,
			    struct blk_error *e)
{
	json_t *list = json_array(), *o;
	const struct export *x;

	for (x = rq->s->exports; x; x = x->next) {
		if (x->state == EXPORT_STARTING)
			continue;
		o = json_pack("{s:s, s:s, s:s, s:b}", "id", x->id,
			      "type", x->type->name,
			      "node-name", x->node->name, "shutting-down",
			      x->state == EXPORT_STOPPING);
		if (!o || x->type->info(x, o) ||
		    json_array_append(list, o)) {
			json_decref(o);
			json_decref(list);
			return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					     "out of memory");
		}
		json_decref(o);
	}
	*ret = list;
	return 0;
}

void export_abandon_all(struct server *s)
{
	while (s->exports) {
		if (s->exports->state == EXPORT_RUNNING)
			s->exports->type->abandon(s->exports);
		export_free(s->exports);
	}
}
