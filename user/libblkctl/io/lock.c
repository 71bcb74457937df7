// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * QEMU's image locks, and who holds them.
 *
 * QEMU (file-posix.c) takes shared locks on the bytes of what it uses and of
 * what it does not share, then tests with exclusive ones whether somebody else
 * has the opposite.  So do we, byte for byte.
 *
 * Owns no state: the locks are the open file's.  No locking of its own.
 */
#include "io/lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/be.h"
#include "base/cleanup.h"

#define USED_BASE	100	/* permission n is used */
#define UNSHARED_BASE	200	/* permission n is not shared */

#define PERM_READ	(1U << 0)
#define PERM_WRITE	(1U << 1)
#define PERM_UNCHANGED	(1U << 2)
#define PERM_RESIZE	(1U << 3)
#define N_PERMS		4

static const char *const perm_names[N_PERMS] = {
	"consistent read", "write", "write unchanged", "resize",
};

static int lock_byte(int fd, off_t byte, short type)
{
	struct flock fl = {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	if (!fcntl(fd, F_OFD_SETLK, &fl))
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

/* Would an exclusive lock be possible?  1: no, somebody has it. */
static int test_byte(int fd, off_t byte)
{
	struct flock fl = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = byte,
		.l_len = 1,
	};

	if (fcntl(fd, F_OFD_GETLK, &fl))
		return -errno;
	return fl.l_type != F_UNLCK;
}

static int lock_set(int fd, off_t base, unsigned int perms)
{
	for (int i = 0; i < N_PERMS; i++) {
		int ret = perms & 1U << i ?
			lock_byte(fd, base + i, F_RDLCK) : 0;

		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The byte that somebody else has of these, 0 if none, or -errno. */
static int find_conflict(int fd, off_t base, unsigned int perms)
{
	for (int i = 0; i < N_PERMS; i++) {
		int ret = perms & 1U << i ? test_byte(fd, base + i) : 0;

		if (ret < 0)
			return ret;
		if (ret)
			return (int)base + i;
	}
	return 0;
}

/* Does this open file hold the byte?  fdinfo lists the locks it owns. */
static bool fd_holds(const char *pid, const char *fd, int byte)
{
	char path[64], line[256];
	bool found = false;
	FILE *fp;

	snprintf(path, sizeof(path), "/proc/%.16s/fdinfo/%.16s", pid, fd);
	fp = fopen(path, "re");
	if (!fp)
		return false;
	while (!found && fgets(line, sizeof(line), fp)) {
		unsigned long long from, to;
		const char *p = strstr(line, "OFDLCK");

		/* lock: 1: OFDLCK ADVISORY READ -1 fe:00:123 100 101 */
		if (!strncmp(line, "lock:", 5) && p &&
		    sscanf(p, "OFDLCK %*s %*s %*d %*s %llu %llu", &from,
			   &to) == 2)
			found = from <= (unsigned int)byte &&
				(unsigned int)byte <= to;
	}
	fclose(fp);
	return found;
}

static void read_comm(const char *pid, char *comm, size_t len)
{
	char path[64];
	FILE *fp;

	snprintf(comm, len, "?");
	snprintf(path, sizeof(path), "/proc/%.16s/comm", pid);
	fp = fopen(path, "re");
	if (!fp)
		return;
	if (fgets(comm, (int)len, fp))
		comm[strcspn(comm, "\n")] = '\0';
	fclose(fp);
}

static bool is_number(const char *s)
{
	return *s && strspn(s, "0123456789") == strlen(s);
}

/* Does the process hold that byte of the inode through another open file? */
static bool process_holds(const char *pid, const struct stat *image, int own_fd,
			  int byte)
{
	char path[64];
	struct dirent *d;
	struct stat st;
	bool found = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!found && (d = readdir(dir))) {
		if (!is_number(d->d_name) ||
		    (atoi(pid) == getpid() && atoi(d->d_name) == own_fd))
			continue;
		found = !fstatat(dirfd(dir), d->d_name, &st, 0) &&
			st.st_dev == image->st_dev &&
			st.st_ino == image->st_ino &&
			fd_holds(pid, d->d_name, byte);
	}
	closedir(dir);
	return found;
}

/* "by process 123 (qemu-nbd)", or what is known instead */
static void describe_holder(int fd, int byte, char *buf, size_t len)
{
	struct dirent *d;
	struct stat image;
	char comm[32];
	DIR *proc;

	snprintf(buf, len, "by the kernel or by a process that cannot be seen from here");
	if (fstat(fd, &image))
		return;
	proc = opendir("/proc");
	if (!proc)
		return;
	while ((d = readdir(proc))) {
		if (!is_number(d->d_name) ||
		    !process_holds(d->d_name, &image, fd, byte))
			continue;
		read_comm(d->d_name, comm, sizeof(comm));
		snprintf(buf, len, "by %sprocess %.16s (%s)",
			 atoi(d->d_name) == getpid() ? "this " : "",
			 d->d_name, comm);
		break;
	}
	closedir(proc);
}

static int report_conflict(int fd, const char *path, bool writable, int byte,
			   struct blk_error *e)
{
	bool shared = byte < UNSHARED_BASE;
	int perm = byte - (shared ? USED_BASE : UNSHARED_BASE);
	char who[128];

	if (!e)
		return -EBUSY;
	describe_holder(fd, byte, who, sizeof(who));
	blk_error_set(e, BLK_ERR_BUSY, EBUSY,
		      "'%s' is in use %s: cannot open it %s, the holder %s \"%s\"",
		      path, who, writable ? "for writing" : "for reading",
		      shared ? "uses" : "does not share", perm_names[perm]);
	blk_error_hint(e, "end the program that uses the image, or detach its device");
	return -EBUSY;
}

int blk_lock_image(int fd, const char *path, bool writable,
		   struct blk_error *e)
{
	unsigned int used = writable ? PERM_READ | PERM_WRITE | PERM_RESIZE :
		PERM_READ;
	unsigned int unshared = PERM_WRITE | PERM_RESIZE;
	int ret = lock_set(fd, USED_BASE, used);

	if (!ret)
		ret = lock_set(fd, UNSHARED_BASE, unshared);
	if (!ret)
		ret = find_conflict(fd, UNSHARED_BASE, used);
	if (!ret)
		ret = find_conflict(fd, USED_BASE, unshared);
	if (!ret)
		return 0;
	if (ret > 0)
		ret = report_conflict(fd, path, writable, ret, e);
	else
		blk_error_set(e, ret == -EBUSY ? BLK_ERR_BUSY : BLK_ERR_FAILED,
			      -ret, "cannot lock '%s': %s", path,
			      strerror(-ret));
	blk_unlock_image(fd);
	return ret;
}

void blk_unlock_image(int fd)
{
	for (int i = 0; i < N_PERMS; i++) {
		lock_byte(fd, USED_BASE + i, F_UNLCK);
		lock_byte(fd, UNSHARED_BASE + i, F_UNLCK);
	}
}

/* Without O_EXCL a device can be opened that somebody has claimed. */
static int check_claim(int fd, const char *path, struct blk_error *e)
{
	char self[64];
	struct stat st;
	int other;

	if (fstat(fd, &st) || !S_ISBLK(st.st_mode))
		return 0;
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	other = open(self, O_RDONLY | O_EXCL | O_CLOEXEC);
	if (other >= 0)
		close(other);
	if (other >= 0 || errno != EBUSY)
		return 0;
	blk_error_set(e, BLK_ERR_BUSY, EBUSY,
		      "'%s' is in use: it is mounted, or a device is on top of it",
		      path);
	blk_error_hint(e, "lsblk says by what");
	return -EBUSY;
}

static void note_held(int fd, const char *path, bool writable,
		      struct blk_error *e)
{
	struct stat st;

	if (!e || fstat(fd, &st))
		return;
	e->held = (struct blk_held){
		.dev = st.st_dev, .ino = st.st_ino, .writing = writable,
		.rdev = S_ISBLK(st.st_mode) ? st.st_rdev : 0,
	};
	snprintf(e->held.path, sizeof(e->held.path), "%s", path);
}

int blk_lock_offline(int fd, const char *path, bool writable,
		     struct blk_error *e)
{
	int ret = blk_lock_image(fd, path, writable, e);

	if (!ret && writable) {
		ret = check_claim(fd, path, e);
		if (ret)
			blk_unlock_image(fd);
	}
	if (ret == -EBUSY)
		note_held(fd, path, writable, e);
	return ret;
}
