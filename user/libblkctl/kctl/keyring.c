// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The kernel's keyrings, by their system calls.
 *
 * Owns: nothing: keys belong to root's user keyring, which lives as long as the
 * machine runs.
 * Must not: rely on the session keyring: systemd gives each service one of its
 * own, which does not lead to the user keyring.  Hence the links into the
 * thread's keyring where the kernel is to find a key.
 * Threads: any; a link is seen by the calling thread only.
 */
#include <errno.h>
#include <linux/keyctl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kctl/keyring.h"

#define KEY_TYPE	"logon"
#define DESC_BYTES	4096

static long keyctl(int op, long a, long b, long c, long d)
{
	long ret = syscall(SYS_keyctl, op, a, b, c, d);

	return ret < 0 ? -errno : ret;
}

int blk_keyring_add(const char *desc, const void *key, size_t len)
{
	return syscall(SYS_add_key, KEY_TYPE, desc, key, len,
		       KEY_SPEC_USER_KEYRING) < 0 ? -errno : 0;
}

/* Its serial number, or -errno; @into: a keyring that gets a link, or 0 */
static long search(const char *desc, int into)
{
	return keyctl(KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, (long)KEY_TYPE,
		      (long)desc, into);
}

int blk_keyring_remove(const char *desc)
{
	long key = search(desc, 0);

	if (key < 0)
		return (int)key;
	return (int)keyctl(KEYCTL_UNLINK, key, KEY_SPEC_USER_KEYRING, 0, 0);
}

int blk_keyring_link(const char *desc, int32_t *serial)
{
	long key = search(desc, KEY_SPEC_THREAD_KEYRING);

	if (key < 0)
		return (int)key;
	*serial = (int32_t)key;
	return 0;
}

void blk_keyring_unlink(int32_t serial)
{
	keyctl(KEYCTL_UNLINK, serial, KEY_SPEC_THREAD_KEYRING, 0, 0);
}

/* "type;uid;gid;permissions;description": the last part, or NULL */
static const char *our_description(const char *text)
{
	int i;

	if (strncmp(text, KEY_TYPE ";", strlen(KEY_TYPE ";")))
		return NULL;
	for (i = 0; i < 4 && text; i++) {
		text = strchr(text, ';');
		if (text)
			text++;
	}
	return text;
}

void blk_keyring_sweep(const char *prefix,
		       bool (*unused)(void *opaque, const char *desc),
		       void *opaque)
{
	blk_auto_free int32_t *keys = NULL;
	char text[DESC_BYTES];
	const char *desc;
	long n, room, i;

	room = keyctl(KEYCTL_READ, KEY_SPEC_USER_KEYRING, 0, 0, 0);
	if (room <= 0)
		return;
	keys = malloc((size_t)room);
	if (!keys)
		return;
	n = keyctl(KEYCTL_READ, KEY_SPEC_USER_KEYRING, (long)keys, room, 0);
	if (n > room)		/* some came meanwhile: not ours */
		n = room;
	for (i = 0; i < n / (long)sizeof(*keys); i++) {
		long len = keyctl(KEYCTL_DESCRIBE, keys[i], (long)text,
				  sizeof(text), 0);

		if (len <= 0 || len > (long)sizeof(text))
			continue;
		desc = our_description(text);
		if (desc && !strncmp(desc, prefix, strlen(prefix)) &&
		    unused(opaque, desc))
			keyctl(KEYCTL_UNLINK, keys[i], KEY_SPEC_USER_KEYRING,
			       0, 0);
	}
}
