// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The LUKS header of a qcow2 image: opening it, changing its key slots, and
 * making a new one, by libcryptsetup.
 *
 * Owns: a copy of the header in memory (memfd), which is all that the library
 * is shown; what it may be asked to do is checked before.
 * Must not: let the library touch the image, or device-mapper.
 * Threads: any.  The library counts its users without a lock and releases
 * libdevmapper's state, which belongs to kctl/dm.c, with the last of them: so
 * handles are made and freed under a mutex, and one is kept for ever.
 *
 * Everything in the header is hostile.  A passphrase costs as many rounds of a
 * hash as the header says: more than ROUNDS_MAX would keep a thread for hours.
 */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <libcryptsetup.h>

#include "base/secret.h"
#include "fmt/luks.h"
#include "fmt/qcow2_int.h"

/* LUKS On-Disk Format Specification 1.2.3: partition header, key slot */
#define LUKS_MAGIC	"LUKS\xba\xbe"
#define LUKS_CIPHER	8
#define LUKS_MODE	40
#define LUKS_HASH	72
#define LUKS_WORD	32	/* bytes of each of these three */
#define LUKS_KEY_BYTES	108
#define LUKS_ROUNDS	164
#define LUKS_SLOTS	208
#define LUKS_NR_SLOTS	8
#define LUKS_SLOT_BYTES	48
#define LUKS_HEADER	(LUKS_SLOTS + LUKS_NR_SLOTS * LUKS_SLOT_BYTES)
#define SLOT_ROUNDS	4
#define SLOT_OFFSET	40	/* of its material, in sectors */
#define SLOT_STRIPES	44
#define SLOT_ENABLED	0x00ac71f3U
#define SLOT_DISABLED	0x0000deadU
#define STRIPES		4000U

#define KEY_BYTES_MIN	8U
#define ROUNDS_MAX	100000000U	/* a minute or so for each slot */
#define MATERIAL_MAX	(16ULL << 20)	/* eight slots need 4 MiB */

struct library {
	struct crypt_device *cd;
	char said[160];		/* its first complaint */
};

static pthread_mutex_t handles = PTHREAD_MUTEX_INITIALIZER;
static struct crypt_device *keeper;

/*
 * The header
 */

static bool read_word(const uint8_t *p, char *out)
{
	memcpy(out, p, LUKS_WORD);
	out[LUKS_WORD] = '\0';
	if (!*out || strlen(out) == LUKS_WORD)
		return false;
	for (; *out; out++)
		if (!isascii((unsigned char)*out) ||
		    (!isalnum((unsigned char)*out) && !strchr("-_:", *out)))
			return false;
	return true;
}

static int unsupported(const struct blk_qcow2 *q, const char *what,
		       const char *name, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
			     "'%s' is encrypted with %s '%s', which is not supported",
			     q->f->path, what, name);
}

static bool one_of(const char *word, size_t len, const char *const *list)
{
	for (; *list; list++)
		if (strlen(*list) == len && !memcmp(*list, word, len))
			return true;
	return false;
}

/* "xts-plain64", "cbc-essiv:sha256": what QEMU can write, and dm-crypt read */
static int check_mode(const struct blk_qcow2 *q, const char *mode,
		      struct blk_error *e)
{
	static const char *const chains[] = { "cbc", "ctr", "ecb", "xts",
					      NULL };
	static const char *const numbers[] = { "plain", "plain64", NULL };
	static const char *const hashed[] = { "essiv", NULL };
	size_t chain = strcspn(mode, "-");
	const char *iv = mode + chain;
	size_t len;

	if (!one_of(mode, chain, chains))
		return unsupported(q, "the cipher mode", mode, e);
	if (*iv++ != '-')
		return unsupported(q, "the IV rule", mode, e);
	len = strcspn(iv, ":");
	if (iv[len] ? one_of(iv, len, hashed) && iv[len + 1] &&
	    !strpbrk(iv + len + 1, ":-") : one_of(iv, len, numbers))
		return 0;
	return unsupported(q, "the IV rule", iv, e);
}

static int check_cipher(const struct blk_qcow2 *q, const uint8_t *h,
			struct blk_error *e)
{
	char cipher[LUKS_WORD + 1], mode[LUKS_WORD + 1], hash[LUKS_WORD + 1];

	if (!read_word(h + LUKS_CIPHER, cipher) ||
	    !read_word(h + LUKS_MODE, mode) || !read_word(h + LUKS_HASH, hash))
		return blk_q_corrupt(q, e,
				     "its LUKS header has a bad cipher name");
	if (strpbrk(cipher, ":-"))
		return unsupported(q, "the cipher", cipher, e);
	return check_mode(q, mode, e);
}

/* *need: bytes of the header that the key slot makes use of */
static const char *check_slot(const uint8_t *s, uint32_t key_bytes,
			      uint64_t length, uint64_t *need)
{
	uint32_t state = blk_get_be32(s);
	uint32_t rounds = blk_get_be32(s + SLOT_ROUNDS);
	uint64_t off = blk_get_be32(s + SLOT_OFFSET) * 512ULL;
	uint64_t end = off + blk_align_up((uint64_t)key_bytes * STRIPES, 512);

	if (state == SLOT_DISABLED)
		return NULL;
	if (state != SLOT_ENABLED)
		return "a LUKS key slot is neither in use nor free";
	if (blk_get_be32(s + SLOT_STRIPES) != STRIPES)
		return "a LUKS key slot does not have 4000 stripes";
	if (off < LUKS_HEADER || end > length || end > MATERIAL_MAX)
		return "a LUKS key slot is outside of its header";
	if (!rounds || rounds > ROUNDS_MAX)
		return "a LUKS key slot asks for an absurd number of rounds";
	*need = BLK_MAX(*need, end);
	return NULL;
}

static const char *check_slots(const uint8_t *h, uint64_t length,
			       uint64_t *need)
{
	uint32_t key_bytes = blk_get_be32(h + LUKS_KEY_BYTES);
	uint32_t rounds = blk_get_be32(h + LUKS_ROUNDS);
	const char *why = NULL;
	int i;

	*need = LUKS_HEADER;
	if (key_bytes < KEY_BYTES_MIN || key_bytes > BLK_LUKS_KEY_MAX)
		return "its LUKS header has a bad key size";
	if (!rounds || rounds > ROUNDS_MAX)
		return "its LUKS header asks for an absurd number of rounds";
	for (i = 0; i < LUKS_NR_SLOTS && !why; i++)
		why = check_slot(h + LUKS_SLOTS + i * LUKS_SLOT_BYTES,
				 key_bytes, length, need);
	if (!why && *need == LUKS_HEADER)
		why = "its LUKS header has no key slot in use";
	return why;
}

static int check_header(struct blk_qcow2 *q, uint8_t *h, uint64_t *need,
			struct blk_error *e)
{
	const char *why = NULL;
	int ret;

	if (q->h.crypt_method != QCOW2_CRYPT_LUKS || !q->ext.has_crypto)
		return blk_q_corrupt(q, e, "it has no LUKS header");
	if (q->ext.crypto_length < LUKS_HEADER ||
	    q->ext.crypto_offset > INT64_MAX - q->ext.crypto_length)
		return blk_q_corrupt(q, e, "its LUKS header is too short");
	ret = blk_file_read(q->f, h, LUKS_HEADER, q->ext.crypto_offset);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read the LUKS header");
	if (memcmp(h, LUKS_MAGIC, 6))
		why = "its LUKS header has no LUKS magic";
	else if (blk_get_be16(h + 6) != 1)
		why = "its LUKS header is not of version 1";
	if (!why)
		why = check_slots(h, q->ext.crypto_length, need);
	return why ? blk_q_corrupt(q, e, why) : check_cipher(q, h, e);
}

static int no_memory_file(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, errno ? errno : EIO,
			     "cannot keep a LUKS header in memory: %s",
			     strerror(errno));
}

/* An empty one; the descriptor, or -errno */
static int memory_file(struct blk_error *e)
{
	int fd = memfd_create("luks-header", MFD_CLOEXEC);

	if (fd < 0)
		return no_memory_file(e);
	/* the library wants whole MiB, for keys that are not there */
	if (!ftruncate(fd, (off_t)MATERIAL_MAX))
		return fd;
	close(fd);
	return no_memory_file(e);
}

/*
 * A file of its own for the header; the descriptor, or -errno.  @h: the part
 * that was checked, for the image may say something else by now.
 */
static int copy_header(struct blk_qcow2 *q, const uint8_t *h, uint64_t len,
		       struct blk_error *e)
{
	uint8_t *buf = NULL;
	int fd, ret;

	if (posix_memalign((void **)&buf, 4096, blk_align_up(len, 4096)))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = blk_file_read(q->f, buf, len, q->ext.crypto_offset);
	if (ret < 0) {
		free(buf);
		return blk_q_io_error(q, e, ret, "read the LUKS header");
	}
	memcpy(buf, h, LUKS_HEADER);
	fd = memory_file(e);
	if (fd >= 0 && pwrite(fd, buf, len, 0) != (ssize_t)len) {
		close(fd);
		fd = no_memory_file(e);
	}
	free(buf);
	return fd;
}

/*
 * The library
 */

static void listen_to(int level, const char *msg, void *opaque)
{
	struct library *l = opaque;

	if (level != CRYPT_LOG_ERROR || !l || l->said[0])
		return;
	snprintf(l->said, sizeof(l->said), "%s", msg);
	l->said[strcspn(l->said, "\n")] = '\0';
}

static int library_error(const struct blk_qcow2 *q, const struct library *l,
			 int err, struct blk_error *e)
{
	const char *cipher = l->cd ? crypt_get_cipher(l->cd) : NULL;
	const char *mode = l->cd ? crypt_get_cipher_mode(l->cd) : NULL;

	return blk_error_set(e, BLK_ERR_FAILED, -err,
			     "cannot open the LUKS header of '%s' (%s-%s): %s",
			     q->f->path, cipher ? cipher : "unknown",
			     mode ? mode : "unknown",
			     l->said[0] ? l->said : strerror(-err));
}

static void library_close(struct library *l)
{
	pthread_mutex_lock(&handles);
	crypt_free(l->cd);
	pthread_mutex_unlock(&handles);
}

/* @load: there is a header in the file */
static int library_open(struct library *l, int fd, bool load)
{
	char path[32];
	int ret = 0;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	pthread_mutex_lock(&handles);
	if (!keeper) {
		crypt_set_log_callback(NULL, listen_to, NULL);
		ret = crypt_init(&keeper, NULL);
	}
	if (!ret)
		ret = crypt_init(&l->cd, path);
	if (!ret)
		crypt_set_log_callback(l->cd, listen_to, l);
	if (!ret && load)
		ret = crypt_load(l->cd, CRYPT_LUKS1, NULL);
	pthread_mutex_unlock(&handles);
	if (ret && l->cd)
		library_close(l);
	if (ret)
		l->cd = NULL;
	return ret;
}

static int take_key(struct blk_qcow2 *q, struct library *l,
		    const void *passphrase, size_t len,
		    struct blk_luks_key *key, struct blk_error *e)
{
	int ret;

	key->size = sizeof(key->key);
	ret = crypt_volume_key_get(l->cd, CRYPT_ANY_SLOT, (char *)key->key,
				   &key->size, passphrase, len);
	if (ret == -EPERM)
		return blk_error_set(e, BLK_ERR_FAILED, EKEYREJECTED,
				     "Invalid password, cannot unlock any keyslot of '%s'",
				     q->f->path);
	if (ret < 0)
		return library_error(q, l, ret, e);
	snprintf(key->cipher, sizeof(key->cipher), "%s-%s",
		 crypt_get_cipher(l->cd), crypt_get_cipher_mode(l->cd));
	return 0;
}

int blk_luks_unlock(struct blk_qcow2 *q, const void *passphrase, size_t len,
		    struct blk_luks_key **out, struct blk_error *e)
{
	struct library l = { 0 };
	uint8_t header[LUKS_HEADER];
	uint64_t need = 0;
	int fd, ret;

	*out = NULL;
	ret = check_header(q, header, &need, e);
	if (ret)
		return ret;
	fd = copy_header(q, header, need, e);
	if (fd < 0)
		return fd;
	*out = blk_secret_alloc(sizeof(**out));
	if (!*out) {
		close(fd);
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	}
	ret = library_open(&l, fd, true);
	if (ret) {
		ret = library_error(q, &l, ret, e);
	} else {
		ret = take_key(q, &l, passphrase, len, *out, e);
		library_close(&l);
	}
	close(fd);
	if (ret) {
		blk_luks_free(*out);
		*out = NULL;
	}
	return ret;
}

/*
 * Other key slots
 */

static int refuse(const struct blk_qcow2 *q, const char *why, int slot,
		  struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			     "key slot %d of '%s' %s", slot, q->f->path, why);
}

static bool is_active(struct library *l, int slot)
{
	crypt_keyslot_info i = crypt_keyslot_status(l->cd, slot);

	return i == CRYPT_SLOT_ACTIVE || i == CRYPT_SLOT_ACTIVE_LAST;
}

static int fill_slot(struct blk_qcow2 *q, struct library *l,
		     const struct blk_luks_amend *a, struct blk_error *e)
{
	int ret;

	if (a->slot >= 0 && is_active(l, a->slot))
		return refuse(q, "is in use: erase it first", a->slot, e);
	crypt_set_iteration_time(l->cd, a->iter_ms ? a->iter_ms : 2000);
	ret = crypt_keyslot_add_by_passphrase(l->cd, a->slot >= 0 ? a->slot :
					      CRYPT_ANY_SLOT, a->passphrase,
					      a->passphrase_len, a->secret,
					      a->secret_len);
	return ret < 0 ? library_error(q, l, ret, e) : 0;
}

static bool slot_opens(struct library *l, int slot,
		       const struct blk_luks_amend *a)
{
	return is_active(l, slot) &&
		crypt_activate_by_passphrase(l->cd, NULL, slot, a->secret,
					     a->secret_len, 0) >= 0;
}

/* Those that are meant, as bits; *left: how many others are in use */
static unsigned int find_slots(struct library *l,
			       const struct blk_luks_amend *a,
			       unsigned int *left)
{
	unsigned int found = 0;

	*left = 0;
	for (int i = 0; i < LUKS_NR_SLOTS; i++) {
		if (a->slot < 0 ? slot_opens(l, i, a) : i == a->slot)
			found |= 1U << i;
		else if (is_active(l, i))
			++*left;
	}
	return found;
}

static int erase_slots(struct blk_qcow2 *q, struct library *l,
		       const struct blk_luks_amend *a, struct blk_error *e)
{
	unsigned int left, found;
	int ret = 0;

	if (a->slot >= 0 && !is_active(l, a->slot))
		return refuse(q, "is not in use", a->slot, e);
	if (a->slot >= 0 && a->secret && !slot_opens(l, a->slot, a))
		return refuse(q, "has another passphrase", a->slot, e);
	found = find_slots(l, a, &left);
	if (!found)
		return blk_error_set(e, BLK_ERR_FAILED, EKEYREJECTED,
				     "no key slot of '%s' has the passphrase that is to go",
				     q->f->path);
	if (!left) {
		blk_error_set(e, BLK_ERR_FAILED, EBUSY,
			      "'%s' would have no key slot left: nobody could read it again",
			      q->f->path);
		blk_error_hint(e, "fill another one first: encrypt.state=active,encrypt.new-secret=ID");
		return -EBUSY;
	}
	for (int i = 0; i < LUKS_NR_SLOTS && ret >= 0; i++)
		if (found & 1U << i)
			ret = crypt_keyslot_destroy(l->cd, i);
	return ret < 0 ? library_error(q, l, ret, e) : 0;
}

/* Of [from, to): what has become different */
static int write_changed(struct blk_qcow2 *q, const uint8_t *old,
			 const uint8_t *new, uint64_t from, uint64_t to)
{
	int ret = 0;

	for (uint64_t at = from, n; at < to && !ret; at += n) {
		n = BLK_MIN(to - at, 65536U);
		if (memcmp(old + at, new + at, n))
			ret = blk_file_write(q->f, new + at, n,
					     q->ext.crypto_offset + at);
	}
	return ret ? ret : blk_file_flush(q->f);
}

/*
 * A slot's state is the first of its words, and one of them is in two sectors.
 * One that is filled comes into use with the last write, one that is erased goes
 * with the first.
 */
static int write_back(struct blk_qcow2 *q, const uint8_t *old,
		      const uint8_t *new, uint64_t len, bool activate)
{
	static const uint64_t edge[] = { 0, 512, 1024 };
	int ret = 0;

	for (int i = 0; i < 3 && !ret; i++) {
		int part = activate ? 2 - i : i;

		ret = write_changed(q, old, new, edge[part],
				    part == 2 ? len : edge[part + 1]);
	}
	return ret;
}

static int change_slots(struct blk_qcow2 *q, int fd, uint64_t len,
			const struct blk_luks_amend *a, struct blk_error *e)
{
	uint8_t *old = malloc(2 * len), *new = old ? old + len : NULL;
	struct library l = { 0 };
	int ret;

	if (!old || pread(fd, old, len, 0) != (ssize_t)len) {
		free(old);
		return no_memory_file(e);
	}
	ret = library_open(&l, fd, true);
	if (ret) {
		ret = library_error(q, &l, ret, e);
	} else {
		ret = a->activate ? fill_slot(q, &l, a, e) :
			erase_slots(q, &l, a, e);
		library_close(&l);
	}
	if (!ret && pread(fd, new, len, 0) != (ssize_t)len)
		ret = no_memory_file(e);
	if (!ret) {
		ret = write_back(q, old, new, len, a->activate);
		ret = ret ? blk_q_io_error(q, e, ret, "write the LUKS header") :
			0;
	}
	free(old);
	return ret;
}

int blk_luks_amend(struct blk_qcow2 *q, const struct blk_luks_amend *a,
		   struct blk_error *e)
{
	struct blk_luks_key *key = NULL;
	uint8_t header[LUKS_HEADER];
	uint64_t need = 0, len;
	int ret, fd;

	if (a->slot >= LUKS_NR_SLOTS)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "there is no key slot %d: 0 to %d",
				     a->slot, LUKS_NR_SLOTS - 1);
	ret = blk_luks_unlock(q, a->passphrase, a->passphrase_len, &key, e);
	blk_luks_free(key);
	if (!ret)
		ret = check_header(q, header, &need, e);
	if (ret)
		return ret;
	len = BLK_MIN(q->ext.crypto_length, MATERIAL_MAX);
	for (int i = 0; i < LUKS_NR_SLOTS; i++) {
		const uint8_t *s = header + LUKS_SLOTS + i * LUKS_SLOT_BYTES;
		uint64_t off = blk_get_be32(s + SLOT_OFFSET) * 512ULL;

		if (off < 1024 || off + blk_align_up((uint64_t)STRIPES *
			blk_get_be32(header + LUKS_KEY_BYTES), 512) > len)
			return refuse(q, "is outside of its header", i, e);
	}
	fd = copy_header(q, header, len, e);
	if (fd < 0)
		return fd;
	ret = change_slots(q, fd, len, a, e);
	close(fd);
	return ret;
}

/*
 * A new header
 */

static int format(struct library *l, const struct blk_luks_new *n)
{
	/* the data is elsewhere: the header alone, in one piece */
	struct crypt_params_luks1 params = {
		.hash = n->hash,
		.data_alignment = 1,
	};
	int ret = crypt_format(l->cd, CRYPT_LUKS1, n->cipher, n->mode, NULL,
			       NULL, n->key_bytes, &params);

	if (ret)
		return ret;
	crypt_set_iteration_time(l->cd, n->iter_ms ? n->iter_ms : 2000);
	ret = crypt_keyslot_add_by_volume_key(l->cd, 0, NULL, n->key_bytes,
					      n->passphrase,
					      n->passphrase_len);
	return ret < 0 ? ret : 0;
}

static int format_error(const struct blk_luks_new *n, const struct library *l,
			int err, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED,
			     err == -EINVAL ? ENOTSUP : -err,
			     "cannot make a LUKS header for %s-%s, %s: %s",
			     n->cipher, n->mode, n->hash,
			     l->said[0] ? l->said : strerror(-err));
}

static int read_back(struct library *l, int fd, uint8_t **header,
		     uint64_t *len, struct blk_error *e)
{
	*len = crypt_get_data_offset(l->cd) * 512;
	if (*len < LUKS_HEADER || *len > MATERIAL_MAX)
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "the new LUKS header has an odd size: %llu bytes",
				     (unsigned long long)*len);
	*header = malloc(*len);
	if (!*header || pread(fd, *header, *len, 0) != (ssize_t)*len)
		return no_memory_file(e);
	return 0;
}

int blk_luks_format(const struct blk_luks_new *n, uint8_t **header,
		    uint64_t *len, struct blk_error *e)
{
	struct library l = { 0 };
	int fd = memory_file(e), ret;

	*header = NULL;
	if (fd < 0)
		return fd;
	ret = library_open(&l, fd, false);
	if (ret) {
		close(fd);
		return format_error(n, &l, ret, e);
	}
	ret = format(&l, n);
	ret = ret ? format_error(n, &l, ret, e) :
		read_back(&l, fd, header, len, e);
	library_close(&l);
	close(fd);
	return ret;
}

void blk_luks_free(struct blk_luks_key *key)
{
	blk_secret_free(key);
}

struct blk_luks_key *blk_luks_dup(const struct blk_luks_key *key)
{
	return key ? blk_secret_dup(key, sizeof(*key)) : NULL;
}
