/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The key of an encrypted image: a LUKS header inside a qcow2 image, opened
 * with a passphrase.  Clusters are encrypted by sectors of 512 bytes, whose
 * number (for the IV) is their place in the image file.
 */
#ifndef BLK_FMT_LUKS_H
#define BLK_FMT_LUKS_H

#include <stddef.h>
#include <stdint.h>

#include "fmt/qcow2.h"

#define BLK_LUKS_KEY_MAX	128

/**
 * struct blk_luks_key - all that is needed to read and write an image's data
 * @cipher: as device-mapper's crypt target names it: "aes-xts-plain64"; letters,
 *          digits and "-_:" only
 * @size: bytes in @key
 */
struct blk_luks_key {
	char cipher[80];
	size_t size;
	uint8_t key[BLK_LUKS_KEY_MAX];
};

/**
 * blk_luks_unlock - get the key by a passphrase
 * @q: an image with crypt_method QCOW2_CRYPT_LUKS
 * @out: in locked memory (base/secret.h); blk_luks_free()
 *
 * Takes seconds: passphrases are made slow on purpose.  Any thread.
 * Return: -EKEYREJECTED: no key slot has this passphrase; -EUCLEAN: the header
 * is damaged, or made to do harm; -ENOTSUP: a cipher or a rule for the IV that
 * device-mapper does not have.
 */
int blk_luks_unlock(struct blk_qcow2 *q, const void *passphrase, size_t len,
		    struct blk_luks_key **out, struct blk_error *e);
void blk_luks_free(struct blk_luks_key *key);		/* NULL is fine */
struct blk_luks_key *blk_luks_dup(const struct blk_luks_key *key);

#endif
