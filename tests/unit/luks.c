// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The key of an encrypted image, proven by decrypting what QEMU has written;
 * wrong passphrases; headers that are damaged or made to do harm.
 */
#include <nettle/aes.h>
#include <nettle/cbc.h>
#include <nettle/sha2.h>
#include <nettle/xts.h>

#include "fmt/luks.h"
#include "image.h"

#define PASS	"open sesame"
#define SECRET	"--object secret,id=s,data='" PASS "'"
#define ENCRYPT	"encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"

/*
 * The image @name, its beginning filled with 0x5a by QEMU.  Where time is not
 * measured finely enough QEMU finds a hash too fast, now and then.
 */
static bool make(const char *name, const char *options)
{
	int tries = 100;

	while (sh("qemu-img create -q " SECRET " -f qcow2 -o " ENCRYPT "%s %s 8M 2>/dev/null",
		  options, name))
		if (!--tries)
			return false;
	return !sh("qemu-io " SECRET " --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=%s -c 'write -P 0x5a 0 128k' >/dev/null",
		    name);
}

static int unlock(struct img *i, const char *pass, struct blk_luks_key **key)
{
	return blk_luks_unlock(i->q, pass, strlen(pass), key, &i->e);
}

/* One sector of 512 bytes, @number: its place in the file */
static bool decrypt(const struct blk_luks_key *k, uint64_t number,
		    const uint8_t *in, uint8_t *out)
{
	uint64_t le = htole64(number);
	uint8_t iv[16] = { 0 }, hash[32];
	struct xts_aes256_key x256;
	struct xts_aes128_key x128;
	struct aes256_ctx aes;
	struct sha256_ctx sha;

	memcpy(iv, &le, sizeof(le));
	if (!strcmp(k->cipher, "aes-xts-plain64") && k->size == 64) {
		xts_aes256_set_decrypt_key(&x256, k->key);
		xts_aes256_decrypt_message(&x256, iv, 512, out, in);
		return true;
	}
	if (!strcmp(k->cipher, "aes-xts-plain64") && k->size == 32) {
		xts_aes128_set_decrypt_key(&x128, k->key);
		xts_aes128_decrypt_message(&x128, iv, 512, out, in);
		return true;
	}
	if (strcmp(k->cipher, "aes-cbc-essiv:sha256") || k->size != 32)
		return false;
	sha256_init(&sha);
	sha256_update(&sha, k->size, k->key);
	sha256_digest(&sha, sizeof(hash), hash);
	aes256_set_encrypt_key(&aes, hash);
	aes256_encrypt(&aes, sizeof(iv), iv, iv);
	aes256_set_decrypt_key(&aes, k->key);
	cbc_decrypt(&aes, (nettle_cipher_func *)aes256_decrypt, sizeof(iv),
		    iv, 512, out, in);
	return true;
}

/* Does every sector of guest cluster @guest read as 0x5a? */
static bool readable(struct img *i, const struct blk_luks_key *k,
		     uint64_t guest)
{
	uint64_t at = img_l2_entry(i, guest), host, n;
	uint8_t in[512], out[512], want[512];

	memset(want, 0x5a, sizeof(want));
	host = at ? img_be64(i, at) & QCOW2_OFFSET_MASK : 0;
	for (n = 0; host && n < i->cs; n += 512)
		if (blk_file_read(i->f, in, sizeof(in), host + n) ||
		    !memcmp(in, want, sizeof(in)) ||
		    !decrypt(k, (host + n) / 512, in, out) ||
		    memcmp(out, want, sizeof(out)))
			return false;
	return host;
}

static void test_ciphers(void)
{
	static const struct {
		const char *options;
		const char *cipher;
		size_t size;
	} cases[] = {
		{ "", "aes-xts-plain64", 64 },
		{ ",encrypt.cipher-alg=aes-128", "aes-xts-plain64", 32 },
		{ ",encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256",
		  "aes-cbc-essiv:sha256", 32 },
		{ ",encrypt.hash-alg=sha1,cluster_size=4k", "aes-xts-plain64",
		  64 },
	};
	struct blk_luks_key *k;
	struct img i;

	for (size_t n = 0; n < BLK_COUNT(cases); n++) {
		bool ok = make("cipher", cases[n].options) &&
			img_open(&i, "cipher");

		ok = ok && img_ok(&i, unlock(&i, PASS, &k), "unlock") &&
			!strcmp(k->cipher, cases[n].cipher) &&
			k->size == cases[n].size && readable(&i, k, 0) &&
			readable(&i, k, 128 * 1024 - i.cs);
		ksft_test_result(ok, "QEMU's data can be read: %s%s",
				 cases[n].cipher, cases[n].options);
		if (ok) {
			blk_luks_free(k);
			img_close(&i);
		}
	}
}

static void test_wrong_passphrase(void)
{
	static const char *const wrong[] = { "", "x", PASS " ", PASS "\n" };
	struct blk_luks_key *k;
	struct img i;
	bool ok = make("wrong", "") && img_open(&i, "wrong");

	for (size_t n = 0; ok && n < BLK_COUNT(wrong); n++) {
		ok = unlock(&i, wrong[n], &k) == -EKEYREJECTED && !k &&
			strstr(i.e.msg, "Invalid password");
	}
	ksft_test_result(ok, "wrong passphrases are refused in QEMU's words");
	if (ok)
		img_close(&i);
	ok = !sh("qemu-img create -q -f qcow2 plain 1M") &&
		img_open(&i, "plain") && unlock(&i, PASS, &k) == -EUCLEAN;
	ksft_test_result(ok, "an image without encryption has no key");
	if (ok)
		img_close(&i);
}

/* Changes one thing in the LUKS header; what does unlocking it say? */
static int damaged(uint32_t off, const void *bytes, size_t len)
{
	struct blk_luks_key *k = NULL;
	struct img i;
	uint64_t at;
	int fd, ret;

	if (sh("cp good bad") || !img_open(&i, "bad"))
		return 1;
	/* QEMU puts it behind what every image has */
	for (at = 0; at < 1 << 20; at += i.cs) {
		char magic[4];

		if (!blk_file_read(i.f, magic, 4, at) &&
		    !memcmp(magic, "LUKS", 4))
			break;
	}
	fd = open("bad", O_WRONLY);
	ret = pwrite(fd, bytes, len, (off_t)(at + off)) == (ssize_t)len ?
		unlock(&i, PASS, &k) : 1;
	close(fd);
	if (ret && k)
		ret = 1;
	blk_luks_free(k);
	img_close(&i);
	return ret;
}

static void test_damaged(void)
{
	static const struct {
		uint32_t off;
		const char *bytes;
		size_t len;
		int want;
		const char *what;
	} cases[] = {
		{ 0, "X", 1, -EUCLEAN, "no magic" },
		{ 7, "\2", 1, -EUCLEAN, "version 2" },
		{ 8, "a b", 4, -EUCLEAN, "a cipher name with a blank" },
		{ 8, "\0", 1, -EUCLEAN, "no cipher name" },
		{ 8, "capi:x", 7, -ENOTSUP, "a cipher name with a colon" },
		{ 40, "xts", 4, -ENOTSUP, "no IV rule" },
		{ 40, "xts-random", 11, -ENOTSUP, "an unknown IV rule" },
		{ 40, "xts-benbi", 10, -ENOTSUP, "an IV rule of dm-crypt's" },
		{ 40, "cbc-essiv", 10, -ENOTSUP, "essiv without a hash" },
		{ 40, "cbc-essiv:", 11, -ENOTSUP, "essiv with no hash" },
		{ 40, "cbc-plain:x", 12, -ENOTSUP, "plain with a hash" },
		{ 40, "gcm-plain64", 12, -ENOTSUP, "an unknown mode" },
		{ 40, "xts-plain64\t1", 14, -EUCLEAN, "a mode with a tab" },
		{ 72, "a hash", 7, -EUCLEAN, "a hash with a blank" },
		{ 108, "\0\0\0\0", 4, -EUCLEAN, "no key" },
		{ 108, "\0\0\1\0", 4, -EUCLEAN, "a key too large" },
		{ 164, "\377\377\377\377", 4, -EUCLEAN, "rounds for ever" },
		{ 164, "\0\0\0\0", 4, -EUCLEAN, "no rounds" },
		{ 208, "\0\0\0\1", 4, -EUCLEAN, "a slot in no state" },
		{ 208, "\0\0\xde\xad", 4, -EUCLEAN, "no slot" },
		{ 212, "\377\0\0\0", 4, -EUCLEAN, "a slot's rounds" },
		{ 248, "\0\0\0\0", 4, -EUCLEAN, "a slot in the header" },
		{ 248, "\377\377\377\377", 4, -EUCLEAN, "a slot far away" },
		{ 252, "\377\377\377\377", 4, -EUCLEAN, "a slot's stripes" },
		{ 256, "\0\xac\x71\xf3\0\0\0\0", 8, -EUCLEAN,
		  "a second slot without rounds" },
		{ 112, "x", 1, -EKEYREJECTED, "another digest" },
	};

	ksft_test_result(make("good", ""), "an image to be damaged");
	for (size_t n = 0; n < BLK_COUNT(cases); n++) {
		int ret = damaged(cases[n].off, cases[n].bytes, cases[n].len);

		if (ret != cases[n].want)
			ksft_print_msg("%d", ret);
		ksft_test_result(ret == cases[n].want, "damaged: %s",
				 cases[n].what);
	}
}

/* Any byte of the header: an error or the key, and nothing else */
static void test_noise(void)
{
	bool ok = true;

	for (uint32_t off = 0; off < 592 && ok; off += 7) {
		int ret = damaged(off, "\x80", 1);

		ok = ret <= 0;
		if (!ok)
			ksft_print_msg("offset %u", off);
	}
	ksft_test_result(ok, "a bad byte anywhere gives an error or the key");
}

int main(void)
{
	img_start();
	if (sh("qemu-io --version >/dev/null 2>&1"))
		ksft_exit_skip("qemu-io is not installed");
	test_ciphers();
	test_wrong_passphrase();
	test_damaged();
	test_noise();
	ksft_finished();
}
