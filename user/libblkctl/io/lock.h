/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * QEMU's image locks: OFD byte-range locks on the image, so that QEMU's
 * programs and we exclude each other.  Byte 100+n: permission n is used;
 * byte 200+n: permission n is not shared with others.  (QEMU: file-posix.c)
 */
#ifndef BLK_IO_LOCK_H
#define BLK_IO_LOCK_H

#include <stdbool.h>

#include "base/error.h"

/**
 * blk_lock_image - take the locks of a reader or of a writer
 * @fd: the open file; the locks live as long as this open file description
 *      does (also in the kernel's hands, DM_QCOW_CMD_HOLD_FILE)
 * @path: for the message
 * @writable: a writer uses consistent-read, write and resize, a reader only
 *            consistent-read; both share everything but write and resize (as
 *            QEMU's qcow2 over file does: bytes 100, 101, 103, 201, 203)
 *
 * Return: 0; -EBUSY with class BUSY and a message that names the holder's pid
 * and command (from /proc/locks, /proc/<pid>/fd) where they can be found, and
 * nothing stays locked.
 */
int blk_lock_image(int fd, const char *path, bool writable,
		   struct blk_error *e);
void blk_unlock_image(int fd);

/**
 * blk_lock_offline - the same for who changes images that are not attached
 * A block device that is to be written must not be claimed either: by a mount,
 * or by a device on top of it, which may not know the locks, or may have taken
 * them on another node of the device.
 *
 * Return: as blk_lock_image(), and @e->held says which file somebody has.
 */
int blk_lock_offline(int fd, const char *path, bool writable,
		     struct blk_error *e);

#endif
