/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The kernel module, seen from a command line.
 */
#ifndef BLKCTL_MODULE_H
#define BLKCTL_MODULE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

#define MODULE_NAME "dm-qcow"

bool module_loaded(void);
/* Is there one for the running kernel? */
bool module_installed(void);
/*
 * Loads it unless it is loaded.  Class UNAVAILABLE, with modprobe's reason.
 * Without privileges it does nothing: the daemon may have them.
 */
int module_load(struct blk_error *e);
/* First line of a file in /sys or /proc; false if it cannot be read. */
bool module_read_line(const char *path, char *buf, size_t room);

#endif
