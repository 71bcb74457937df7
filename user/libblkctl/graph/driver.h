/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the graph knows of a driver.  A new driver is one row of the table.
 */
#ifndef BLK_GRAPH_DRIVER_H
#define BLK_GRAPH_DRIVER_H

#include "graph/node.h"

/**
 * struct blk_driver - one value of blockdev-add's "driver"
 * @name: QEMU's
 * @protocol: opens a file; else it has a child "file"
 * @chained: may have the children "data-file" and "backing", and may write
 * @open: blocks; any thread; the child "file" is open.  On failure leaves
 *        nothing
 * @close: undoes it; any thread; may not be open
 */
struct blk_driver {
	const char *name;
	bool protocol;
	bool chained;
	int (*open)(struct blk_node *n, struct blk_error *e);
	void (*close)(struct blk_node *n);
};

/* NULL: unknown */
const struct blk_driver *blk_driver_find(const char *name);

#endif
