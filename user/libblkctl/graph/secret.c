// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Secrets by name.
 *
 * Owns: their memory.
 * Must not: put a secret into a message, or into memory that is not wiped; but
 * the request that it came in is the caller's.
 * Threads: the set's owner; loading runs anywhere, and may block.
 *
 * Words of complaints are QEMU's (crypto/secret*.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/secret.h"
#include "graph/json.h"
#include "graph/node.h"
#include "graph/secret.h"

struct blk_secrets {
	struct blk_secret *first;
};

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

struct blk_secrets *blk_secrets_new(void)
{
	return calloc(1, sizeof(struct blk_secrets));
}

void blk_secrets_drop(struct blk_secret *one)
{
	if (!one)
		return;
	blk_secret_free(one->data);
	free(one->id);
	free(one);
}

void blk_secrets_free(struct blk_secrets *s)
{
	struct blk_secret *one;

	if (!s)
		return;
	while ((one = s->first)) {
		s->first = one->next;
		blk_secrets_drop(one);
	}
	free(s);
}

/*
 * The set
 */

const struct blk_secret *blk_secrets_find(const struct blk_secrets *s,
					  const char *id)
{
	const struct blk_secret *one;

	for (one = s->first; one; one = one->next)
		if (!strcmp(one->id, id))
			return one;
	return NULL;
}

int blk_secrets_check(const struct blk_secrets *s, const char *id,
		      struct blk_error *e)
{
	if (!blk_id_wellformed(id)) {
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "Parameter 'id' expects an identifier");
		blk_error_hint(e, "a letter, then letters, digits, '-', '.', '_'");
		return -EINVAL;
	}
	if (!blk_secrets_find(s, id))
		return 0;
	return blk_error_set(e, BLK_ERR_BUSY, EEXIST,
			     "attempt to add duplicate property '%.80s' to object (type 'container')",
			     id);
}

int blk_secrets_add(struct blk_secrets *s, struct blk_secret *one,
		    struct blk_error *e)
{
	int ret = blk_secrets_check(s, one->id, e);

	if (ret) {
		blk_secrets_drop(one);
		return ret;
	}
	one->next = s->first;
	s->first = one;
	return 0;
}

int blk_secrets_del(struct blk_secrets *s, const char *id,
		    struct blk_error *e)
{
	struct blk_secret **p, *one;

	for (p = &s->first; *p && strcmp((*p)->id, id); p = &(*p)->next)
		;
	one = *p;
	if (!one)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "object '%.80s' not found", id);
	*p = one->next;
	blk_secrets_drop(one);
	return 0;
}

struct blk_secret *blk_secrets_copy(const struct blk_secret *one)
{
	struct blk_secret *copy = calloc(1, sizeof(*copy));

	if (!copy)
		return NULL;
	copy->id = strdup(one->id);
	copy->data = blk_secret_dup(one->data, one->len);
	copy->len = one->len;
	if (copy->id && copy->data)
		return copy;
	blk_secrets_drop(copy);
	return NULL;
}

/* The length of the UTF-8 character at @p, 0: it is none */
static size_t utf8_length(const unsigned char *p, size_t room)
{
	static const unsigned int least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned int c = *p;
	size_t i, n;

	if (c < 0x80)
		return c ? 1 : 0;
	n = c >> 5 == 6 ? 2 : c >> 4 == 14 ? 3 : c >> 3 == 30 ? 4 : 0;
	if (!n || n > room)
		return 0;
	c &= 0x7fU >> n;
	for (i = 1; i < n; i++) {
		if (p[i] >> 6 != 2)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	return c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ?
		0 : n;
}

bool blk_secret_is_text(const struct blk_secret *one)
{
	size_t i, n;

	for (i = 0; i < one->len; i += n) {
		n = utf8_length(one->data + i, one->len - i);
		if (!n)
			return false;
	}
	return true;
}

/*
 * Loading
 */

static int too_long(const char *what, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EFBIG,
			     "%s has more than %d bytes", what,
			     BLK_SECRET_MAX);
}

static int set_data(struct blk_secret *one, const void *data, size_t len,
		    struct blk_error *e)
{
	if (len > BLK_SECRET_MAX)
		return too_long("the secret", e);
	one->data = blk_secret_dup(data, len);
	one->len = len;
	return one->data ? 0 : no_memory(e);
}

static int read_file(struct blk_secret *one, const char *path,
		     struct blk_error *e)
{
	int fd blk_auto_close = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : 1;

	one->data = blk_secret_alloc(BLK_SECRET_MAX + 1);
	if (!one->data)
		return no_memory(e);
	while (n > 0 && one->len <= BLK_SECRET_MAX) {
		n = read(fd, one->data + one->len,
			 BLK_SECRET_MAX + 1 - one->len);
		if (n > 0)
			one->len += (size_t)n;
		else if (n < 0 && errno == EINTR)
			n = 1;
	}
	if (n < 0)
		return blk_error_set(e, errno == ENOENT ? BLK_ERR_NOT_FOUND :
				     BLK_ERR_FAILED, errno,
				     "Unable to read %s: %s", path,
				     strerror(errno));
	return one->len > BLK_SECRET_MAX ? too_long(path, e) : 0;
}

static int read_key(struct blk_secret *one, int32_t serial,
		    struct blk_error *e)
{
	long n;

	one->data = blk_secret_alloc(BLK_SECRET_MAX);
	if (!one->data)
		return no_memory(e);
	n = syscall(SYS_keyctl, KEYCTL_READ, serial, one->data,
		    BLK_SECRET_MAX, 0);
	if (n < 0)
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "Unable to read serial key %08x: %s",
				     (unsigned int)serial, strerror(errno));
	if (n > BLK_SECRET_MAX)
		return too_long("the key", e);
	one->len = (size_t)n;
	return 0;
}

static int digit(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' :
		c >= 'a' && c <= 'z' ? c - 'a' + 26 :
		c >= '0' && c <= '9' ? c - '0' + 52 :
		c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* In place: what comes out is shorter. */
static int decode_base64(struct blk_secret *one, struct blk_error *e)
{
	unsigned int bits = 0, have = 0;
	size_t i, n = 0;
	bool ended = false;

	for (i = 0; i < one->len; i++) {
		unsigned char c = one->data[i];
		int val = digit(c);

		if (c == '\n')
			continue;
		if (c == '=')
			ended = true;
		else if (val < 0 || ended)
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "Base64 data contains invalid characters");
		if (ended)
			continue;
		bits = bits << 6 | (unsigned int)val;
		have += 6;
		if (have >= 8) {
			have -= 8;
			one->data[n++] = (unsigned char)(bits >> have);
		}
	}
	explicit_bzero(one->data + n, one->len - n);
	one->len = n;
	return 0;
}

static int load(struct blk_secret *one, const json_t *o, struct blk_error *e)
{
	const json_t *data = json_object_get(o, "data");
	const char *file = blk_json_str(o, "file", NULL);

	if (json_object_get(o, "keyid")) {
		blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
			      "Parameter 'keyid' is not supported: a secret cannot be encrypted with another one here");
		blk_error_hint(e, "the socket is root's alone: give the secret itself, or the name of a file");
		return -ENOTSUP;
	}
	if (!strcmp(blk_json_str(o, "qom-type", ""), "secret_keyring"))
		return read_key(one, (int32_t)blk_json_int(o, "serial", 0), e);
	if (file && data)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'file' and 'data' are mutually exclusive");
	if (file)
		return read_file(one, file, e);
	if (data)
		return set_data(one, json_string_value(data),
				json_string_length(data), e);
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			     "Either 'file' or 'data' must be provided");
}

int blk_secrets_load(const json_t *options, struct blk_secret **out,
		     struct blk_error *e)
{
	struct blk_secret *one = calloc(1, sizeof(*one));
	int ret;

	*out = NULL;
	if (!one)
		return no_memory(e);
	one->id = strdup(blk_json_str(options, "id", ""));
	ret = one->id ? load(one, options, e) : no_memory(e);
	if (!ret && !strcmp(blk_json_str(options, "format", "raw"), "base64"))
		ret = decode_base64(one, e);
	if (ret) {
		blk_secrets_drop(one);
		return ret;
	}
	*out = one;
	return 0;
}
