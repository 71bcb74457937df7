// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Loop devices under regular image files.
 *
 * Owns: finding a free loop device, configuring it in one step and checking
 * what the kernel made of it.
 * Must not: size or lock the file; both are done before.
 * Threads: any.  Two processes may be given the same free number: the loser
 * gets EBUSY and asks again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/dm_qcow.h>
#include <linux/loop.h>

#include "kctl/loop.h"
#include "kctl/modprobe.h"

#define LOOP_MAJOR	7
#define LOOP_TRIES	64

static int open_control(struct blk_error *e)
{
	int fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	char why[128];
	int err;

	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO)) {
		blk_modprobe("loop", why, sizeof(why));
		fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	}
	if (fd >= 0)
		return fd;
	err = errno;
	blk_error_set(e, BLK_ERR_UNAVAILABLE, err,
		      "cannot make a loop device: /dev/loop-control: %s",
		      strerror(err));
	blk_error_hint(e, err == EACCES || err == EPERM ?
		       "run it as root" : "modprobe loop");
	return -err;
}

static void set_number(struct blk_loop *l, unsigned int n)
{
	l->dev = DM_QCOW_DEV(LOOP_MAJOR, n);
	snprintf(l->path, sizeof(l->path), "/dev/loop%u", n);
}

static int configure(int fd, int file_fd, const char *path, bool read_only,
		     uint32_t block_size)
{
	struct loop_config c = {
		.fd = file_fd,
		.block_size = block_size,
		.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO |
			(read_only ? LO_FLAGS_READ_ONLY : 0),
	};

	snprintf((char *)c.info.lo_file_name, sizeof(c.info.lo_file_name),
		 "%s", path);
	return ioctl(fd, LOOP_CONFIGURE, &c) ? -errno : 0;
}

/* Opens a free device and binds the file; -EBUSY: somebody was faster. */
static int bind_free(int control, int file_fd, const char *path,
		     bool read_only, uint32_t block_size, struct blk_loop *l)
{
	int n, ret;

	n = ioctl(control, LOOP_CTL_GET_FREE);
	if (n < 0)
		return -errno;
	set_number(l, n);
	l->fd = open(l->path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (l->fd < 0)
		/* gone again, or its node is still to come */
		return errno == ENXIO || errno == ENOENT ? -EBUSY : -errno;
	ret = configure(l->fd, file_fd, path, read_only, block_size);
	if (ret)
		blk_loop_close(l);
	return ret;
}

/* The kernel falls back to the page cache without a word. */
static int check_direct(const struct blk_loop *l, const char *path,
			struct blk_error *e)
{
	struct loop_info64 info;

	if (ioctl(l->fd, LOOP_GET_STATUS64, &info))
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "cannot read the status of %s: %s",
				     l->path, strerror(errno));
	if (info.lo_flags & LO_FLAGS_DIRECT_IO)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
		      "the loop device of %s would not use direct I/O", path);
	blk_error_hint(e, "keep the image on a file system with direct I/O "
		       "(ext4, XFS, Btrfs; not tmpfs), or on a block device");
	return -EOPNOTSUPP;
}

int blk_loop_attach(int file_fd, const char *path, bool read_only,
		    uint32_t block_size, struct blk_loop *out,
		    struct blk_error *e)
{
	int control, ret, tries = LOOP_TRIES;

	memset(out, 0, sizeof(*out));
	out->fd = -1;
	control = open_control(e);
	if (control < 0)
		return control;
	do {
		ret = bind_free(control, file_fd, path, read_only, block_size,
				out);
		if (ret == -EBUSY)
			usleep(1000);
	} while (ret == -EBUSY && --tries);
	close(control);
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "cannot make a loop device for %s: %s",
				     path, strerror(-ret));
	ret = check_direct(out, path, e);
	if (ret)
		blk_loop_close(out);	/* autoclear ends it */
	return ret;
}

int blk_loop_set_capacity(const struct blk_loop *l, struct blk_error *e)
{
	if (!ioctl(l->fd, LOOP_SET_CAPACITY))
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, errno,
			     "cannot resize %s: %s", l->path, strerror(errno));
}

void blk_loop_close(struct blk_loop *l)
{
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
}

int blk_loop_open(uint64_t dev, struct blk_loop *out, struct blk_error *e)
{
	int err;

	memset(out, 0, sizeof(*out));
	out->fd = -1;
	if (dev >> 32 != LOOP_MAJOR)
		return blk_error_set(e, BLK_ERR_FAILED, ENXIO,
				     "%u:%u is not a loop device",
				     (unsigned int)(dev >> 32), (uint32_t)dev);
	set_number(out, (uint32_t)dev);
	/* the capacity can be set through a read-only descriptor too */
	out->fd = open(out->path, O_RDONLY | O_CLOEXEC);
	if (out->fd >= 0)
		return 0;
	err = errno;
	return blk_error_set(e, BLK_ERR_FAILED, err, "cannot open %s: %s",
			     out->path, strerror(err));
}

int blk_loop_backing(uint64_t dev, char **path, struct blk_error *e)
{
	char name[64];
	size_t room = 0;
	ssize_t n;
	FILE *f;

	*path = NULL;
	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/loop/backing_file",
		 (unsigned int)(dev >> 32), (uint32_t)dev);
	f = fopen(name, "re");
	if (!f)
		return blk_error_set(e, BLK_ERR_FAILED, ENXIO,
				     "%u:%u is not a loop device in use",
				     (unsigned int)(dev >> 32), (uint32_t)dev);
	n = getline(path, &room, f);
	fclose(f);
	if (n <= 0) {
		free(*path);
		*path = NULL;
		return blk_error_set(e, BLK_ERR_FAILED, ENXIO,
				     "%u:%u is not a loop device in use",
				     (unsigned int)(dev >> 32), (uint32_t)dev);
	}
	(*path)[strcspn(*path, "\n")] = '\0';
	return 0;
}

/* Calls @fn for each loop device in use until it returns non-zero. */
static int for_each_loop(int (*fn)(unsigned int n, int fd,
				   const struct loop_info64 *info,
				   void *opaque), void *opaque)
{
	char path[64];
	struct loop_info64 info;
	struct dirent *d;
	unsigned int n;
	int fd, ret = 0;
	DIR *dir = opendir("/sys/block");

	if (!dir)
		return -errno;
	while (!ret && (d = readdir(dir))) {
		if (sscanf(d->d_name, "loop%u", &n) != 1)
			continue;
		snprintf(path, sizeof(path), "/sys/block/loop%u/loop", n);
		if (access(path, F_OK))
			continue;
		snprintf(path, sizeof(path), "/dev/loop%u", n);
		fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (fd < 0)
			continue;
		if (!ioctl(fd, LOOP_GET_STATUS64, &info))
			ret = fn(n, fd, &info, opaque);
		close(fd);
	}
	closedir(dir);
	return ret;
}

struct file_search {
	struct stat st;
	bool shareable;		/* whole file, direct, goes by itself */
	struct blk_loop *out;
};

static int match_file(unsigned int n, int fd, const struct loop_info64 *info,
		      void *opaque)
{
	struct file_search *s = opaque;
	uint32_t want = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;

	if (info->lo_device != s->st.st_dev || info->lo_inode != s->st.st_ino)
		return 0;
	if (s->shareable && ((info->lo_flags & want) != want ||
			     info->lo_offset || info->lo_sizelimit))
		return 0;
	set_number(s->out, n);
	if (s->shareable) {
		s->out->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		if (s->out->fd < 0)
			return 0;
	}
	return 1;
}

static int search(int file_fd, bool shareable, struct blk_loop *out)
{
	struct file_search s = { .shareable = shareable, .out = out };

	memset(out, 0, sizeof(*out));
	out->fd = -1;
	if (fstat(file_fd, &s.st))
		return -errno;
	return for_each_loop(match_file, &s);
}

int blk_loop_find(int file_fd, uint64_t *dev)
{
	struct blk_loop l;
	int ret = search(file_fd, false, &l);

	if (ret == 1)
		*dev = l.dev;
	return ret;
}

int blk_loop_share(int file_fd, struct blk_loop *out)
{
	return search(file_fd, true, out);
}

struct device_search {
	uint64_t dev;
	char *name;
	size_t room;
};

static int match_device(unsigned int n, int fd, const struct loop_info64 *info,
			void *opaque)
{
	struct device_search *s = opaque;
	dev_t dev = info->lo_rdevice;

	(void)fd;
	if (!dev || s->dev != DM_QCOW_DEV((dev >> 8) & 0xfff,
					  (dev & 0xff) | ((dev >> 12) & ~0xffU)))
		return 0;
	snprintf(s->name, s->room, "/dev/loop%u", n);
	return 1;
}

int blk_loop_over(uint64_t dev, char *name, size_t room)
{
	struct device_search s = { .dev = dev, .name = name, .room = room };

	return for_each_loop(match_device, &s);
}
