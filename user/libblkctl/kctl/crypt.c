// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * dm-crypt devices.
 *
 * Owns: the table's words, and the key in the keyring from before the first
 * table is loaded until after the device is gone.
 * Must not: keep the key in this process, or suspend the device by a call of
 * its own: a daemon that is killed leaves it running, always.
 * Threads: any, one at a time for a device.  The kernel finds the key through
 * the calling thread's keyring, into which it is linked for the one call.
 *
 * Killed between two steps: what is left has no user, and our pid in its uuid;
 * blk_crypt_sweep() removes it, its key with it, and keys without a device.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include <linux/dm_qcow.h>

#include "base/secret.h"
#include "kctl/crypt.h"
#include "kctl/dm.h"
#include "kctl/keyring.h"

#define TARGET		"crypt"
#define UUID_KIND	"CRYPT-"
#define UUID_PREFIX	BLK_DM_UUID_PREFIX UUID_KIND
#define KEY_SERVICE	"blkctl:"
#define DESC_BYTES	(sizeof(KEY_SERVICE) + 129)
#define PARAMS_BYTES	(512 + 2 * BLK_LUKS_KEY_MAX)
#define REMOVE_TRIES	40	/* udev looks at every device for a moment */
#define NAME_TRIES	100
#define REMOVE_NS	50000000L

int blk_crypt_name(const char *device, unsigned int layer, char *name,
		   struct blk_error *e)
{
	char number[12] = "";
	int n;

	if (layer)
		snprintf(number, sizeof(number), "%u", layer);
	n = snprintf(name, BLK_CRYPT_NAME_MAX, "%s-crypt%s", device, number);
	if (n > 0 && n < BLK_CRYPT_NAME_MAX)
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
			     "the device name is too long for an encrypted image: with \"-crypt%s\" behind it it has more than %d bytes",
			     number, BLK_CRYPT_NAME_MAX - 1);
}

/*
 * Looking
 */

static void sys_path(char *path, size_t room, uint64_t dev, const char *file)
{
	snprintf(path, room, "/sys/dev/block/%u:%u/%s",
		 (unsigned int)(dev >> 32), (uint32_t)dev, file);
}

/* The first line of a file in sysfs */
static int sys_read(uint64_t dev, const char *file, char *line, size_t room)
{
	char path[96];
	int err = 0;
	FILE *f;

	sys_path(path, sizeof(path), dev, file);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	if (!fgets(line, (int)room, f))
		err = -EIO;
	fclose(f);
	line[err ? 0 : strcspn(line, "\n")] = '\0';
	return err;
}

static int size_of(uint64_t dev, uint64_t *sectors, struct blk_error *e)
{
	char line[32];
	int ret = sys_read(dev, "size", line, sizeof(line));

	*sectors = ret ? 0 : strtoull(line, NULL, 10);
	if (*sectors)
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, ret ? -ret : ENXIO,
			     "cannot find the size of block device %u:%u",
			     (unsigned int)(dev >> 32), (uint32_t)dev);
}

static void key_name(const struct blk_dm_info *info, char *desc)
{
	snprintf(desc, DESC_BYTES, KEY_SERVICE "%s", info->uuid);
}

static void remove_key(const struct blk_dm_info *info)
{
	char desc[DESC_BYTES];

	key_name(info, desc);
	blk_keyring_remove(desc);
}

/*
 * Down
 */

static int remove_device(const char *name, struct blk_error *e)
{
	struct timespec ts = { .tv_nsec = REMOVE_NS };
	int ret, tries = REMOVE_TRIES;

	for (;;) {
		ret = blk_dm_remove(name, e);
		if (ret != -EBUSY || !--tries)
			return ret;
		nanosleep(&ts, NULL);
	}
}

/* Has another device-mapper table, of another reader, taken it? */
static bool has_holders(uint64_t dev)
{
	char path[96];
	struct dirent *d;
	bool yes = false;
	DIR *dir;

	sys_path(path, sizeof(path), dev, "holders");
	dir = opendir(path);
	while (dir && !yes && (d = readdir(dir)))
		yes = d->d_name[0] != '.';
	if (dir)
		closedir(dir);
	return yes;
}

static int take_down(const char *name, const struct blk_dm_info *info,
		     struct blk_error *e)
{
	int ret;

	if (has_holders(info->dev))
		return 0;
	ret = remove_device(name, e);
	if (ret == -EBUSY && info->read_only)
		return 0;	/* somebody is about to take it */
	if (ret && ret != -ENOENT)
		return ret;
	remove_key(info);
	return 0;
}

int blk_crypt_down(struct blk_crypt *c, struct blk_error *e)
{
	struct blk_dm_info info;
	int ret;

	if (!blk_crypt_is_up(c))
		return 0;
	blk_crypt_settle(c);
	ret = blk_dm_info(c->name, &info, e);
	if (!ret)
		ret = strncmp(info.uuid, UUID_PREFIX, strlen(UUID_PREFIX)) ?
			-ENOENT :	/* ours has gone, and this is not it */
			take_down(c->name, &info, e);
	if (ret && ret != -ENOENT)
		return ret;
	if (ret && e)
		memset(e, 0, sizeof(*e));
	memset(c, 0, sizeof(*c));
	return 0;
}

void blk_crypt_settle(struct blk_crypt *c)
{
	if (blk_crypt_is_up(c) && c->hold >= 0)
		close(c->hold);
	c->hold = -1;
}

/* Of our making, and not in use; *pid: who has made it */
static bool is_unused(const struct blk_dm_info *info, int *pid)
{
	return !info->open_count &&
		sscanf(info->uuid, UUID_PREFIX "%d-", pid) == 1;
}

/*
 * What others have made
 */

static int table_of(const char *name, uint64_t *sectors, char **params,
		    struct blk_error *e)
{
	char *target = NULL;
	int ret = blk_dm_table(name, sectors, &target, params, e);

	if (ret)
		return ret;
	if (strcmp(target, TARGET))
		ret = blk_error_set(e, BLK_ERR_FAILED, EPROTO,
				    "device \"%s\" is no crypt device", name);
	free(target);
	return ret;
}

static void wipe(char *params)
{
	if (params)
		explicit_bzero(params, strlen(params));
	free(params);
}

/* "aes-xts-plain64 :64:logon:blkctl:... 0 7:0 0" */
static int parse_below(const char *name, const char *params, uint64_t *below,
		       struct blk_error *e)
{
	unsigned int major, minor;

	if (sscanf(params, "%*s %*s %*u %u:%u", &major, &minor) != 2)
		return blk_error_set(e, BLK_ERR_FAILED, EPROTO,
				     "device \"%s\" has a table that is not understood",
				     name);
	*below = DM_QCOW_DEV(major, minor);
	return 0;
}

int blk_crypt_adopt(uint64_t dev, struct blk_crypt *out, struct blk_error *e)
{
	struct blk_crypt c = { .dev = dev, .hold = -1 };
	struct blk_dm_info info;
	char *params = NULL;
	char uuid[160];
	int ret;

	memset(out, 0, sizeof(*out));
	if (sys_read(dev, "dm/uuid", uuid, sizeof(uuid)) ||
	    strncmp(uuid, UUID_PREFIX, strlen(UUID_PREFIX)) ||
	    sys_read(dev, "dm/name", c.name, sizeof(c.name)))
		return -ENODEV;
	ret = blk_dm_info(c.name, &info, e);
	if (!ret)
		ret = table_of(c.name, &c.sectors, &params, e);
	if (!ret)
		ret = parse_below(c.name, params, &c.below, e);
	wipe(params);
	/* not by us: but it must run */
	if (!ret && info.suspended)
		ret = blk_dm_resume_private(c.name, e);
	if (ret)
		return ret;
	c.read_only = info.read_only;
	*out = c;
	return 0;
}

/*
 * Up
 */

static int create(const char *name, struct blk_dm_info *info,
		  struct blk_error *e)
{
	struct blk_dm_info old;
	unsigned long long salt;
	char uuid[64];
	int ret, pid;

	if (getrandom(&salt, sizeof(salt), 0) != sizeof(salt))
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "the kernel gives no random numbers");
	snprintf(uuid, sizeof(uuid), UUID_KIND "%d-%016llx", (int)getpid(),
		 salt);
	ret = blk_dm_create(name, uuid, info, e);
	if (ret == -EBUSY && !blk_dm_info(name, &old, NULL) &&
	    is_unused(&old, &pid) && !take_down(name, &old, NULL))
		ret = blk_dm_create(name, uuid, info, e);
	return ret;
}

/*
 * The key as the table names it: the keyring's, or where the kernel has no
 * keyrings its digits.
 */
static void key_word(const struct blk_luks_key *key, const char *desc,
		     bool in_keyring, char *out, size_t room)
{
	size_t i, n = 0;

	if (in_keyring) {
		snprintf(out, room, ":%zu:logon:%s", key->size, desc);
		return;
	}
	for (i = 0; i < key->size && n + 3 < room; i++)
		n += (size_t)snprintf(out + n, room - n, "%02x", key->key[i]);
}

static int load_first(const struct blk_crypt *c,
		      const struct blk_luks_key *key,
		      const struct blk_dm_info *info, char *params,
		      struct blk_error *e)
{
	char desc[DESC_BYTES];
	int32_t serial = 0;
	bool in_keyring;
	size_t n;
	int ret;

	key_name(info, desc);
	in_keyring = !blk_keyring_add(desc, key->key, key->size) &&
		!blk_keyring_link(desc, &serial);
	n = (size_t)snprintf(params, PARAMS_BYTES, "%s ", key->cipher);
	key_word(key, desc, in_keyring, params + n, PARAMS_BYTES - n);
	n = strlen(params);
	snprintf(params + n, PARAMS_BYTES - n, " 0 %u:%u 0",
		 (unsigned int)(c->below >> 32), (uint32_t)c->below);
	ret = blk_dm_load(c->name, c->sectors, TARGET, params, c->read_only,
			  e);
	if (in_keyring)
		blk_keyring_unlink(serial);
	if (ret)
		blk_error_prefix(e, "cipher %s", key->cipher);
	return ret;
}

static int load_and_resume(const struct blk_crypt *c,
			   const struct blk_luks_key *key,
			   const struct blk_dm_info *info,
			   struct blk_error *e)
{
	char *params = blk_secret_alloc(PARAMS_BYTES);
	int ret;

	if (!params)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = load_first(c, key, info, params, e);
	blk_secret_free(params);
	return ret ? ret : blk_dm_resume_private(c->name, e);
}

/* An open device cannot be removed.  The descriptor, or -errno */
static int hold(uint64_t dev)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/dev/dm-%u", (uint32_t)dev);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* Under the name that is wanted, or one that is made of it. */
static int create_any(struct blk_crypt *c, const char *name,
		      struct blk_dm_info *info, struct blk_error *e)
{
	int i, ret;

	snprintf(c->name, sizeof(c->name), "%s", name);
	ret = create(c->name, info, e);
	for (i = 2; ret == -EBUSY && i < NAME_TRIES; i++) {
		if (snprintf(c->name, sizeof(c->name), "%s.%d", name, i) >=
		    (int)sizeof(c->name))
			break;
		ret = create(c->name, info, e);
	}
	if (!ret)
		c->dev = info->dev;
	return ret;
}

static int make(struct blk_crypt *c, const char *name,
		const struct blk_luks_key *key, struct blk_error *e)
{
	struct blk_dm_info info;
	int ret;

	ret = size_of(c->below, &c->sectors, e);
	if (!ret)
		ret = create_any(c, name, &info, e);
	if (ret)
		return ret;
	ret = load_and_resume(c, key, &info, e);
	if (!ret) {
		c->hold = hold(c->dev);
		if (c->hold < 0)
			ret = blk_error_set(e, BLK_ERR_FAILED, -c->hold,
					    "cannot open device \"%s\": %s",
					    c->name, strerror(-c->hold));
	}
	if (ret)
		take_down(c->name, &info, NULL);
	return ret;
}

/* 1: some reader's device does as well, and is held */
static int share(struct blk_crypt *c)
{
	struct blk_crypt other;
	struct blk_dm_info info;
	char **names, **name;
	int fd, found = 0;

	if (blk_dm_list_uuid(UUID_KIND, &names, NULL))
		return 0;
	for (name = names; *name && !found; name++) {
		if (blk_dm_info(*name, &info, NULL) || !info.live_table ||
		    !info.read_only)
			continue;
		fd = hold(info.dev);
		if (fd < 0)
			continue;
		/* it cannot go any more: is it still the same? */
		found = !blk_crypt_adopt(info.dev, &other, NULL) &&
			other.below == c->below && other.read_only;
		if (found) {
			*c = other;
			c->hold = fd;
		} else {
			close(fd);
		}
	}
	blk_dm_list_free(names);
	return found;
}

int blk_crypt_up(const char *name, uint64_t below,
		 const struct blk_luks_key *key, bool read_only,
		 struct blk_crypt *out, struct blk_error *e)
{
	struct blk_crypt c = {
		.below = below, .read_only = read_only, .hold = -1,
	};
	int ret;

	memset(out, 0, sizeof(*out));
	ret = blk_dm_has_target(TARGET, true, e);
	if (ret <= 0)
		return ret ? ret : -ENOENT;
	ret = read_only && share(&c) ? 0 : make(&c, name, key, e);
	if (!ret)
		*out = c;
	return ret;
}

/*
 * Growing
 */

/* Loads the live table once more, for another size. */
static int load_again(struct blk_crypt *c, uint64_t sectors,
		      const char *params, struct blk_error *e)
{
	bool in_keyring = strstr(params, ":logon:");
	struct blk_dm_info info;
	char desc[DESC_BYTES];
	int32_t serial = 0;
	int ret;

	ret = blk_dm_info(c->name, &info, e);
	if (ret)
		return ret;
	key_name(&info, desc);
	ret = in_keyring ? blk_keyring_link(desc, &serial) : 0;
	if (ret) {
		blk_error_set(e, BLK_ERR_FAILED, -ret,
			      "the key of device \"%s\" is not in root's user keyring any more: %s",
			      c->name, strerror(-ret));
		blk_error_hint(e, "the image cannot grow until it is attached anew");
		return ret;
	}
	ret = blk_dm_load(c->name, sectors, TARGET, params, c->read_only, e);
	if (in_keyring)
		blk_keyring_unlink(serial);
	return ret;
}

int blk_crypt_resize(struct blk_crypt *c, struct blk_error *e)
{
	char *params = NULL;
	uint64_t sectors;
	int ret;

	if (!blk_crypt_is_up(c))
		return 0;
	ret = size_of(c->below, &sectors, e);
	if (ret || sectors <= c->sectors)
		return ret;
	ret = table_of(c->name, NULL, &params, e);
	if (!ret)
		ret = load_again(c, sectors, params, e);
	if (!ret)
		ret = blk_dm_replace(c->name, e);
	wipe(params);
	if (!ret)
		c->sectors = sectors;
	return ret;
}

/*
 * What nobody uses
 */

/*
 * Does no device have the uuid that is in the key's name?  Looked up after the
 * key was seen: a device is made before its key.
 */
static bool key_is_unused(void *opaque, const char *desc)
{
	struct blk_dm_info info;
	char **names, **name;
	bool unused = true;

	(void)opaque;
	if (blk_dm_list_uuid(UUID_KIND, &names, NULL))
		return false;
	for (name = names; *name; name++)
		if (!blk_dm_info(*name, &info, NULL) &&
		    !strcmp(desc + strlen(KEY_SERVICE), info.uuid))
			unused = false;
	blk_dm_list_free(names);
	return unused;
}

void blk_crypt_sweep(void)
{
	struct blk_dm_info info;
	char **names, **name;
	int pid;

	if (blk_dm_list_uuid(UUID_KIND, &names, NULL))
		return;
	for (name = names; *name; name++)
		if (!blk_dm_info(*name, &info, NULL) &&
		    is_unused(&info, &pid) && pid != getpid())
			take_down(*name, &info, NULL);
	blk_dm_list_free(names);
	blk_keyring_sweep(KEY_SERVICE UUID_PREFIX, key_is_unused, NULL);
}
