/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dm-crypt device over the block device of an encrypted image: same size,
 * same offsets, so that the IV is the sector's place in the image, as qcow2
 * has it.  It becomes the data device of the image's layer.
 *
 * The key is a "logon" key in root's user keyring for as long as the device
 * exists, under a name made from the device's uuid.  device-mapper needs it
 * again for every new table, that is, whenever the image file has grown, and
 * the daemon that was given the passphrase may be dead by then.  There the key
 * survives any daemon, and no process can read it, nor does the table show it.
 * A kernel without keys gets it in the table, where root could read it.
 *
 * Readers of one device below share a crypt device, as they share the kernel's
 * cache of the image; the last of them takes it down.
 *
 * Without the key (root has cleared the keyring) the device works, and does
 * not grow any more.
 *
 * All of these block.  Of an object one thread at a time makes use.
 */
#ifndef BLK_KCTL_CRYPT_H
#define BLK_KCTL_CRYPT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "fmt/luks.h"

#define BLK_CRYPT_NAME_MAX	128

/**
 * struct blk_crypt - a crypt device
 * @name: device-mapper's; "": there is none (all zeroes is fine)
 * @dev: its number, DM_QCOW_DEV(major, minor)
 * @below: the number of the device that it is over
 * @sectors: its size, in 512 bytes
 * @hold: open, so that nobody takes it down before a table uses it; -1: not;
 *        blk_crypt_settle()
 */
struct blk_crypt {
	char name[BLK_CRYPT_NAME_MAX];
	uint64_t dev;
	uint64_t below;
	uint64_t sectors;
	bool read_only;
	int hold;
};

static inline bool blk_crypt_is_up(const struct blk_crypt *c)
{
	return c->name[0];
}

/* The device's name for a layer of a device, 0 = top; -ENAMETOOLONG */
int blk_crypt_name(const char *device, unsigned int layer, char *name,
		   struct blk_error *e);

/**
 * blk_crypt_up - make it, or share a reader's
 * @name: another one is made of it if it is taken
 * @key: not needed any more afterwards
 * On failure nothing is left.
 */
int blk_crypt_up(const char *name, uint64_t below,
		 const struct blk_luks_key *key, bool read_only,
		 struct blk_crypt *out, struct blk_error *e);
/* A table uses it. */
void blk_crypt_settle(struct blk_crypt *c);

/**
 * blk_crypt_resize - as large as the device below, after that has grown
 * I/O of the device above waits for a moment.  -ENOKEY: see above
 * The one device-mapper call that the thread which feeds grants makes: it waits
 * for I/O below only, which never waits for grants.
 */
int blk_crypt_resize(struct blk_crypt *c, struct blk_error *e);

/* We do not use it any more.  *c is all zeroes when it returns 0. */
int blk_crypt_down(struct blk_crypt *c, struct blk_error *e);

/* -ENODEV, without words: @dev is no crypt device of ours */
int blk_crypt_adopt(uint64_t dev, struct blk_crypt *out, struct blk_error *e);

/* Removes what dead daemons have left, and nobody uses; all are adopted. */
void blk_crypt_sweep(void);

#endif
