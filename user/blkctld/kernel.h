/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's own view of the kernel's devices: a netlink socket to look, and
 * one that rings when something changed.
 */
#ifndef BLKCTLD_KERNEL_H
#define BLKCTLD_KERNEL_H

#include <stdint.h>

#include "kctl/genl.h"
#include "server.h"

/*
 * Begins to listen for events, if it does not yet; the module must be loaded.
 * Failure only means that changes of read-only devices are noticed late.
 */
void kernel_watch(struct server *s);
void kernel_unwatch(struct server *s);

/* The state of one device, by the watching socket. */
int kernel_get(struct server *s, uint64_t dev, struct blk_kdev *out,
	       struct blk_error *e);

/*
 * All devices, by a socket of its own: any thread.  Without the module there are
 * none, and that is no error.  @list: the caller frees
 */
int kernel_list(struct blk_kdev **list, size_t *n, struct blk_error *e);

/* "rw", "out_of_space", "ro", "fail" */
const char *kernel_mode_name(enum dm_qcow_mode mode);

#endif
