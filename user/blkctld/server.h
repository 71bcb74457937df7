/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon as a whole.  Everything in it belongs to the loop's thread.
 */
#ifndef BLKCTLD_SERVER_H
#define BLKCTLD_SERVER_H

#include <stdbool.h>

#include "base/error.h"
#include "graph/node.h"
#include "loop/ev.h"

struct conn;
struct export;
struct kernel;

/**
 * struct server - the daemon
 * @listen: the socket on which connections come
 * @listen_timer: tries again when none could be accepted
 * @conns, @nconns: open connections
 * @exports: in the order in which they were added, the last one first
 * @kernel: netlink, opened when it is first needed
 * @stopping: no new requests; when all work has ended, so does the loop
 */
struct server {
	struct blk_ev *ev;
	struct blk_graph *graph;
	struct blk_ev_io listen;
	struct blk_ev_timer listen_timer;
	struct conn *conns;
	unsigned int nconns;
	struct export *exports;
	struct kernel *kernel;
	struct blk_ev_timer stop_timer;
	bool stopping;
};

/* Ends the daemon; devices stay.  Waits for work that is under way. */
void server_stop(struct server *s);
/* Some work or output has ended: was it the last? */
void server_check_stopped(struct server *s);

#endif
