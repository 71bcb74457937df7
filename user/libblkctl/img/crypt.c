// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Sectors of encrypted images: AES in XTS mode, the sector's number in the
 * image's file as tweak.
 *
 * Keys are where struct blk_luks_key has them, and for a moment on the stack.
 */
#include <endian.h>
#include <errno.h>
#include <string.h>

#include <nettle/xts.h>

#include "img/img_int.h"

#define SECTOR 512U

int img_crypt_check(const struct blk_luks_key *k, struct blk_error *e)
{
	if (!strcmp(k->cipher, "aes-xts-plain64") &&
	    (k->size == 32 || k->size == 64))
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
			     "the image is encrypted with '%s', only aes-xts-plain64 can be read here",
			     k->cipher);
}

static void tweak_of(uint64_t host, uint8_t *tweak)
{
	uint64_t n = htole64(host / SECTOR);

	memset(tweak, 0, XTS_BLOCK_SIZE);
	memcpy(tweak, &n, sizeof(n));
}

void img_decrypt(const struct blk_luks_key *k, uint64_t host, void *buf,
		 size_t len)
{
	uint8_t tweak[XTS_BLOCK_SIZE], *p = buf;
	union {
		struct xts_aes128_key k128;
		struct xts_aes256_key k256;
	} ctx;

	if (k->size == 64)
		xts_aes256_set_decrypt_key(&ctx.k256, k->key);
	else
		xts_aes128_set_decrypt_key(&ctx.k128, k->key);
	for (; len; len -= SECTOR, p += SECTOR, host += SECTOR) {
		tweak_of(host, tweak);
		if (k->size == 64)
			xts_aes256_decrypt_message(&ctx.k256, tweak, SECTOR, p,
						   p);
		else
			xts_aes128_decrypt_message(&ctx.k128, tweak, SECTOR, p,
						   p);
	}
	explicit_bzero(&ctx, sizeof(ctx));
}

void img_encrypt(const struct blk_luks_key *k, uint64_t host, void *buf,
		 size_t len)
{
	uint8_t tweak[XTS_BLOCK_SIZE], *p = buf;
	union {
		struct xts_aes128_key k128;
		struct xts_aes256_key k256;
	} ctx;

	if (k->size == 64)
		xts_aes256_set_encrypt_key(&ctx.k256, k->key);
	else
		xts_aes128_set_encrypt_key(&ctx.k128, k->key);
	for (; len; len -= SECTOR, p += SECTOR, host += SECTOR) {
		tweak_of(host, tweak);
		if (k->size == 64)
			xts_aes256_encrypt_message(&ctx.k256, tweak, SECTOR, p,
						   p);
		else
			xts_aes128_encrypt_message(&ctx.k128, tweak, SECTOR, p,
						   p);
	}
	explicit_bzero(&ctx, sizeof(ctx));
}
