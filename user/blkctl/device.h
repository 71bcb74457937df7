/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The model behind list, show and remove: one JSON object for each device, as
 * query-device-mapper returns it, but for "path", which QMP calls "device".
 */
#ifndef BLKCTL_DEVICE_H
#define BLKCTL_DEVICE_H

#include <jansson.h>

#include "client.h"
#include "out.h"

#define DEVICE_DIR "/dev/mapper/"
#define DEVICE_NODE_MAX 31	/* QEMU's limit for node names */

/* New reference to the array of all devices. */
int device_list(struct client *c, json_t **out, struct blk_error *e);
/* New reference to one of them; class NOT_FOUND. */
int device_find(struct client *c, const char *name, json_t **out,
		struct blk_error *e);
/* Warns of everything that is wrong with the devices. */
void device_warn(struct cli *cli, const json_t *devices);

/**
 * device_node_name - the name of node and export for a device
 * @buf: room for DEVICE_NODE_MAX + 1
 * The device's name if that is a legal node name, else one made from it; always
 * the same one for the same name.
 */
void device_node_name(const char *name, char *buf);

#endif
