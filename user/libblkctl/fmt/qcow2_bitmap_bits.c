// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The bits of persistent bitmaps: loaded as they are needed, cleared, merged.
 *
 * Owns nothing; must not write.  Locking: the caller holds the image's lock.
 *
 * Bit i is bit i % 8, from the least significant one, of byte i / 8.  Bits
 * behind the disk's end mean nothing.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_bitmap_int.h"

#define ALL_ONES	1ULL	/* entry of a table, without a cluster */

static uint64_t bits_of(const struct blk_qcow2 *q, uint8_t granularity_bits)
{
	uint64_t mask = (1ULL << granularity_bits) - 1;

	return (q->h.size >> granularity_bits) + !!(q->h.size & mask);
}

uint64_t blk_bm_clusters(const struct blk_qcow2 *q, uint8_t granularity_bits)
{
	uint64_t bytes = (bits_of(q, granularity_bits) + 7) / 8;

	return blk_align_up(bytes, q->cs) >> q->h.cluster_bits;
}

int blk_bm_init(struct blk_bm *b, const struct blk_bitmap *from)
{
	*b = (struct blk_bm){
		.name = malloc(from->name_len),
		.name_len = from->name_len,
		.granularity_bits = from->granularity_bits,
		.flags = from->flags,
		.table = from->table_offset,
		.n = from->table_size,
	};
	if (!b->name)
		return -ENOMEM;
	memcpy(b->name, from->name, from->name_len);
	return 0;
}

static void forget_data(struct blk_bm *b)
{
	for (uint64_t i = 0; b->data && i < b->n; i++) {
		free(b->data[i]);
		b->data[i] = NULL;
	}
}

void blk_bm_free(struct blk_bm *b)
{
	forget_data(b);
	free(b->name);
	free(b->old);
	free(b->entry);
	free(b->data);
	*b = (struct blk_bm){ 0 };
}

static int check_table(struct blk_qcow2 *q, struct blk_bm *b,
		       struct blk_error *e)
{
	for (uint64_t i = 0; i < b->n; i++) {
		uint64_t off;
		const char *why;

		b->old[i] = be64toh(b->old[i]);
		why = blk_bitmap_table_check(b->old[i], &q->h, &off);
		if (why)
			return blk_q_corrupt(q, e, why);
		b->entry[i] = b->old[i];
	}
	return 0;
}

int blk_bm_load(struct blk_qcow2 *q, struct blk_bm *b, struct blk_error *e)
{
	int ret = 0;

	if (b->old)
		return 0;
	b->old = calloc(b->n + 1, sizeof(*b->old));
	b->entry = calloc(b->n + 1, sizeof(*b->entry));
	b->data = calloc(b->n + 1, sizeof(*b->data));
	if (!b->old || !b->entry || !b->data)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	if (b->table)
		ret = blk_file_read(q->f, b->old, b->n * 8, b->table);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read a bitmap table");
	return check_table(q, b, e);
}

void blk_bm_clear(struct blk_bm *b)
{
	forget_data(b);
	memset(b->entry, 0, b->n * sizeof(*b->entry));
}

bool blk_bm_is_zero(const uint8_t *data, uint64_t len)
{
	return !data[0] && !memcmp(data, data + 1, len - 1);
}

/* What the entry says, into @buf */
static int read_cluster(struct blk_qcow2 *q, uint64_t entry, uint8_t *buf)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;

	if (off)
		return blk_file_read(q->f, buf, q->cs, off);
	memset(buf, entry & ALL_ONES ? 0xff : 0, q->cs);
	return 0;
}

/* A cluster of bits, in memory, to be changed */
static int get_cluster(struct blk_qcow2 *q, struct blk_bm *b, uint64_t i)
{
	int ret;

	if (b->data[i])
		return 0;
	if (posix_memalign((void **)&b->data[i], 4096, BLK_MAX(q->cs, 4096U))) {
		b->data[i] = NULL;
		return -ENOMEM;
	}
	ret = read_cluster(q, b->entry[i], b->data[i]);
	if (ret < 0) {
		free(b->data[i]);
		b->data[i] = NULL;
	}
	return ret;
}

/* Bits [from, to) of one cluster */
static void set_in(uint8_t *p, uint64_t from, uint64_t to)
{
	uint64_t lo = from / 8, hi = to / 8;
	uint8_t first = (uint8_t)(0xffU << (from % 8));
	uint8_t last = (uint8_t)((1U << (to % 8)) - 1);

	if (lo == hi) {
		p[lo] |= first & last;
		return;
	}
	p[lo] |= first;
	memset(p + lo + 1, 0xff, hi - lo - 1);
	if (last)
		p[hi] |= last;
}

static int set_bits(struct blk_qcow2 *q, struct blk_bm *b, uint64_t from,
		    uint64_t to)
{
	uint64_t per = q->cs * 8;

	while (from < to) {
		uint64_t i = from / per, end = BLK_MIN(to, (i + 1) * per);
		int ret = get_cluster(q, b, i);

		if (ret < 0)
			return ret;
		set_in(b->data[i], from - i * per, end - i * per);
		from = end;
	}
	return 0;
}

int blk_bm_record(struct blk_qcow2 *q, struct blk_bm *b, uint64_t off,
		  uint64_t len)
{
	return set_bits(q, b, off >> b->granularity_bits,
			((off + len - 1) >> b->granularity_bits) + 1);
}

/* The first bit from @i on that is @on, or @end */
static uint64_t next_bit(const uint8_t *p, uint64_t i, uint64_t end, bool on)
{
	uint8_t skip = on ? 0 : 0xff;

	while (i < end) {
		if (!(i % 8) && p[i / 8] == skip)
			i += 8;
		else if (!!(p[i / 8] & 1U << (i % 8)) == on)
			break;
		else
			i++;
	}
	return BLK_MIN(i, end);
}

/* The run of bits [from, to) of @f, in @t's granularity */
static int merge_run(struct blk_qcow2 *q, struct blk_bm *t,
		     const struct blk_bm *f, uint64_t from, uint64_t to)
{
	uint64_t lo = from << f->granularity_bits;
	uint64_t hi = BLK_MIN(to << f->granularity_bits, q->h.size);

	return blk_bm_record(q, t, lo, hi - lo);
}

static int merge_cluster(struct blk_qcow2 *q, struct blk_bm *t,
			 const struct blk_bm *f, const uint8_t *buf,
			 uint64_t base, uint64_t bits)
{
	uint64_t i = next_bit(buf, 0, bits, true);
	int ret = 0;

	while (i < bits && !ret) {
		uint64_t end = next_bit(buf, i, bits, false);

		ret = merge_run(q, t, f, base + i, base + end);
		i = next_bit(buf, end, bits, true);
	}
	return ret;
}

int blk_bm_merge(struct blk_qcow2 *q, struct blk_bm *to, struct blk_qcow2 *fq,
		 const struct blk_bm *from, struct blk_error *e)
{
	uint64_t per = fq->cs * 8, all = bits_of(fq, from->granularity_bits);
	uint8_t *buf;
	int ret = 0;

	if (posix_memalign((void **)&buf, 4096, BLK_MAX(fq->cs, 4096U)))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	for (uint64_t i = 0; i < from->n && i * per < all && !ret; i++) {
		const uint8_t *bits = from->data[i];

		if (!bits && !from->entry[i])
			continue;
		if (!bits) {
			ret = read_cluster(fq, from->entry[i], buf);
			if (ret < 0)
				blk_q_io_error(fq, e, ret, "read a bitmap");
			bits = buf;
		}
		if (ret < 0)
			break;
		ret = merge_cluster(q, to, from, bits, i * per,
				    BLK_MIN(per, all - i * per));
		if (ret < 0)
			blk_q_io_error(q, e, ret, "read a bitmap");
	}
	free(buf);
	return ret;
}
