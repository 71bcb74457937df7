// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Sectors of encrypted images, by nettle: AES in XTS and CBC mode, with the
 * sector's number in the image's file for tweak and IV.
 *
 * Owns what there is of ciphers, modes and rules for the IV.  Keys are where
 * struct blk_luks_key has them, and for a moment on the stack.
 */
#include <endian.h>
#include <errno.h>
#include <stdalign.h>
#include <string.h>

#include <nettle/cbc.h>
#include <nettle/nettle-meta.h>
#include <nettle/xts.h>

#include "base/be.h"
#include "img/img_int.h"

#define SECTOR		512U
#define BLOCK		16U
#define CONTEXT_MAX	512U
#define DIGEST_MAX	64U
#define HASH_MAX	512U	/* the state of one */

enum ivgen { PLAIN, PLAIN64, ESSIV };

/**
 * struct crypt - a cipher by its name in the LUKS header
 * @cipher: of the data, with its key size
 * @hash, @iv_cipher: of ESSIV
 */
struct crypt {
	const struct nettle_cipher *cipher;
	bool xts;
	enum ivgen ivgen;
	const struct nettle_hash *hash;
	const struct nettle_cipher *iv_cipher;
};

struct context {
	alignas(16) uint8_t data[CONTEXT_MAX];
	alignas(16) uint8_t iv[CONTEXT_MAX];
};

static const struct nettle_cipher *find_cipher(const char *name, size_t len,
					       size_t key_bytes)
{
	static const struct nettle_cipher *const aes[] = {
		&nettle_aes128, &nettle_aes192, &nettle_aes256,
	};

	for (size_t i = 0; len == 3 && i < BLK_COUNT(aes); i++)
		if (!memcmp(name, "aes", 3) && aes[i]->key_size == key_bytes &&
		    aes[i]->context_size <= CONTEXT_MAX)
			return aes[i];
	return NULL;
}

/* "aes-xts-plain64", "aes-cbc-essiv:sha256" */
static bool parse(const struct blk_luks_key *k, struct crypt *c)
{
	size_t len = strcspn(k->cipher, "-");
	const char *mode = k->cipher + len;

	*c = (struct crypt){ .xts = !strncmp(mode, "-xts-", 5) };
	if (!c->xts && strncmp(mode, "-cbc-", 5))
		return false;
	c->cipher = find_cipher(k->cipher, len, c->xts ? k->size / 2 : k->size);
	mode += 5;
	if (!strncmp(mode, "essiv:", 6)) {
		c->ivgen = ESSIV;
		c->hash = nettle_lookup_hash(mode + 6);
		if (!c->hash || c->hash->digest_size > DIGEST_MAX ||
		    c->hash->context_size > HASH_MAX)
			return false;
		c->iv_cipher = find_cipher(k->cipher, len,
					   c->hash->digest_size);
		return c->cipher && c->iv_cipher;
	}
	c->ivgen = !strcmp(mode, "plain64") ? PLAIN64 : PLAIN;
	return c->cipher && (!strcmp(mode, "plain64") ||
			     !strcmp(mode, "plain"));
}

int img_crypt_check(const struct blk_luks_key *k, struct blk_error *e)
{
	struct crypt c;

	if (parse(k, &c))
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
		      "the image is encrypted with '%s' and a key of %zu bits, which cannot be read here",
		      k->cipher, 8 * k->size);
	blk_error_hint(e, "aes can, in the modes xts and cbc, with plain, plain64 and essiv");
	return -ENOTSUP;
}

/* The key of the IV's cipher is a hash of the data's. */
static void set_essiv_key(const struct crypt *c, const struct blk_luks_key *k,
			  struct context *x)
{
	alignas(16) uint8_t state[HASH_MAX], digest[DIGEST_MAX];

	c->hash->init(state);
	c->hash->update(state, k->size, k->key);
	c->hash->digest(state, c->hash->digest_size, digest);
	c->iv_cipher->set_encrypt_key(x->iv, digest);
	explicit_bzero(state, sizeof(state));
	explicit_bzero(digest, sizeof(digest));
}

static void set_keys(const struct crypt *c, const struct blk_luks_key *k,
		     bool encrypt, struct context *x)
{
	if (encrypt)
		c->cipher->set_encrypt_key(x->data, k->key);
	else
		c->cipher->set_decrypt_key(x->data, k->key);
	if (c->xts)	/* the second half is the tweak's */
		c->cipher->set_encrypt_key(x->iv, k->key + k->size / 2);
	else if (c->ivgen == ESSIV)
		set_essiv_key(c, k, x);
}

static void iv_of(const struct crypt *c, const struct context *x,
		  uint64_t host, uint8_t *iv)
{
	uint64_t n = host / SECTOR;

	n = htole64(c->ivgen == PLAIN ? (uint32_t)n : n);
	memset(iv, 0, BLOCK);
	memcpy(iv, &n, sizeof(n));
	if (c->ivgen == ESSIV)
		c->iv_cipher->encrypt(x->iv, BLOCK, iv, iv);
}

static void one_sector(const struct crypt *c, const struct context *x,
		       bool encrypt, uint8_t *iv, uint8_t *p)
{
	const struct nettle_cipher *f = c->cipher;

	if (c->xts && encrypt)
		xts_encrypt_message(x->data, x->iv, f->encrypt, iv,
				    SECTOR, p, p);
	else if (c->xts)
		xts_decrypt_message(x->data, x->iv, f->decrypt, f->encrypt, iv,
				    SECTOR, p, p);
	else if (encrypt)
		cbc_encrypt(x->data, f->encrypt, BLOCK, iv, SECTOR, p, p);
	else
		cbc_decrypt(x->data, f->decrypt, BLOCK, iv, SECTOR, p, p);
}

static void crypt_sectors(const struct blk_luks_key *k, bool encrypt,
			  uint64_t host, uint8_t *p, size_t len)
{
	struct context x;
	struct crypt c;
	uint8_t iv[BLOCK];

	if (!parse(k, &c))
		return;		/* img_crypt_check() has said so */
	set_keys(&c, k, encrypt, &x);
	for (; len; len -= SECTOR, p += SECTOR, host += SECTOR) {
		iv_of(&c, &x, host, iv);
		one_sector(&c, &x, encrypt, iv, p);
	}
	explicit_bzero(&x, sizeof(x));
}

void img_decrypt(const struct blk_luks_key *k, uint64_t host, void *buf,
		 size_t len)
{
	crypt_sectors(k, false, host, buf, len);
}

void img_encrypt(const struct blk_luks_key *k, uint64_t host, void *buf,
		 size_t len)
{
	crypt_sectors(k, true, host, buf, len);
}
