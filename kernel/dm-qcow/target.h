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

/**
 * struct qcow_target - what ti->private points to
 * @dev: the mapped device's own state
 * @img: layer 0
 * @writable: the table was loaded read-write
 * @size: bytes of the guest's disk when the table was loaded
 * @image_node: in img->targets
 * @dev_node: in dev->targets
 * @spec: the parsed table line
 * @data: layer 0's device, held open
 */
struct qcow_target {
	struct qcow_device *dev;
	struct qcow_image *img;
	bool writable;
	u64 size;
	struct dm_target *ti;
	struct list_head image_node;
	struct list_head dev_node;
	struct qcow_table_spec spec;
	struct dm_dev *data;
};

extern struct target_type qcow_target_type;

#endif
