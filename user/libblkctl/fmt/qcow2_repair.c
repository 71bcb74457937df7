// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Repairing a dirty image.
 */
#include <errno.h>

#include "fmt/qcow2_int.h"

int blk_qcow2_repair(struct blk_qcow2 *q, bool *repaired, struct blk_error *e)
{
	blk_guard_mutex(&q->lock);
	*repaired = false;
	if (!(q->h.incompatible_features & QCOW2_INCOMPAT_DIRTY))
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EUCLEAN,
		      "the refcounts of '%s' are not up to date (dirty bit)",
		      q->f->path);
	blk_error_hint(e, "repair it with \"qemu-img check -r all\"");
	return -EUCLEAN;
}
