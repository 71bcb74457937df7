// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Image files and block devices: opening, and transfers of any alignment.
 *
 * Owns the descriptor and the path.  Must not allocate after open and must not
 * touch the page cache of a file that is open for direct I/O: unaligned edges
 * go through a bounce buffer on the stack.  No locking: concurrent transfers
 * are fine as long as they do not write to one aligned block.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <stdalign.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/be.h"
#include "base/cleanup.h"

#define MAX_ALIGN	4096U
#define BOUNCE		(4 * MAX_ALIGN)

static int open_error(const char *path, int err, struct blk_error *e)
{
	enum blk_error_class cls = BLK_ERR_FAILED;

	if (err == ENOENT || err == ENOTDIR)
		cls = BLK_ERR_NOT_FOUND;
	else if (err == EBUSY || err == ETXTBSY)
		cls = BLK_ERR_BUSY;
	return blk_error_set(e, cls, err, "cannot open '%s': %s", path,
			     strerror(err));
}

/* The smallest block that direct I/O accepts, found by trying. */
static size_t probe_align(int fd)
{
	alignas(MAX_ALIGN) char buf[MAX_ALIGN];

	for (size_t a = 512; a < MAX_ALIGN; a *= 2) {
		ssize_t n = pread(fd, buf, a, 0);

		if (n > 0)
			return a;
		if (n == 0 || errno != EINVAL)
			break;
	}
	return MAX_ALIGN;
}

/* Of a partition, the whole disk's is asked. */
static bool is_slow_to_zero(int fd)
{
	static const char *const form[] = { "", "/.." };
	char path[96], text[2] = "";
	struct stat st;

	if (fstat(fd, &st))
		return false;
	for (size_t i = 0; i < 2; i++) {
		int q;

		snprintf(path, sizeof(path),
			 "/sys/dev/block/%u:%u%s/queue/write_zeroes_max_bytes",
			 major(st.st_rdev), minor(st.st_rdev), form[i]);
		q = open(path, O_RDONLY | O_CLOEXEC);
		if (q < 0)
			continue;
		if (read(q, text, sizeof(text)) != sizeof(text))
			text[0] = '\0';
		close(q);
		return !memcmp(text, "0\n", 2);
	}
	return false;
}

static int stat_bdev(struct blk_file *f, struct blk_error *e)
{
	unsigned int pbs = 0;
	int lbs = 0;

	if (ioctl(f->fd, BLKSSZGET, &lbs) || lbs < 512 ||
	    ioctl(f->fd, BLKPBSZGET, &pbs))
		return blk_error_set(e, BLK_ERR_FAILED, errno ? errno : EINVAL,
				     "cannot ask '%s' for its block size",
				     f->path);
	if (lbs > (int)MAX_ALIGN)
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' has blocks of %d bytes, more than 4096 are not supported",
				     f->path, lbs);
	f->is_bdev = true;
	f->slow_zero = is_slow_to_zero(f->fd);
	f->align = lbs;
	f->block = BLK_MAX(pbs, (unsigned int)lbs);
	return 0;
}

static int stat_file(struct blk_file *f, struct blk_error *e)
{
	struct stat st;
	int flags = fcntl(f->fd, F_GETFL);

	if (flags < 0 || fstat(f->fd, &st))
		return open_error(f->path, errno, e);
	f->writable = (flags & O_ACCMODE) == O_RDWR;
	f->direct = flags & O_DIRECT;
	if ((flags & O_ACCMODE) == O_WRONLY)
		return open_error(f->path, EBADF, e);
	if (S_ISBLK(st.st_mode))
		return stat_bdev(f, e);
	if (!S_ISREG(st.st_mode))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is neither a regular file nor a block device",
				     f->path);
	f->align = f->direct ? probe_align(f->fd) : 512;
	f->block = st.st_blksize;
	if (f->block < 512 || f->block & (f->block - 1) ||
	    f->block > 1U << 20)
		f->block = 4096;
	return 0;
}

int blk_file_from_fd(int fd, const char *path, struct blk_file **out,
		     struct blk_error *e)
{
	struct blk_file *f = calloc(1, sizeof(*f));
	int ret;

	if (!f)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	f->fd = fd;
	f->path = strdup(path);
	ret = f->path ? stat_file(f, e) :
		blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
	if (ret < 0) {
		free(f->path);
		free(f);
		return ret;
	}
	*out = f;
	return 0;
}

static int open_direct(const char *path, unsigned int flags,
		       struct blk_error *e)
{
	/* O_NONBLOCK: a FIFO must not hang us; it is refused later. */
	int mode = O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
		(flags & BLK_FILE_WRITE ? O_RDWR : O_RDONLY);
	int fd = open(path, mode |
		      (flags & BLK_FILE_BUFFERED ? 0 : O_DIRECT));

	if (fd < 0 && errno == EINVAL) {
		if (!(flags & BLK_FILE_BUFFERED_OK)) {
			blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				      "cannot open '%s' for direct I/O: its file system does not support it",
				      path);
			blk_error_hint(e, "move the image to a file system on a disk");
			return -EOPNOTSUPP;
		}
		fd = open(path, mode);
	}
	if (fd < 0)
		return open_error(path, errno, e);
	mode = fcntl(fd, F_GETFL);
	if (mode >= 0)
		fcntl(fd, F_SETFL, mode & ~O_NONBLOCK);
	return fd;
}

int blk_file_open(const char *path, unsigned int flags, struct blk_file **out,
		  struct blk_error *e)
{
	char *real blk_auto_free = realpath(path, NULL);
	int fd, ret;

	/* a file without a name, by its descriptor in /proc */
	if (!real && errno == ENOENT && !access(path, F_OK))
		real = strdup(path);
	if (!real)
		return open_error(path, errno, e);
	fd = open_direct(real, flags, e);
	if (fd < 0)
		return fd;
	ret = blk_file_from_fd(fd, real, out, e);
	if (ret < 0)
		close(fd);
	return ret;
}

void blk_file_close(struct blk_file *f)
{
	if (!f)
		return;
	close(f->fd);
	free(f->path);
	free(f);
}

int64_t blk_file_size(const struct blk_file *f)
{
	struct stat st;
	uint64_t size;

	if (f->is_bdev) {
		if (ioctl(f->fd, BLKGETSIZE64, &size))
			return -errno;
		return size > INT64_MAX ? -EFBIG : (int64_t)size;
	}
	if (fstat(f->fd, &st))
		return -errno;
	return st.st_size;
}

bool blk_file_same(const struct blk_file *a, const struct blk_file *b)
{
	struct stat x, y;

	if (a->is_bdev != b->is_bdev || fstat(a->fd, &x) || fstat(b->fd, &y))
		return false;
	if (a->is_bdev)
		return x.st_rdev == y.st_rdev;
	return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int blk_file_check_sectors(const struct blk_file *f, struct blk_error *e)
{
	int64_t size = blk_file_size(f);

	if (size < 0)
		return blk_error_set(e, BLK_ERR_FAILED, (int)-size,
				     "cannot find the size of '%s': %s",
				     f->path, strerror((int)-size));
	if (!(size & 511))
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EINVAL,
		      "'%s' has %lld bytes, which is no multiple of 512: a device cannot show its end",
		      f->path, (long long)size);
	blk_error_hint(e, "make a copy of it, and truncate -s %%512 the copy");
	return -EINVAL;
}

static bool is_direct_ok(const struct blk_file *f, const void *buf, size_t len,
			 uint64_t off)
{
	return !f->direct ||
		!(((uintptr_t)buf | len | off) & (f->align - 1));
}

/* Everything aligned as the file wants it. */
static int read_aligned(struct blk_file *f, char *buf, size_t len,
			uint64_t off)
{
	while (len) {
		ssize_t n = pread(f->fd, buf, len, off);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		buf += n;
		len -= n;
		off += n;
		if (!n || (f->direct && n & (f->align - 1))) {
			memset(buf, 0, len);	/* the end of the file */
			break;
		}
	}
	return 0;
}

static int write_aligned(struct blk_file *f, const char *buf, size_t len,
			 uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(f->fd, buf, len, off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n || (f->direct && n & (f->align - 1)))
			return -EIO;
		buf += n;
		len -= n;
		off += n;
	}
	return 0;
}

static int check_range(uint64_t off, uint64_t len)
{
	return off > INT64_MAX - MAX_ALIGN ||
		len > INT64_MAX - MAX_ALIGN - off ? -EINVAL : 0;
}

int blk_file_read(struct blk_file *f, void *buf, size_t len, uint64_t off)
{
	alignas(MAX_ALIGN) char bounce[BOUNCE];
	char *p = buf;
	int ret = check_range(off, len);

	if (ret < 0)
		return ret;
	if (is_direct_ok(f, buf, len, off))
		return read_aligned(f, buf, len, off);
	while (len) {
		uint64_t from = blk_align_down(off, f->align);
		size_t skip = off - from;
		size_t n = BLK_MIN(len, BOUNCE - skip);

		ret = read_aligned(f, bounce, blk_align_up(skip + n, f->align),
				   from);
		if (ret < 0)
			return ret;
		memcpy(p, bounce + skip, n);
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

/* One bounce buffer of an unaligned write: read, modify, write. */
static int write_bounced(struct blk_file *f, const char *p, size_t n,
			 uint64_t off)
{
	alignas(MAX_ALIGN) char bounce[BOUNCE];
	uint64_t from = blk_align_down(off, f->align);
	size_t skip = off - from;
	size_t len = blk_align_up(skip + n, f->align);
	int ret;

	if (skip || len != skip + n) {
		ret = read_aligned(f, bounce, len, from);
		if (ret < 0)
			return ret;
	}
	memcpy(bounce + skip, p, n);
	return write_aligned(f, bounce, len, from);
}

static int run_hook(struct blk_file *f, enum blk_file_op op, uint64_t off,
		    uint64_t len, const void *data)
{
	return f->hook ? f->hook(f->hook_opaque, op, off, len, data) : 0;
}

int blk_file_write(struct blk_file *f, const void *buf, size_t len,
		   uint64_t off)
{
	const char *p = buf;
	int ret = check_range(off, len);

	if (!ret)
		ret = run_hook(f, BLK_FILE_OP_WRITE, off, len, buf);
	if (ret < 0)
		return ret;
	if (is_direct_ok(f, buf, len, off))
		return write_aligned(f, buf, len, off);
	while (len) {
		size_t skip = off & (f->align - 1);
		size_t n = BLK_MIN(len, BOUNCE - skip);

		ret = write_bounced(f, p, n, off);
		if (ret < 0)
			return ret;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

int blk_file_flush(struct blk_file *f)
{
	int ret = run_hook(f, BLK_FILE_OP_FLUSH, 0, 0, NULL);

	if (ret < 0)
		return ret;
	return fdatasync(f->fd) ? -errno : 0;
}

int blk_file_truncate(struct blk_file *f, uint64_t size)
{
	int ret = f->is_bdev ? -EINVAL : check_range(size, 0);

	if (!ret)
		ret = run_hook(f, BLK_FILE_OP_TRUNCATE, size, 0, NULL);
	if (ret < 0)
		return ret;
	while (ftruncate(f->fd, size))
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int do_fallocate(struct blk_file *f, int mode, uint64_t off,
			uint64_t len)
{
	while (fallocate(f->fd, mode, off, len)) {
		if (errno == EINTR)
			continue;
		return errno == ENOSYS ? -EOPNOTSUPP : -errno;
	}
	return 0;
}

static int write_zeroes(struct blk_file *f, uint64_t off, uint64_t len)
{
	alignas(MAX_ALIGN) char zeroes[BOUNCE] = { 0 };

	while (len) {
		size_t skip = off & (f->align - 1);
		size_t n = BLK_MIN(len, BOUNCE - skip);
		int ret = write_bounced(f, zeroes, n, off);

		if (ret < 0)
			return ret;
		off += n;
		len -= n;
	}
	return 0;
}

/*
 * [off, off+len) inside the file.  Whole file system blocks by fallocate; the
 * rest is written, for the file system would zero it through the page cache.
 */
static int zero_inside(struct blk_file *f, uint64_t off, uint64_t len)
{
	uint64_t end = off + len;
	uint64_t lo = BLK_MIN(blk_align_up(off, f->block), end);
	uint64_t hi = BLK_MAX(blk_align_down(end, f->block), lo);
	int ret = 0;

	if (hi > lo) {
		ret = do_fallocate(f, FALLOC_FL_ZERO_RANGE |
				   FALLOC_FL_KEEP_SIZE, lo, hi - lo);
		if (ret == -EOPNOTSUPP) {
			ret = do_fallocate(f, FALLOC_FL_PUNCH_HOLE |
					   FALLOC_FL_KEEP_SIZE, lo, hi - lo);
			if (!ret)
				ret = do_fallocate(f, FALLOC_FL_KEEP_SIZE, lo,
						   hi - lo);
		}
	}
	if (!ret && lo > off)
		ret = write_zeroes(f, off, lo - off);
	if (!ret && end > hi)
		ret = write_zeroes(f, hi, end - hi);
	return ret;
}

static int zero_bdev(struct blk_file *f, uint64_t off, uint64_t len)
{
	uint64_t range[2] = { off, len };

	if (!ioctl(f->fd, BLKZEROOUT, range))
		return 0;
	return errno == ENOTTY || errno == EINVAL ? -EOPNOTSUPP : -errno;
}

int blk_file_zero(struct blk_file *f, uint64_t off, uint64_t len)
{
	int ret = check_range(off, len);
	uint64_t end = off + len;
	int64_t size;

	if (!ret)
		ret = run_hook(f, BLK_FILE_OP_ZERO, off, len, NULL);
	if (ret < 0)
		return ret;
	if (f->is_bdev)
		return zero_bdev(f, off, len);
	size = blk_file_size(f);
	if (size < 0)
		return (int)size;
	if (end > (uint64_t)size) {
		uint64_t from = BLK_MAX(off, (uint64_t)size);

		ret = do_fallocate(f, 0, from, end - from);
		if (ret < 0 || off >= (uint64_t)size)
			return ret;
		end = size;
	}
	return zero_inside(f, off, end - off);
}

void blk_file_discard(struct blk_file *f, uint64_t off, uint64_t len)
{
	size_t a = f->is_bdev ? f->align : f->block;
	uint64_t lo = blk_align_up(off, a);
	uint64_t hi = blk_align_down(off + len, a);
	uint64_t range[2] = { lo, hi - lo };

	if (check_range(off, len) || hi <= lo ||
	    run_hook(f, BLK_FILE_OP_DISCARD, lo, hi - lo, NULL) < 0)
		return;
	if (f->is_bdev)
		(void)!ioctl(f->fd, BLKDISCARD, range);
	else
		(void)do_fallocate(f, FALLOC_FL_PUNCH_HOLE |
				   FALLOC_FL_KEEP_SIZE, lo, hi - lo);
}
