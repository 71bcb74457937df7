// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Raw files: images, and the data files of images.
 *
 * Owns how one becomes larger or smaller, with space allocated or not.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "image/meta.h"

#define ZEROES	(1U << 20)

enum blk_prealloc image_prealloc(const char *name)
{
	static const char *const names[] = {
		"off", "metadata", "falloc", "full",
	};

	for (size_t i = 0; name && i < BLK_COUNT(names); i++)
		if (!strcmp(name, names[i]))
			return (enum blk_prealloc)i;
	return BLK_PREALLOC_OFF;
}

static int failed(const struct blk_file *f, int ret, struct blk_error *e)
{
	return ret ? blk_error_set(e, BLK_ERR_FAILED, -ret,
				   "cannot change the size of '%s': %s",
				   f->path, strerror(-ret)) : 0;
}

static int write_zeroes(struct blk_file *f, uint64_t from, uint64_t to)
{
	void *buf;
	int ret = 0;

	if (posix_memalign(&buf, 4096, ZEROES))
		return -ENOMEM;
	memset(buf, 0, ZEROES);
	for (; from < to && !ret; from += BLK_MIN(to - from, ZEROES))
		ret = blk_file_write(f, buf, BLK_MIN(to - from, ZEROES), from);
	free(buf);
	return ret;
}

/* A raw file: an image, or an image's data */
int image_resize_file(struct blk_file *f, uint64_t size,
		      enum blk_prealloc how, struct blk_error *e)
{
	int64_t old = blk_file_size(f);
	int ret = 0;

	if (f->is_bdev)
		return (uint64_t)old >= size ? 0 :
			blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				      "'%s' is a device of %" PRId64 " bytes and cannot be made larger",
				      f->path, old);
	if (old < 0)
		return failed(f, (int)old, e);
	if ((uint64_t)old < size && how == BLK_PREALLOC_FALLOC)
		ret = -posix_fallocate(f->fd, old, (off_t)(size - old));
	else if ((uint64_t)old < size && how == BLK_PREALLOC_FULL)
		ret = write_zeroes(f, old, size);
	if (!ret)
		ret = blk_file_truncate(f, size);
	else
		blk_file_truncate(f, old);
	if (!ret)
		ret = blk_file_flush(f);
	return failed(f, ret, e);
}
