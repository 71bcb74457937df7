/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Keys of type "logon" in root's user keyring: the kernel can use them,
 * nobody can read them, and they outlive the process that has put them there.
 */
#ifndef BLK_KCTL_KEYRING_H
#define BLK_KCTL_KEYRING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* @desc: "service:name", unique.  -errno: for instance a kernel without keys */
int blk_keyring_add(const char *desc, const void *key, size_t len);
/* -ENOKEY: it was not there */
int blk_keyring_remove(const char *desc);

/*
 * Lets the calling thread's system calls find the key by its name, until
 * unlink.  @serial: for unlink.  -ENOKEY: there is no such key
 */
int blk_keyring_link(const char *desc, int32_t *serial);
void blk_keyring_unlink(int32_t serial);

/* Removes all whose names begin with @prefix and for which @unused says yes. */
void blk_keyring_sweep(const char *prefix,
		       bool (*unused)(void *opaque, const char *desc),
		       void *opaque);

#endif
