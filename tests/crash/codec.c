// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is done to clusters before they are on the disk: deflate, zstd, and the
 * AES-XTS of LUKS. By other libraries; nothing of what is judged is used. Owns
 * the key.
 */
#include <endian.h>
#include <libcryptsetup.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "crash.h"

#define KEY_MAX 64

struct cipher {
	EVP_CIPHER_CTX *ctx;
};

static bool inflate_all(const uint8_t *in, size_t n, uint8_t *out, size_t len)
{
	z_stream z = { .next_in = (uint8_t *)in, .avail_in = n,
		       .next_out = out, .avail_out = len };
	int ret;

	if (inflateInit2(&z, -12) != Z_OK)
		return false;
	ret = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out;
}

/* What is behind the frame is padding, or another cluster's. */
static bool unzstd_all(const uint8_t *in, size_t n, uint8_t *out, size_t len)
{
	ZSTD_inBuffer from = { .src = in, .size = n };
	ZSTD_outBuffer to = { .dst = out, .size = len };
	ZSTD_DStream *z = ZSTD_createDStream();
	size_t ret = 1, before;

	if (!z)
		return false;
	do {
		before = from.pos + to.pos;
		ret = ZSTD_decompressStream(z, &to, &from);
	} while (!ZSTD_isError(ret) && to.pos < len && from.pos + to.pos > before);
	ZSTD_freeDStream(z);
	return !ZSTD_isError(ret) && to.pos == len;
}

bool codec_unpack(bool zstd, const uint8_t *in, size_t n, uint8_t *out, size_t len)
{
	return zstd ? unzstd_all(in, n, out, len) : inflate_all(in, n, out, len);
}

/* The volume key that @passphrase opens in the LUKS header in a file */
static size_t volume_key(const char *header, const char *passphrase, size_t len,
			 char *key)
{
	struct crypt_device *cd;
	size_t n = KEY_MAX;

	if (crypt_init(&cd, header))
		return 0;
	if (crypt_load(cd, CRYPT_LUKS1, NULL) ||
	    strcmp(crypt_get_cipher_mode(cd), "xts-plain64") ||
	    crypt_volume_key_get(cd, CRYPT_ANY_SLOT, key, &n, passphrase, len) < 0)
		n = 0;
	crypt_free(cd);
	return n;
}

struct cipher *cipher_open(const char *header, const char *passphrase, size_t len)
{
	struct cipher *c = calloc(1, sizeof(*c));
	uint8_t key[KEY_MAX], iv[16] = { 0 };
	size_t n = volume_key(header, passphrase, len, (char *)key);

	if (!c || !n)
		return NULL;
	c->ctx = EVP_CIPHER_CTX_new();
	if (!c->ctx || !EVP_DecryptInit_ex(c->ctx, n == 32 ? EVP_aes_128_xts() :
					   EVP_aes_256_xts(), NULL, key, iv))
		return NULL;
	return c;
}

/* @at: where it is in the image */
bool cipher_decrypt(struct cipher *c, uint64_t at, uint8_t *buf, size_t len)
{
	int n;

	for (size_t i = 0; i < len; i += SECTOR) {
		uint64_t iv[2] = { htole64((at + i) / SECTOR), 0 };

		if (!EVP_DecryptInit_ex(c->ctx, NULL, NULL, NULL, (uint8_t *)iv) ||
		    !EVP_DecryptUpdate(c->ctx, buf + i, &n, buf + i, SECTOR))
			return false;
	}
	return true;
}
