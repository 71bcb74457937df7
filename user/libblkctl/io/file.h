/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An image's bytes: a regular file or a block device, never through the page
 * cache once it is open for metadata work while it is attached.
 */
#ifndef BLK_IO_FILE_H
#define BLK_IO_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* Changes of a file, as a test's hook sees them */
enum blk_file_op {
	BLK_FILE_OP_WRITE,	/* data: what is written */
	BLK_FILE_OP_ZERO,
	BLK_FILE_OP_DISCARD,
	BLK_FILE_OP_TRUNCATE,	/* off: the new size */
	BLK_FILE_OP_FLUSH,
};

/**
 * struct blk_file - an open image file or block device
 * @fd: owned; opened O_CLOEXEC | O_DIRECT (without O_DIRECT only if the file
 *      system has none and BLK_FILE_BUFFERED_OK was given)
 * @writable: opened O_RDWR
 * @is_bdev: a block device
 * @direct: O_DIRECT is in force
 * @align: bytes that offsets, lengths and buffers of direct I/O are aligned
 *         to: 512..4096, a power of two
 * @block: bytes of a file system block (regular files) or of the physical
 *         block (devices)
 * @slow_zero: a device without a command for zeroes: they must be written
 * @path: absolute, symlinks resolved; owned
 * @hook: tests only: sees every change before it is made; a negative result
 *        is returned in place of making it
 */
struct blk_file {
	int fd;
	bool writable;
	bool is_bdev;
	bool direct;
	bool slow_zero;
	size_t align;
	size_t block;
	char *path;
	int (*hook)(void *opaque, enum blk_file_op op, uint64_t off,
		    uint64_t len, const void *data);
	void *hook_opaque;
};

#define BLK_FILE_WRITE		(1U << 0)
#define BLK_FILE_BUFFERED_OK	(1U << 1)	/* offline use */
#define BLK_FILE_BUFFERED	(1U << 2)	/* through the page cache */

int blk_file_open(const char *path, unsigned int flags, struct blk_file **out,
		  struct blk_error *e);
/* Takes over @fd (for instance one that the kernel kept); path is a label. */
int blk_file_from_fd(int fd, const char *path, struct blk_file **out,
		     struct blk_error *e);
void blk_file_close(struct blk_file *f);	/* NULL is fine */

/* Current size in bytes; a block device's capacity.  -errno on failure. */
int64_t blk_file_size(const struct blk_file *f);

/* The same file, or the same block device? */
bool blk_file_same(const struct blk_file *a, const struct blk_file *b);

/* Is the size one of whole sectors (512)?  A loop device cuts off the rest. */
int blk_file_check_sectors(const struct blk_file *f, struct blk_error *e);

/*
 * Any offset, length and buffer: unaligned edges are read (and for writes,
 * read, modified and written) through an aligned bounce buffer.  Reads past
 * the end give zeroes.  All or -errno; interrupted and short transfers are
 * continued.
 */
int blk_file_read(struct blk_file *f, void *buf, size_t len, uint64_t off);
int blk_file_write(struct blk_file *f, const void *buf, size_t len,
		   uint64_t off);
int blk_file_flush(struct blk_file *f);		/* fdatasync */

/* Regular files only: sets the size. */
int blk_file_truncate(struct blk_file *f, uint64_t size);

/*
 * Makes [off, off+len) allocated and reading as zeroes, extending a regular
 * file if needed (punch + fallocate, so nothing stale shows).  On a block
 * device BLKZEROOUT.  Returns -EOPNOTSUPP where it can't be had, -ENOSPC when
 * the host is full.  Durable only after blk_file_flush().
 */
int blk_file_zero(struct blk_file *f, uint64_t off, uint64_t len);

/* Gives the space back: punch hole, or BLKDISCARD.  Best effort. */
void blk_file_discard(struct blk_file *f, uint64_t off, uint64_t len);

#endif
