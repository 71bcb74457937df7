/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * LUKS in qemu-img's words.
 */
#ifndef BLKCTL_IMAGE_LUKS_H
#define BLKCTL_IMAGE_LUKS_H

#include <jansson.h>

#include "fmt/qcow2.h"

/* "encrypt" of an image that has LUKS; of a damaged header the format alone */
json_t *image_luks(struct blk_qcow2 *q);

#endif
