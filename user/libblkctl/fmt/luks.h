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

/**
 * struct blk_luks_new - a header to be made
 * @cipher, @mode: as device-mapper's crypt target names them: "aes",
 *                 "xts-plain64"
 * @key_bytes: of the data's key: for XTS two keys' length
 * @hash: for passphrases, "sha256"
 * @iter_ms: milliseconds that one guess at the passphrase shall take; 0: 2000
 */
struct blk_luks_new {
	const char *cipher;
	const char *mode;
	const char *hash;
	size_t key_bytes;
	unsigned int iter_ms;
	const void *passphrase;
	size_t passphrase_len;
};

/**
 * blk_luks_format - a LUKS header (version 1) with a new random key
 * @header: malloc'ed; with all key slots, of which the first has the passphrase
 * Return: -ENOTSUP: a cipher, mode or hash that nobody here has
 */
int blk_luks_format(const struct blk_luks_new *n, uint8_t **header,
		    uint64_t *len, struct blk_error *e);

/**
 * struct blk_luks_amend - a key slot to be filled, or slots to be erased
 * @passphrase: one that opens the image
 * @activate: fill one; else erase
 * @slot: which; -1: a free one, or all that have @secret
 * @secret: what the new slot shall have, or what those have that go; NULL: to
 *          erase by @slot alone
 * @iter_ms: as in struct blk_luks_new
 */
struct blk_luks_amend {
	const void *passphrase;
	size_t passphrase_len;
	bool activate;
	int slot;
	const void *secret;
	size_t secret_len;
	unsigned int iter_ms;
};

/**
 * blk_luks_amend - change the key slots; the data's key stays
 * A crash leaves the old slots or the new ones.  The last slot is not erased,
 * and one in use is not filled.
 */
int blk_luks_amend(struct blk_qcow2 *q, const struct blk_luks_amend *a,
		   struct blk_error *e);

void blk_luks_free(struct blk_luks_key *key);		/* NULL is fine */
struct blk_luks_key *blk_luks_dup(const struct blk_luks_key *key);

#endif
