// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Another size for an image that is open and not attached.
 *
 * Owns: the order: a data file is large enough before the image says so.
 * Must not: be called while anybody else uses the node.
 * Threads: any; blocks.
 */
#include <errno.h>
#include <string.h>

#include "graph/node_int.h"

static int check(const struct blk_node *n, uint64_t size, bool shrink,
		 struct blk_error *e)
{
	if (n->read_only)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "Block node is read-only");
	if (!n->image || !n->child->file)
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "The file of node '%s' was lost", n->name);
	if (size & 511)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "The new size must be a multiple of 512");
	if (size >= n->header.size || shrink)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "%llu bytes are less than node '%s' has (%llu): what is behind them would be lost",
		      (unsigned long long)size, n->name,
		      (unsigned long long)n->header.size);
	blk_error_hint(e, "make the file system smaller first, then say \"shrink\"");
	return -EINVAL;
}

static int set_data_size(const struct blk_node *n, uint64_t size,
			 struct blk_error *e)
{
	struct blk_file *f = n->data->file;
	int ret;

	if (f->is_bdev)
		return blk_file_size(f) >= (int64_t)size ? 0 :
			blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				      "the data file '%s' is too small for %llu bytes",
				      f->path, (unsigned long long)size);
	ret = blk_file_truncate(f, size);
	if (!ret)
		ret = blk_file_flush(f);
	return ret ? blk_error_set(e, BLK_ERR_FAILED, -ret,
				   "cannot change the size of '%s': %s",
				   f->path, strerror(-ret)) : 0;
}

int blk_node_resize(struct blk_node *n, uint64_t size, bool shrink,
		    struct blk_error *e)
{
	int64_t below = 0;
	bool repaired;
	int ret = check(n, size, shrink, e);

	if (!ret && n->backing) {
		below = blk_node_size(n->backing);
		if (below < 0)
			ret = blk_error_set(e, BLK_ERR_FAILED, (int)-below,
					    "cannot find the size of node '%s'",
					    n->backing->name);
	}
	if (!ret)
		ret = blk_qcow2_repair(n->image, &repaired, e);
	if (!ret && n->data && blk_file_size(n->data->file) < (int64_t)size)
		ret = set_data_size(n, size, e);
	if (!ret)
		ret = blk_qcow2_resize(n->image, size, shrink, below, e);
	/* too long by what is not shown is no harm */
	if (!ret && n->data && blk_qcow2_data_file_raw(n->image) &&
	    !n->data->file->is_bdev)
		set_data_size(n, size, NULL);
	return ret;
}
