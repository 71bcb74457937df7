/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the property test share: prop.c chooses operations, io.c
 * does them on a device, model.c knows what they should have done.
 */
#ifndef TESTS_PROP_H
#define TESTS_PROP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR 512u
#define OP_MAX (1u << 20)	/* bytes that an operation with data moves */
#define BATCH_MAX 24

enum op_type {
	OP_READ,
	OP_WRITE,
	OP_FUA,		/* a write that is durable when it ends */
	OP_FLUSH,
	OP_ZEROOUT,	/* BLKZEROOUT */
	OP_PUNCH,	/* fallocate: zeroes, and the space is given up */
	OP_ZERORANGE,	/* fallocate: zeroes, and the space is kept */
	OP_DISCARD,	/* BLKDISCARD */
	OP_TYPES
};

/**
 * struct op - one operation
 * @nr: its number; decides the data of a write, together with the seed
 * @sector, @count: where, in sectors of 512 bytes
 * @buf: page aligned, OP_MAX bytes, for those with data
 * @result: 0 or -errno, once it was done
 */
struct op {
	enum op_type type;
	uint32_t nr;
	uint32_t sector;
	uint32_t count;
	int result;
	void *buf;
};

static inline bool op_has_data(enum op_type type)
{
	return type == OP_READ || type == OP_WRITE || type == OP_FUA;
}

static inline bool op_is_write(enum op_type type)
{
	return type == OP_WRITE || type == OP_FUA;
}

extern const char *const op_names[OP_TYPES];

/* --- rnd: numbers without pattern, the same for the same seed ------------- */

struct rnd {
	uint64_t state;
};

static inline uint64_t rnd_next(struct rnd *r)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* 0 to @n - 1 */
static inline uint64_t rnd_below(struct rnd *r, uint64_t n)
{
	return rnd_next(r) % n;
}

static inline bool rnd_percent(struct rnd *r, unsigned int percent)
{
	return rnd_below(r, 100) < percent;
}

/* --- model: what the device should hold ------------------------------------ */

/**
 * struct model - the content of the device, kept in a raw file
 * @data: the file, mapped
 * @unsure: for each sector, if zeroes are right as well (discarded, and
 *          neither written nor read since)
 */
struct model {
	uint8_t *data;
	uint8_t *unsure;
	uint64_t size;
	uint64_t seed;
	struct op *log;
	size_t logged, log_room;
};

int model_open(struct model *m, const char *path, uint64_t size, uint64_t seed);
/* All that was learned is in the file. */
int model_close(struct model *m);
/* Fills @op->buf with the data of a write. */
void model_fill(const struct model *m, struct op *op);
/* An operation that ended well, of a kind that changes content. */
void model_apply(struct model *m, const struct op *op);
/*
 * Is what a read found right? What it found is what a discarded sector has
 * from now on. If not, says all that is known about it on standard output.
 */
bool model_check(struct model *m, const struct op *op);
bool model_check_bytes(struct model *m, uint64_t offset, const uint8_t *got,
		       size_t bytes, const char *who);

/* --- io: operations on the device ------------------------------------------ */

enum engine {
	ENGINE_THREADS,
	ENGINE_URING,
};

/**
 * struct io - an opened device
 * @unit: its logical block, in sectors
 */
struct io {
	int fd;
	uint64_t size;
	uint32_t unit;
	struct pool *pool;
	struct io_uring *ring;
};

int io_open(struct io *io, const char *path, bool read_only);
void io_close(struct io *io);
/* Does an operation in the calling thread; @op->result says how it went. */
void io_do(struct io *io, struct op *op);
/* All of them at once. */
void io_batch(struct io *io, struct op *ops, size_t n, enum engine engine);
bool io_uring_can(enum op_type type);

#endif
