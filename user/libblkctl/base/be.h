/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Big-endian numbers at any address, and the arithmetic of alignment.
 */
#ifndef BLK_BASE_BE_H
#define BLK_BASE_BE_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BLK_MIN(a, b) ((a) < (b) ? (a) : (b))
#define BLK_MAX(a, b) ((a) > (b) ? (a) : (b))
#define BLK_COUNT(a) (sizeof(a) / sizeof((a)[0]))

static inline uint16_t blk_get_be16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return be16toh(v);
}

static inline uint32_t blk_get_be32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return be32toh(v);
}

static inline uint64_t blk_get_be64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return be64toh(v);
}

static inline void blk_put_be16(void *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static inline void blk_put_be32(void *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static inline void blk_put_be64(void *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

/* @a is a power of two; the caller makes sure that up does not overflow */
static inline uint64_t blk_align_down(uint64_t v, uint64_t a)
{
	return v & ~(a - 1);
}

static inline uint64_t blk_align_up(uint64_t v, uint64_t a)
{
	return (v + a - 1) & ~(a - 1);
}

/* Rounded up; @b is not 0 */
static inline uint64_t blk_div_up(uint64_t a, uint64_t b)
{
	return a / b + !!(a % b);
}

/* Are all bytes zeroes?  Of none they are. */
static inline bool blk_is_zero(const void *buf, size_t len)
{
	const uint8_t *p = buf;

	return !len || (!*p && !memcmp(p, p + 1, len - 1));
}

#endif
