/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who holds an image that a verb could not lock.
 */
#ifndef BLKCTL_IMAGE_HELD_H
#define BLKCTL_IMAGE_HELD_H

#include <stdbool.h>
#include <stdint.h>

#include "client.h"
#include "image/image.h"

/**
 * struct image_held - what the daemon says of a file that is in use
 * @client: the connection
 * @node: the name of the node that has the file; NULL: the daemon has none
 * @driver: of that node
 * @size: of the disk in it, bytes
 * @device: the name of the device in whose chain it is; NULL: in none
 * @top: the device's node; not @node for an image below
 * @below: another node has it as its backing image
 *
 * The strings are those of @nodes and @devices.
 */
struct image_held {
	struct client *client;
	json_t *nodes;
	json_t *devices;
	const char *node;
	const char *driver;
	uint64_t size;
	const char *device;
	const char *top;
	bool below;
};

/* Does @e say that somebody else has a file? */
static inline bool image_is_held(const struct blk_error *e)
{
	return e->cls == BLK_ERR_BUSY && e->held.path[0];
}

/* True: the daemon has the file that @e names.  To be freed in any case. */
bool image_held_find(const struct image_run *r, const struct blk_error *e,
		     struct image_held *h);
void image_held_free(struct image_held *h);

/* Puts into @e who has the file, and what to do about it, as far as known. */
void image_held_explain(const struct image_run *r, struct blk_error *e);

#endif
