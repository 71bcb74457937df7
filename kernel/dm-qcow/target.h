/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One table of the target "qcow".
 */
#ifndef QCOW_TARGET_H
#define QCOW_TARGET_H

#include <linux/device-mapper.h>

#include "table.h"

struct qcow_device;
struct qcow_image;
struct qcow_target;

/**
 * struct qcow_layer - one layer of a table
 * @img: the qcow2 image, NULL: the layer is raw
 * @data: where its clusters are
 * @size: bytes of the disk that it shows; set by each resume
 * @writable: the top layer of a table that was loaded read-write
 * @t: the table
 * @image_node: in img->users
 * @dev: its device, held open; @data_dev: NULL if @data is the same
 */
struct qcow_layer {
	struct qcow_image *img;
	struct block_device *data;
	u64 size;
	bool writable;
	struct qcow_target *t;
	struct list_head image_node;
	struct dm_dev *dev;
	struct dm_dev *data_dev;
};

/**
 * struct qcow_target - what ti->private points to
 * @dev: the mapped device's own state
 * @img: layer 0's image
 * @nr_layers: 1 or more; @layers: the top first
 * @skip: what is known of the layers below (lookup.c), NULL: there is none
 * @skip_mask: slots in @skip, less 1
 * @writable: the table was loaded read-write
 * @dev_node: in dev->targets
 * @spec: the parsed table line, without its layers
 */
struct qcow_target {
	struct qcow_device *dev;
	struct qcow_image *img;
	unsigned int nr_layers;
	bool writable;
	struct qcow_layer *layers;
	u64 *skip;
	u64 skip_mask;
	struct dm_target *ti;
	struct list_head dev_node;
	struct qcow_table_spec spec;
};

extern struct target_type qcow_target_type;

#endif
