// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Changing the disk's size.
 */
#include <errno.h>

#include "fmt/qcow2_int.h"

int blk_qcow2_resize(struct blk_qcow2 *q, uint64_t size, bool shrink,
		     uint64_t backing_size, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			     "'%s' cannot be resized", q->f->path);
}
