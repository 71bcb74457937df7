/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections of QMP clients.
 */
#ifndef BLKCTLD_CONN_H
#define BLKCTLD_CONN_H

#include <stdbool.h>

#include <jansson.h>

#include "server.h"

struct conn;

/* Begins to accept on a listening, non-blocking socket (taken over). */
int conn_listen(struct server *s, int fd, struct blk_error *e);
void conn_listen_stop(struct server *s);

/* Queues a message (the reference is taken over). */
void conn_send(struct conn *c, json_t *msg);
/* To everybody who has negotiated; the reference stays the caller's. */
void conn_broadcast(struct server *s, json_t *msg);

/*
 * A request of this connection is under way (true) or has been answered:
 * requests are answered one after the other.
 */
void conn_set_busy(struct conn *c, bool busy);
/* The request's connection went away: its owner is told by this pointer. */
void conn_set_request(struct conn *c, struct conn **ref);

bool conn_negotiated(const struct conn *c);
void conn_set_negotiated(struct conn *c);
struct server *conn_server(const struct conn *c);

/* Everything that was queued has been written */
bool conn_all_flushed(const struct server *s);
void conn_close_all(struct server *s);

#endif
