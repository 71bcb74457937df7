/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loop devices with direct I/O under regular image files (docs/design.md, rules 7, 14,
 * 17): autoclear, block size explicit, read back and refused if the kernel
 * fell back to buffered I/O.
 */
#ifndef BLK_KCTL_LOOP_H
#define BLK_KCTL_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct blk_loop {
	int fd;			/* keep open until the table is live */
	uint64_t dev;		/* DM_QCOW_DEV(major, minor) */
	char path[32];		/* "/dev/loopN" */
};

/* @file_fd: opened O_DIRECT; the loop keeps the open file (and its locks) */
int blk_loop_attach(int file_fd, const char *path, bool read_only,
		    uint32_t block_size, struct blk_loop *out,
		    struct blk_error *e);
/* after the file has grown or shrunk */
int blk_loop_set_capacity(const struct blk_loop *l, struct blk_error *e);
void blk_loop_close(struct blk_loop *l);	/* drops our open */
/* opens /dev/loopN of this number again, for an adopted device */
int blk_loop_open(uint64_t dev, struct blk_loop *out, struct blk_error *e);
/* the backing file's path, malloc'ed; -ENXIO: not a loop device */
int blk_loop_backing(uint64_t dev, char **path, struct blk_error *e);
/* a loop device that has this file already: 1 and *dev, or 0 */
int blk_loop_find(int file_fd, uint64_t *dev);
/*
 * The same, opened, if it suits a further read-only user: direct I/O, the
 * whole file, autoclear.  1 and *out, or 0
 */
int blk_loop_share(int file_fd, struct blk_loop *out);
/* a loop device whose backing "file" is block device @dev: 1 and its path */
int blk_loop_over(uint64_t dev, char *name, size_t room);

#endif
