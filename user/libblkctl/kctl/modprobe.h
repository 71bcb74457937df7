/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Loading a kernel module through modprobe, so that aliases, blacklists and
 * options in modprobe.d hold.
 */
#ifndef BLK_KCTL_MODPROBE_H
#define BLK_KCTL_MODPROBE_H

#include <stddef.h>

/*
 * @why: the first line that modprobe says on failure, without its prefix
 * Return: 0, or -errno; -ENOENT also when modprobe itself is missing.
 */
int blk_modprobe(const char *module, char *why, size_t room);

#endif
