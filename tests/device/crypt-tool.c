// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The library's crypt devices, one step for each process, so that none has
 * what the one before it knew.
 *
 *	up | reader NAME DEVICE IMAGE PASSPHRASE
 *	resize | down | lose-key NAME
 *	sweep
 *
 * Prints the name of what is up, or "CODE: message" for an error.  Owns: nothing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "fmt/luks.h"
#include "kctl/crypt.h"
#include "kctl/dm.h"
#include "kctl/keyring.h"

static struct blk_error e;

static int make(char **argv, bool read_only)
{
	struct blk_luks_key *key;
	struct blk_crypt c;
	struct blk_file *f;
	struct blk_qcow2 *q;
	struct stat st;
	int ret;

	if (stat(argv[1], &st))
		return -1;
	ret = blk_file_open(argv[2], 0, &f, &e);
	if (!ret)
		ret = blk_qcow2_open(f, &q, &e);
	if (!ret)
		ret = blk_luks_unlock(q, argv[3], strlen(argv[3]), &key, &e);
	if (ret)
		return ret;
	ret = blk_crypt_up(argv[0], DM_QCOW_DEV(major(st.st_rdev),
						minor(st.st_rdev)),
			   key, read_only, &c, &e);
	blk_luks_free(key);
	if (!ret)
		printf("%s\n", c.name);
	return ret;
}

static int up(char **argv)
{
	return make(argv, false);
}

static int reader(char **argv)
{
	return make(argv, true);
}

static int adopt(const char *name, struct blk_crypt *c)
{
	struct blk_dm_info info;
	int ret = blk_dm_info(name, &info, &e);

	return ret ? ret : blk_crypt_adopt(info.dev, c, &e);
}

static int resize(char **argv)
{
	struct blk_crypt c;
	int ret = adopt(argv[0], &c);

	return ret ? ret : blk_crypt_resize(&c, &e);
}

static int down(char **argv)
{
	struct blk_crypt c;
	int ret = adopt(argv[0], &c);

	return ret ? ret : blk_crypt_down(&c, &e);
}

static int lose_key(char **argv)
{
	struct blk_dm_info info;
	char desc[160];
	int ret = blk_dm_info(argv[0], &info, &e);

	snprintf(desc, sizeof(desc), "blkctl:%s", info.uuid);
	return ret ? ret : blk_keyring_remove(desc);
}

static int sweep(char **argv)
{
	(void)argv;
	blk_crypt_sweep();
	return 0;
}

static const struct {
	const char *name;
	int nargs;
	int (*fn)(char **argv);
} verbs[] = {
	{ "up", 4, up },
	{ "reader", 4, reader },
	{ "resize", 1, resize },
	{ "down", 1, down },
	{ "lose-key", 1, lose_key },
	{ "sweep", 0, sweep },
};

int main(int argc, char **argv)
{
	size_t i;
	int ret;

	for (i = 0; argc > 1 && i < sizeof(verbs) / sizeof(verbs[0]); i++) {
		if (strcmp(argv[1], verbs[i].name) ||
		    argc - 2 != verbs[i].nargs)
			continue;
		ret = verbs[i].fn(argv + 2);
		if (ret)
			printf("%d: %s\n", -ret, e.msg);
		return !!ret;
	}
	return 2;
}
