// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel module: is it there, load it, and if not, why not.
 *
 * Owns the sentences about it; changes nothing but through modprobe.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "kctl/modprobe.h"
#include "module.h"

bool module_read_line(const char *path, char *buf, size_t room)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fgets(buf, room, f);
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

bool module_loaded(void)
{
	return !access("/sys/module/dm_qcow", F_OK);
}

/* Looks where modprobe looks; lines are "PATH.ko[.xz]: DEPENDENCIES". */
bool module_installed(void)
{
	char line[512], path[320];
	struct utsname u;
	bool found = false;
	FILE *f;

	uname(&u);
	snprintf(path, sizeof(path), "/lib/modules/%s/modules.dep", u.release);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, ":")] = '\0';
		found = strstr(line, "/" MODULE_NAME ".ko");
	}
	if (f)
		fclose(f);
	return found;
}

int module_load(struct blk_error *e)
{
	char why[256];

	if (module_loaded() || geteuid() ||
	    !blk_modprobe(MODULE_NAME, why, sizeof(why)))
		return 0;
	if (!module_installed())
		snprintf(why, sizeof(why),
			 "it is not installed for this kernel");
	blk_error_set(e, BLK_ERR_UNAVAILABLE, ENODEV,
		      "cannot load the kernel module " MODULE_NAME ": %s",
		      *why ? why : "modprobe does not say why");
	blk_error_hint(e, "blkctl doctor");
	return -ENODEV;
}
