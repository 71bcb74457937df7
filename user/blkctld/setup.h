/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a daemon does once: lock, socket, privileges, messages to systemd.
 */
#ifndef BLKCTLD_SETUP_H
#define BLKCTLD_SETUP_H

#include <stdbool.h>

#include "base/error.h"

/* @fd: keep it open; class BUSY when another daemon has the lock */
int setup_lock(const char *path, int *fd, struct blk_error *e);

/*
 * A listening socket: systemd's if it gave one (*own = false), else @path, made
 * anew with mode 0600.
 */
int setup_socket(const char *path, int *fd, bool *own, struct blk_error *e);

int setup_pidfile(const char *path, struct blk_error *e);

/*
 * So that the daemon never waits for one of its own devices: memory locked, no I/O
 * from memory reclaim, not a victim of the OOM killer.  What is not
 * permitted is logged and left.
 */
void setup_process(void);

/* To systemd, if it asked for it: "READY=1" and the like */
void setup_notify(const char *text);

#endif
