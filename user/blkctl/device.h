/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The model behind list, show and remove: one JSON object for each device.
 */
#ifndef BLKCTL_DEVICE_H
#define BLKCTL_DEVICE_H

#include <jansson.h>

#include "client.h"
#include "out.h"

#define DEVICE_DIR "/dev/mapper/"
#define DEVICE_NODE_MAX 31

/**
 * device_list - all devices of the daemon
 * @out: new reference: array of what query-device-mapper returns, and in each
 *       object "path" (of the device), "image" (file name) and "format"
 */
int device_list(struct client *c, json_t **out, struct blk_error *e);
/* One of them; class NOT_FOUND. */
int device_find(struct client *c, const char *name, json_t **out,
		struct blk_error *e);
/* Warns of each device that is not in the mode it was attached in. */
void device_warn(struct cli *cli, const json_t *devices);
/* The daemon's named nodes: query-named-block-nodes. */
int device_nodes(struct client *c, json_t **out, struct blk_error *e);
/* The node of that name, borrowed, or NULL. */
const json_t *device_node(const json_t *nodes, const char *name);

/**
 * device_node_name - the name of node and export for a device
 * @buf: room for DEVICE_NODE_MAX + 1
 * The device's name if that is a legal node name, else one made from it; always
 * the same one for the same name.
 */
void device_node_name(const char *name, char *buf);

#endif
