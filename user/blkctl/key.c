// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reading passphrases, and handing them to the daemon.
 *
 * Owns: them, in locked memory, and the terminal's echo while it asks.
 * Must not: print one, change one (a newline at the end of a file belongs to
 * it, as for QEMU), or leave a secret object behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "base/secret.h"
#include "key.h"

#define KEY_MAX		(512 * 1024)	/* as blkctld has it */
#define LINE_MAX_BYTES	512		/* as cryptsetup has it */
#define ID_BYTES	32

void key_wipe(struct key *k)
{
	blk_secret_free(k->data);
	*k = (struct key){ NULL, 0 };
}

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

static int reserve(struct key *k, size_t room, struct blk_error *e)
{
	*k = (struct key){ blk_secret_alloc(room), 0 };
	return k->data ? 0 : no_memory(e);
}

static int check_length(struct key *k, const char *what, struct blk_error *e)
{
	int rc = 0;

	if (!k->len)
		rc = blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				   "the key in '%s' is empty", what);
	else if (k->len > KEY_MAX)
		rc = blk_error_set(e, BLK_ERR_FAILED, EFBIG,
				   "the key in '%s' has more than %d bytes",
				   what, KEY_MAX);
	if (rc)
		key_wipe(k);
	return rc;
}

/*
 * Files and keyrings
 */

static int read_all(int fd, struct key *k)
{
	ssize_t n;

	while (k->len <= KEY_MAX) {
		n = read(fd, k->data + k->len, KEY_MAX + 1 - k->len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		k->len += (size_t)n;
	}
	return 0;
}

static int read_file(const char *path, struct key *out, struct blk_error *e)
{
	bool in = !strcmp(path, "-");
	int fd = in ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return blk_error_set(e, errno == ENOENT ? BLK_ERR_NOT_FOUND
							: BLK_ERR_FAILED,
				     errno, "cannot open key file '%s': %s",
				     path, strerror(errno));
	rc = reserve(out, KEY_MAX + 1, e);
	if (!rc)
		rc = read_all(fd, out);
	if (!in)
		close(fd);
	if (!rc)
		return check_length(out, in ? "standard input" : path, e);
	key_wipe(out);
	return blk_error_set(e, BLK_ERR_FAILED, -rc,
			     "cannot read key file '%s': %s", path,
			     strerror(-rc));
}

/* Its serial number, or -1 */
static long find_key(const char *description)
{
	long key = syscall(SYS_request_key, "user", description, NULL, 0);

	if (key >= 0)
		return key;
	/* a link in our own keyring gives the right to read it */
	return syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING,
		       "user", description, KEY_SPEC_THREAD_KEYRING);
}

static int read_keyring(const char *description, struct key *out,
			struct blk_error *e)
{
	long key = find_key(description), n = -1;
	int err = errno, rc;

	if (key >= 0) {
		rc = reserve(out, KEY_MAX + 1, e);
		if (rc)
			return rc;
		n = syscall(SYS_keyctl, KEYCTL_READ, key, out->data,
			    (size_t)KEY_MAX + 1, 0);
		err = errno;
	}
	if (n >= 0) {
		out->len = n > KEY_MAX ? KEY_MAX + 1 : (size_t)n;
		return check_length(out, description, e);
	}
	key_wipe(out);
	blk_error_set(e, err == ENOKEY ? BLK_ERR_NOT_FOUND : BLK_ERR_FAILED,
		      err, "cannot read key '%s' from the keyrings: %s",
		      description, strerror(err));
	if (err == ENOKEY)
		blk_error_hint(e, "keyctl add user '%.80s' PASSPHRASE @u",
			       description);
	return -err;
}

int key_read(const struct key_source *s, struct key *out, struct blk_error *e)
{
	*out = (struct key){ NULL, 0 };
	if (s->file && s->keyring)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "--key-file and --key-keyring exclude each other");
	return s->file ? read_file(s->file, out, e)
		       : read_keyring(s->keyring, out, e);
}

/*
 * The terminal
 */

static const int fatal_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT };
#define NR_SIGNALS (sizeof(fatal_signals) / sizeof(fatal_signals[0]))

static volatile sig_atomic_t caught;

static void on_signal(int number)
{
	caught = number;
}

/* One line, without its end.  -EINTR: a signal that ends programs */
static int read_line(int fd, struct key *k)
{
	ssize_t n;

	while (!caught && k->len < LINE_MAX_BYTES) {
		n = read(fd, k->data + k->len, 1);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n || k->data[k->len] == '\n')
			break;
		k->len++;
	}
	return caught ? -EINTR : 0;
}

/* What was typed before the question was asked is no answer to it. */
static int read_silently(int fd, const char *image, struct key *k)
{
	struct sigaction act = { .sa_handler = on_signal };
	struct sigaction old[NR_SIGNALS];
	struct termios was, quiet;
	size_t i;
	int rc;

	if (tcgetattr(fd, &was))
		return -errno;
	for (i = 0; i < NR_SIGNALS; i++) {
		sigaction(fatal_signals[i], NULL, &old[i]);
		if (old[i].sa_handler != SIG_IGN)
			sigaction(fatal_signals[i], &act, NULL);
	}
	quiet = was;
	quiet.c_lflag &= ~(tcflag_t)(ECHO | ECHONL);
	rc = tcsetattr(fd, TCSAFLUSH, &quiet) ? -errno : 0;
	if (!rc) {
		dprintf(fd, "Passphrase for %s: ", image);
		rc = read_line(fd, k);
	}
	tcsetattr(fd, TCSAFLUSH, &was);
	dprintf(fd, "\n");
	for (i = 0; i < NR_SIGNALS; i++)
		sigaction(fatal_signals[i], &old[i], NULL);
	if (caught)
		raise(caught);
	return rc;
}

int key_ask(const char *image, struct key *out, struct blk_error *e)
{
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	int rc;

	*out = (struct key){ NULL, 0 };
	if (fd < 0) {
		blk_error_set(e, BLK_ERR_FAILED, ENOTTY,
			      "'%s' is encrypted, and there is no terminal to ask for its passphrase",
			      image);
		blk_error_hint(e, "--key-file FILE, or --key-keyring DESCRIPTION");
		return -ENOTTY;
	}
	rc = reserve(out, LINE_MAX_BYTES + 1, e);
	if (!rc) {
		rc = read_silently(fd, image, out);
		if (rc) {
			key_wipe(out);
			blk_error_set(e, BLK_ERR_FAILED, -rc,
				      "cannot read from the terminal: %s",
				      strerror(-rc));
		}
	}
	close(fd);
	return rc;
}

/*
 * To the daemon
 */

/* A string in locked memory */
static char *encode_base64(const struct key *k)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *text = blk_secret_alloc((k->len + 2) / 3 * 4 + 1);
	char *out = text;
	size_t i, j;

	for (i = 0; text && i < k->len; i += 3) {
		uint32_t bits = 0;

		for (j = 0; j < 3; j++)
			bits = bits << 8 |
			       (i + j < k->len ? k->data[i + j] : 0U);
		for (j = 0; j < 4; j++)
			*out++ = i + j > k->len ? '='
				 : digits[bits >> (18 - 6 * j) & 63];
	}
	return text;
}

static int add_object(struct client *c, const char *id, const struct key *k,
		      struct blk_error *e)
{
	char *text = encode_base64(k);
	json_t *args;

	if (!text)
		return no_memory(e);
	args = json_pack("{s:s, s:s, s:s, s:s}", "qom-type", "secret",
			 "id", id, "format", "base64", "data", text);
	blk_secret_free(text);
	return client_call(c, "object-add", args, NULL, e);
}

static void add_hint(const struct key *k, struct blk_error *e)
{
	if (k->data[k->len - 1] == '\n')
		blk_error_hint(e, "the key ends with a newline, which counts: write the file without it (printf %%s)");
}

int key_call(struct client *c, const char *command, json_t *args,
	     const struct key *k, struct blk_error *e)
{
	char id[ID_BYTES];
	int rc;

	snprintf(id, sizeof(id), "blkctl-%d", (int)getpid());
	rc = add_object(c, id, k, e);
	if (rc) {
		json_decref(args);
		return rc;
	}
	json_object_set_new(args, "encrypt",
			    json_pack("{s:s, s:s}", "format", "luks",
				      "key-secret", id));
	rc = client_call(c, command, args, NULL, e);
	client_call(c, "object-del", json_pack("{s:s}", "id", id), NULL, NULL);
	if (rc == -EKEYREJECTED && k->len)
		add_hint(k, e);
	return rc;
}

static void wipe_and_free(void *p)
{
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

void key_protect_json(void)
{
	json_set_alloc_funcs(malloc, wipe_and_free);
}
