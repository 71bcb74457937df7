/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The QMP protocol above framing: greeting, negotiation, dispatch, replies,
 * events.
 */
#ifndef BLKCTLD_QMP_H
#define BLKCTLD_QMP_H

#include <jansson.h>

#include "conn.h"
#include "schema.h"
#include "server.h"

/**
 * struct qmp_request - a request that is being carried out
 * @conn: who asked; NULL when he has gone
 * @id: to be echoed, or NULL
 * @args: never NULL; valid by the command's schema
 */
struct qmp_request {
	struct server *s;
	struct conn *conn;
	const struct qmp_command *cmd;
	json_t *id;
	json_t *args;
};

/* @val is taken over. */
void qmp_dispatch(struct conn *c, json_t *val);

/*
 * Answers a request whose handler has returned QMP_LATER, and frees it.
 * @ret: taken over; NULL: an empty object.  @e: the error, or NULL.
 */
void qmp_finish(struct qmp_request *rq, json_t *ret,
		const struct blk_error *e);

json_t *qmp_greeting(void);
json_t *qmp_version(void);
void qmp_protocol_error(struct conn *c, const char *why);

/* Tells all clients; @data is taken over. */
void qmp_event(struct server *s, const char *name, json_t *data);

#endif
