// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Operations on a block device, past the page cache: one after the other, or
 * many at once by threads or by io_uring. Knows nothing of what they mean.
 *
 * Locking: the pool's lock protects which operations are left; an operation
 * belongs to the thread that took it, until all of the batch have ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "prop.h"

#define THREADS 6

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t work, done;
	pthread_t threads[THREADS];
	struct io *io;
	struct op *ops;
	size_t next, n, ended;
	bool stop;
};

const char *const op_names[OP_TYPES] = {
	[OP_READ] = "read",
	[OP_WRITE] = "write",
	[OP_FUA] = "write-fua",
	[OP_FLUSH] = "flush",
	[OP_ZEROOUT] = "zeroout",
	[OP_PUNCH] = "punch-hole",
	[OP_ZERORANGE] = "zero-range",
	[OP_DISCARD] = "discard",
};

/* --- one operation ------------------------------------------------------------ */

static int transfer(struct io *io, const struct op *op)
{
	size_t bytes = (size_t)op->count * SECTOR, done = 0;
	off_t at = (off_t)op->sector * SECTOR;

	while (done < bytes) {
		struct iovec iov = { (char *)op->buf + done, bytes - done };
		ssize_t n;

		if (op->type == OP_READ)
			n = preadv2(io->fd, &iov, 1, at + done, 0);
		else
			n = pwritev2(io->fd, &iov, 1, at + done,
				     op->type == OP_FUA ? RWF_DSYNC : 0);
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO;
		done += n;
	}
	return 0;
}

static int range_ioctl(struct io *io, const struct op *op, unsigned long cmd)
{
	uint64_t range[2] = {
		(uint64_t)op->sector * SECTOR, (uint64_t)op->count * SECTOR,
	};

	return ioctl(io->fd, cmd, range) ? -errno : 0;
}

static int fallocate_mode(enum op_type type)
{
	if (type == OP_PUNCH)
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
}

void io_do(struct io *io, struct op *op)
{
	int ret = 0;

	switch (op->type) {
	case OP_READ:
	case OP_WRITE:
	case OP_FUA:
		ret = transfer(io, op);
		break;
	case OP_FLUSH:
		ret = fdatasync(io->fd) ? -errno : 0;
		break;
	case OP_ZEROOUT:
		ret = range_ioctl(io, op, BLKZEROOUT);
		break;
	case OP_DISCARD:
		ret = range_ioctl(io, op, BLKDISCARD);
		break;
	case OP_PUNCH:
	case OP_ZERORANGE:
		ret = fallocate(io->fd, fallocate_mode(op->type),
				(off_t)op->sector * SECTOR,
				(off_t)op->count * SECTOR) ? -errno : 0;
		break;
	case OP_TYPES:
		ret = -EINVAL;
	}
	op->result = ret;
}

/* --- by threads --------------------------------------------------------------- */

static void *pool_thread(void *arg)
{
	struct pool *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->stop) {
		struct op *op;

		if (p->next == p->n) {
			pthread_cond_wait(&p->work, &p->lock);
			continue;
		}
		op = &p->ops[p->next++];
		pthread_mutex_unlock(&p->lock);
		io_do(p->io, op);
		pthread_mutex_lock(&p->lock);
		if (++p->ended == p->n)
			pthread_cond_signal(&p->done);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static int pool_start(struct io *io)
{
	struct pool *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	io->pool = p;
	p->io = io;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->work, NULL);
	pthread_cond_init(&p->done, NULL);
	for (int i = 0; i < THREADS; i++) {
		if (pthread_create(&p->threads[i], NULL, pool_thread, p))
			return -EAGAIN;
	}
	return 0;
}

static void pool_stop(struct pool *p)
{
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->work);
	pthread_mutex_unlock(&p->lock);
	for (int i = 0; i < THREADS; i++)
		pthread_join(p->threads[i], NULL);
	free(p);
}

static void pool_run(struct pool *p, struct op *ops, size_t n)
{
	pthread_mutex_lock(&p->lock);
	p->ops = ops;
	p->n = n;
	p->next = p->ended = 0;
	pthread_cond_broadcast(&p->work);
	while (p->ended < n)
		pthread_cond_wait(&p->done, &p->lock);
	p->n = p->next = 0;
	pthread_mutex_unlock(&p->lock);
}

/* --- by io_uring ----------------------------------------------------------------- */

bool io_uring_can(enum op_type type)
{
	return type != OP_ZEROOUT && type != OP_DISCARD;
}

static void uring_prepare(struct io *io, struct op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(io->ring);
	uint64_t at = (uint64_t)op->sector * SECTOR;
	uint32_t bytes = op->count * SECTOR;

	switch (op->type) {
	case OP_READ:
		io_uring_prep_read(sqe, io->fd, op->buf, bytes, at);
		break;
	case OP_FLUSH:
		io_uring_prep_fsync(sqe, io->fd, IORING_FSYNC_DATASYNC);
		break;
	case OP_PUNCH:
	case OP_ZERORANGE:
		io_uring_prep_fallocate(sqe, io->fd, fallocate_mode(op->type),
					at, bytes);
		break;
	default:
		io_uring_prep_write(sqe, io->fd, op->buf, bytes, at);
		if (op->type == OP_FUA)
			sqe->rw_flags = RWF_DSYNC;
	}
	io_uring_sqe_set_data(sqe, op);
}

static void uring_end(struct io *io, const struct io_uring_cqe *cqe)
{
	struct op *op = io_uring_cqe_get_data(cqe);

	op->result = cqe->res < 0 ? cqe->res : 0;
	/* A short transfer is not an error: do it again, whole. */
	if (op_has_data(op->type) && cqe->res >= 0 &&
	    (uint32_t)cqe->res != op->count * SECTOR)
		io_do(io, op);
}

static void uring_run(struct io *io, struct op *ops, size_t n)
{
	struct io_uring_cqe *cqe;
	int ret;

	for (size_t i = 0; i < n; i++) {
		ops[i].result = -ECANCELED;
		uring_prepare(io, &ops[i]);
	}
	ret = io_uring_submit(io->ring);
	for (int i = 0; i < ret; i++) {
		while (io_uring_wait_cqe(io->ring, &cqe) == -EINTR)
			;
		uring_end(io, cqe);
		io_uring_cqe_seen(io->ring, cqe);
	}
}

void io_batch(struct io *io, struct op *ops, size_t n, enum engine engine)
{
	if (n == 1)
		io_do(io, ops);
	else if (engine == ENGINE_URING && io->ring)
		uring_run(io, ops, n);
	else
		pool_run(io->pool, ops, n);
}

/* --- the device --------------------------------------------------------------- */

int io_open(struct io *io, const char *path, bool read_only)
{
	struct stat st;
	int block;

	*io = (struct io){ .unit = 1 };
	io->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (io->fd < 0 || fstat(io->fd, &st))
		return -errno;
	io->size = st.st_size;
	if (S_ISBLK(st.st_mode)) {
		if (ioctl(io->fd, BLKGETSIZE64, &io->size) ||
		    ioctl(io->fd, BLKSSZGET, &block))
			return -errno;
		io->unit = block / SECTOR;
	}
	io->ring = malloc(sizeof(*io->ring));
	if (io->ring && io_uring_queue_init(BATCH_MAX, io->ring, 0)) {
		free(io->ring);
		io->ring = NULL;
	}
	return pool_start(io);
}

void io_close(struct io *io)
{
	if (io->ring)
		io_uring_queue_exit(io->ring);
	free(io->ring);
	pool_stop(io->pool);
	close(io->fd);
}
