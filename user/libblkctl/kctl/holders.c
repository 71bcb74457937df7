// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Who holds a block device: mounts (of this and other mount namespaces),
 * swap, device-mapper and md through sysfs, loop devices, open files.
 *
 * Owns: nothing that outlives a call.
 * Must not: open the device itself.
 * Threads: any.  The answer is for people and may be out of date at once.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/dm_qcow.h>

#include "kctl/holders.h"
#include "kctl/loop.h"

#define NAMED_MAX	4	/* holders named; the rest is a number */

__attribute__((format(printf, 2, 3)))
static void add(struct blk_holders *h, const char *fmt, ...)
{
	size_t used = strlen(h->text);
	va_list ap;

	if (h->count++ >= NAMED_MAX)
		return;
	if (used)
		used += snprintf(h->text + used, sizeof(h->text) - used, ", ");
	if (used >= sizeof(h->text))
		return;
	va_start(ap, fmt);
	vsnprintf(h->text + used, sizeof(h->text) - used, fmt, ap);
	va_end(ap);
}

/* mountinfo writes blanks and the like as \040 */
static void unescape(char *s)
{
	char *to = s;

	for (; *s; s++) {
		if (*s == '\\' && s[1] >= '0' && s[1] <= '3' && s[2] && s[3]) {
			*to++ = (s[1] - '0') << 6 | (s[2] - '0') << 3 |
				(s[3] - '0');
			s += 3;
		} else {
			*to++ = *s;
		}
	}
	*to = '\0';
}

/* The first mount of @dev in a mountinfo file: 1 and its mount point. */
static int find_mount(const char *file, uint64_t dev, char *where, size_t room)
{
	char *line = NULL, target[256];
	unsigned int maj, min;
	size_t cap = 0;
	int found = 0;
	FILE *f = fopen(file, "re");

	if (!f)
		return 0;
	while (!found && getline(&line, &cap, f) > 0) {
		if (sscanf(line, "%*u %*u %u:%u %*s %255s", &maj, &min,
			   target) == 3 && DM_QCOW_DEV(maj, min) == dev)
			found = 1;
	}
	free(line);
	fclose(f);
	if (found) {
		unescape(target);
		snprintf(where, room, "%s", target);
	}
	return found;
}

static void find_mounts(struct blk_holders *h, uint64_t dev)
{
	char where[256];

	if (find_mount("/proc/self/mountinfo", dev, where, sizeof(where))) {
		add(h, "mounted on %s", where);
		h->lasting = true;
	}
}

static void find_swap(struct blk_holders *h, uint64_t dev)
{
	char *line = NULL, path[256];
	struct stat st;
	size_t cap = 0;
	FILE *f = fopen("/proc/swaps", "re");

	while (f && getline(&line, &cap, f) > 0) {
		if (sscanf(line, "%255s", path) != 1)
			continue;
		unescape(path);
		if (stat(path, &st) || !S_ISBLK(st.st_mode) ||
		    DM_QCOW_DEV(major(st.st_rdev), minor(st.st_rdev)) != dev)
			continue;
		add(h, "swap space");
		h->lasting = true;
	}
	free(line);
	if (f)
		fclose(f);
}

static bool read_name(const char *path, char *name, size_t room)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(name, room, f);

	if (f)
		fclose(f);
	if (ok)
		name[strcspn(name, "\n")] = '\0';
	return ok;
}

/* Devices that sit on top: device-mapper, md; and loop devices over it. */
static void find_devices(struct blk_holders *h, uint64_t dev)
{
	char path[384], name[128];
	struct dirent *d;
	DIR *dir;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders",
		 (unsigned int)(dev >> 32), (uint32_t)dev);
	dir = opendir(path);
	while (dir && (d = readdir(dir))) {
		if (d->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/dm/name",
			 d->d_name);
		if (!read_name(path, name, sizeof(name)))
			snprintf(name, sizeof(name), "%.120s", d->d_name);
		add(h, "used by device %s", name);
		h->lasting = true;
	}
	if (dir)
		closedir(dir);
	if (blk_loop_over(dev, name, sizeof(name)) == 1) {
		add(h, "used by %s", name);
		h->lasting = true;
	}
}

static bool has_open(int fds, uint64_t dev)
{
	struct dirent *d;
	struct stat st;
	char link[64];
	bool found = false;
	ssize_t n;
	DIR *dir = fdopendir(fds);

	if (!dir) {
		close(fds);
		return false;
	}
	while (!found && (d = readdir(dir))) {
		n = readlinkat(dirfd(dir), d->d_name, link, sizeof(link) - 1);
		if (n < 0)
			continue;
		link[n] = '\0';
		/* stat() of a file on a dead server would not return */
		if (!strstr(link, "/dev/") ||
		    fstatat(dirfd(dir), d->d_name, &st, 0) ||
		    !S_ISBLK(st.st_mode))
			continue;
		found = DM_QCOW_DEV(major(st.st_rdev), minor(st.st_rdev)) ==
			dev;
	}
	closedir(dir);
	return found;
}

/* One process: its open files, and mounts that only its namespace has. */
static void find_process(struct blk_holders *h, const char *pid, uint64_t dev,
			 bool mounts)
{
	char path[300], name[64] = "?", where[256];
	bool open_here;
	int fds;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	fds = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	open_here = fds >= 0 && has_open(fds, dev);
	snprintf(path, sizeof(path), "/proc/%.20s/mountinfo", pid);
	mounts = mounts && !open_here &&
		find_mount(path, dev, where, sizeof(where));
	if (!open_here && !mounts)
		return;
	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	read_name(path, name, sizeof(name));
	if (open_here) {
		add(h, "opened by %s (pid %s)", name, pid);
		return;
	}
	add(h, "mounted on %s in the mount namespace of %s (pid %s)", where,
	    name, pid);
	h->lasting = true;
}

static void find_processes(struct blk_holders *h, uint64_t dev)
{
	/* other namespaces are looked at only when nothing else was found */
	bool mounts = !h->count;
	unsigned int before;
	struct dirent *d;
	DIR *dir = opendir("/proc");

	while (dir && (d = readdir(dir))) {
		if (!isdigit((unsigned char)d->d_name[0]) ||
		    atoi(d->d_name) == getpid())
			continue;
		before = h->count;
		find_process(h, d->d_name, dev, mounts);
		/* one process of a foreign namespace stands for all */
		if (h->count > before && h->lasting)
			mounts = false;
	}
	if (dir)
		closedir(dir);
}

void blk_holders_find(uint64_t dev, struct blk_holders *h)
{
	size_t used;

	memset(h, 0, sizeof(*h));
	find_mounts(h, dev);
	find_swap(h, dev);
	find_devices(h, dev);
	find_processes(h, dev);
	used = strlen(h->text);
	if (h->count > NAMED_MAX)
		snprintf(h->text + used, sizeof(h->text) - used,
			 " and %u more", h->count - NAMED_MAX);
}
