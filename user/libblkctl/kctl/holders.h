/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who holds a block device, in words.
 */
#ifndef BLK_KCTL_HOLDERS_H
#define BLK_KCTL_HOLDERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * struct blk_holders - what was found
 * @text: "mounted on /mnt, opened by qemu-system-x86 (pid 12)"; "" if nothing
 * @count: holders found
 * @lasting: one of them is no mere open file: a mount, swap, another device
 */
struct blk_holders {
	char text[320];
	unsigned int count;
	bool lasting;
};

/* Looks at mounts, swap, devices on top, and the open files of processes. */
void blk_holders_find(uint64_t dev, struct blk_holders *h);

#endif
