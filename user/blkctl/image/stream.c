// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * "-": standard input as a source, standard output as a target.
 *
 * An image is read in any order, so what comes through a pipe is kept in a file
 * without a name until the program ends.  What goes out is the disk, from its
 * first byte to its last.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "image/image.h"

#define CHUNK	(1U << 20)

static int failed(struct blk_error *e, const char *what)
{
	int err = errno;

	return blk_error_set(e, BLK_ERR_FAILED, err, "cannot %s: %s", what,
			     strerror(err));
}

bool image_is_stream(const char *name)
{
	return !strcmp(name, "-");
}

static int unnamed_file(struct blk_error *e)
{
	const char *dir = getenv("TMPDIR");
	char *path blk_auto_free = NULL;
	int fd;

	dir = dir && *dir ? dir : "/var/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		goto out;
	if (asprintf(&path, "%s/blkctl-XXXXXX", dir) < 0) {
		path = NULL;
		errno = ENOMEM;
		goto out;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
out:
	if (fd >= 0)
		return fd;
	failed(e, "make a file for what comes from standard input");
	blk_error_hint(e, "it is kept in '%s'; TMPDIR names another place",
		       dir);
	return -EIO;
}

/* Until @len bytes are there or the input ends; what was read */
static ssize_t read_all(int fd, uint8_t *buf, size_t len, struct blk_error *e)
{
	size_t n = 0;

	while (n < len) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t got;

		/* unlike read(), it ends when a signal comes */
		poll(&p, 1, -1);
		if (image_interrupted(e))
			return -EINTR;
		if (!p.revents)
			continue;
		got = read(fd, buf + n, len - n);
		if (got < 0 && errno != EINTR && errno != EAGAIN)
			return failed(e, "read standard input");
		if (!got)
			break;
		n += got > 0 ? (size_t)got : 0;
	}
	return (ssize_t)n;
}

static int write_all(int fd, const uint8_t *buf, size_t len)
{
	while (len) {
		ssize_t n = write(fd, buf, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		n = n < 0 ? 0 : n;
		buf += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Zeroes stay holes. */
static int keep(int fd, struct blk_error *e)
{
	uint8_t *buf blk_auto_free = malloc(CHUNK);
	off_t size = 0;
	ssize_t n;

	if (!buf)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	while ((n = read_all(STDIN_FILENO, buf, CHUNK, e)) > 0) {
		size += n;
		if (blk_is_zero(buf, (size_t)n) ?
		    lseek(fd, n, SEEK_CUR) < 0 :
		    (errno = -write_all(fd, buf, (size_t)n)))
			return failed(e, "keep what comes from standard input");
	}
	if (n < 0)
		return (int)n;
	return ftruncate(fd, size) ?
		failed(e, "keep what comes from standard input") : 0;
}

int image_stdin(char name[IMAGE_STDIN_NAME], struct blk_error *e)
{
	static bool taken;
	struct stat st;
	int fd = STDIN_FILENO;
	int rc;

	if (taken)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "standard input can be one image only");
	taken = true;
	if (fstat(fd, &st))
		return failed(e, "read standard input");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		if (isatty(fd))
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "'-' is standard input, which is a terminal");
		fd = unnamed_file(e);
		if (fd < 0)
			return fd;
		rc = keep(fd, e);
		if (rc)
			return rc;
	}
	/* it stays open: this is its only name */
	snprintf(name, IMAGE_STDIN_NAME, "/proc/self/fd/%d", fd);
	return 0;
}

int image_stdout(const struct image_run *r, int *fd, struct blk_error *e)
{
	if (isatty(STDOUT_FILENO))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'-' is standard output, which is a terminal");
	if (r->cli->json)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "--json and a target of '-' both want standard output");
	*fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
	if (*fd < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		return failed(e, "write to standard output");
	return 0;
}

int image_stdout_write(struct image_run *r, int fd, struct blk_img *src,
		       uint64_t off, uint64_t len, struct image_rate *rate,
		       struct blk_error *e)
{
	void *buf blk_auto_free = NULL;
	uint64_t n;
	int rc = 0;

	if (posix_memalign(&buf, 4096, CHUNK)) {
		buf = NULL;
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	}
	for (; len && !rc; off += n, len -= n) {
		n = BLK_MIN(len, CHUNK);
		rc = blk_img_read(src, buf, n, off, e);
		if (!rc) {
			errno = -write_all(fd, buf, n);
			rc = errno ? failed(e, "write to standard output") : 0;
		}
		if (!rc)
			rc = rate ? image_rate_wait(rate, n, e) :
				image_interrupted(e);
		image_progress_add(r, n);
	}
	return rc;
}
