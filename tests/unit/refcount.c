// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Refcounts of all widths, and the entries of snapshot table and bitmap
 * directory.
 */
#include "image.h"
#include "qcow2/bitmap.h"
#include "qcow2/refcount.h"
#include "qcow2/snapshot.h"

#define BLOCK 512U

static uint64_t pattern(uint64_t i, uint32_t order)
{
	uint64_t v = (i + 1) * 0x9e3779b97f4a7c15ULL;

	return order == 6 ? v >> 1 : v & blk_refcount_max(order);
}

/* The value at bit level, as the format's text has it */
static uint64_t slow_get(const uint8_t *b, uint32_t order, uint64_t i)
{
	uint32_t bits = 1U << order;
	uint64_t v = 0;

	if (bits < 8)
		return b[i * bits / 8] >> (i * bits % 8) & ((1U << bits) - 1);
	for (uint32_t k = 0; k < bits / 8; k++)
		v = v << 8 | b[i * bits / 8 + k];
	return v;
}

static void test_width(uint32_t order)
{
	uint64_t n = 1ULL << blk_refcount_block_bits(9, order);
	uint8_t b[BLOCK];
	bool ok = true;

	memset(b, 0xa5, sizeof(b));
	for (uint64_t i = 0; i < n; i++)
		blk_refcount_set(b, order, i, pattern(i, order));
	for (uint64_t i = 0; i < n; i++)
		ok &= blk_refcount_get(b, order, i) == pattern(i, order) &&
			slow_get(b, order, i) == pattern(i, order);
	ksft_test_result(ok, "%u bits: get what was set", 1U << order);
	memset(b, 0, sizeof(b));
	ok = blk_refcount_used_end(b, order, n) == 0 &&
		blk_refcount_find(b, order, 0, n, 1) == n &&
		blk_refcount_find(b, order, 3, n, 0) == 3;
	for (uint64_t i = 0; i < n; i++) {
		blk_refcount_set(b, order, i, 1);
		ok &= blk_refcount_find(b, order, 0, n, 1) == i &&
			blk_refcount_find(b, order, i, n, 0) == i + 1 &&
			blk_refcount_used_end(b, order, n) == i + 1 &&
			blk_refcount_used_end(b, order, i) == 0;
		blk_refcount_set(b, order, i, 0);
	}
	ksft_test_result(ok, "%u bits: find one in zeroes", 1U << order);
	memset(b, 0xff, sizeof(b));
	ok = blk_refcount_find(b, order, 0, n, 0) == n;
	for (uint64_t i = 0; i < n; i++) {
		blk_refcount_set(b, order, i, 0);
		ok &= blk_refcount_find(b, order, 0, n, 0) == i &&
			blk_refcount_find(b, order, i, n, 1) == i + 1;
		blk_refcount_set(b, order, i, blk_refcount_max(order));
	}
	ksft_test_result(ok, "%u bits: find zero in ones", 1U << order);
}

static void make_snapshot(uint8_t *b, uint32_t extra)
{
	memset(b, 0, 256);
	blk_put_be64(b, 65536);
	blk_put_be32(b + 8, 2);
	blk_put_be16(b + 12, 1);
	blk_put_be16(b + 14, 4);
	blk_put_be32(b + 32, 7);
	blk_put_be32(b + 36, extra);
	blk_put_be64(b + 40, 1ULL << 33);
	blk_put_be64(b + 48, 1ULL << 30);
	memcpy(b + 40 + extra, "1name", 5);
}

static void test_snapshots(void)
{
	struct qcow2_header h = { .version = 3, .cluster_bits = 16 };
	struct blk_snap s;
	uint8_t b[256];

	make_snapshot(b, 16);
	ksft_test_result(!blk_snap_parse(b, sizeof(b), &h, &s) &&
			 s.bytes == 64 && s.id_len == 1 && s.name_len == 4 &&
			 !memcmp(s.name, "name", 4) &&
			 s.vm_state_size == 1ULL << 33 &&
			 s.disk_size == 1ULL << 30 && s.icount == UINT64_MAX,
			 "a snapshot");
	ksft_test_result(!blk_snap_parse(b, 61, &h, &s), "an exact buffer");
	ksft_test_result(!!blk_snap_parse(b, 60, &h, &s), "a byte less");
	ksft_test_result(!!blk_snap_parse(b, 39, &h, &s), "half an entry");
	make_snapshot(b, 8);
	ksft_test_result(!!blk_snap_parse(b, 256, &h, &s), "short extra data");
	h.version = 2;
	ksft_test_result(!blk_snap_parse(b, 256, &h, &s) &&
			 s.disk_size == UINT64_MAX, "which version 2 may have");
	make_snapshot(b, 16);
	blk_put_be32(b + 36, 1025);
	ksft_test_result(!!blk_snap_parse(b, 256, &h, &s), "long extra data");
	make_snapshot(b, 16);
	blk_put_be64(b, 65536 + 512);
	ksft_test_result(!!blk_snap_parse(b, 256, &h, &s), "an unaligned L1");
	make_snapshot(b, 16);
	blk_put_be32(b + 8, (4U << 20) + 1);
	ksft_test_result(!!blk_snap_parse(b, 256, &h, &s), "a huge L1");
}

static void make_bitmap(uint8_t *b)
{
	memset(b, 0, 64);
	blk_put_be64(b, 65536);
	blk_put_be32(b + 8, 1);
	blk_put_be32(b + 12, BLK_BITMAP_AUTO);
	b[16] = 1;
	b[17] = 16;
	blk_put_be16(b + 18, 2);
	memcpy(b + 24, "b0", 2);
}

static void test_bitmaps(void)
{
	struct qcow2_header h = {
		.version = 3, .cluster_bits = 16, .size = 1ULL << 30,
	};
	static const struct {
		const char *name;
		uint32_t at, bytes;
		uint64_t value;
	} bad[] = {
		{ "an unaligned bitmap table", 0, 8, 512 },
		{ "an empty bitmap table", 8, 4, 0 },
		{ "a huge bitmap table", 8, 4, 0x8000001 },
		{ "a bitmap table of the wrong size", 8, 4, 2 },
		{ "unknown bitmap flags", 12, 4, 8 },
		{ "a bitmap with extra data allowed", 12, 4, 4 },
		{ "an unknown bitmap type", 16, 1, 2 },
		{ "granularity 8", 17, 1, 8 },
		{ "granularity 32", 17, 1, 32 },
		{ "no name", 18, 2, 0 },
		{ "a long name", 18, 2, 1024 },
		{ "extra data", 20, 4, 8 },
	};
	struct blk_bitmap m;
	uint64_t off;
	uint8_t b[64];

	make_bitmap(b);
	ksft_test_result(!blk_bitmap_parse(b, 64, &h, &m) && m.bytes == 32 &&
			 m.granularity_bits == 16 && m.name_len == 2,
			 "a bitmap");
	ksft_test_result(!!blk_bitmap_parse(b, 31, &h, &m), "a cut off one");
	for (size_t i = 0; i < BLK_COUNT(bad); i++) {
		uint8_t be[8];

		make_bitmap(b);
		blk_put_be64(be, bad[i].value);
		memcpy(b + bad[i].at, be + 8 - bad[i].bytes, bad[i].bytes);
		ksft_test_result(!!blk_bitmap_parse(b, 64, &h, &m), "%s",
				 bad[i].name);
	}
	ksft_test_result(!blk_bitmap_table_check(1, &h, &off) && !off,
			 "all ones");
	ksft_test_result(!blk_bitmap_table_check(65536, &h, &off) &&
			 off == 65536, "a data cluster");
	ksft_test_result(!!blk_bitmap_table_check(65537, &h, &off), "both");
	ksft_test_result(!!blk_bitmap_table_check(512, &h, &off), "unaligned");
	ksft_test_result(!!blk_bitmap_table_check(2, &h, &off), "reserved");
}

int main(void)
{
	ksft_print_header();
	for (uint32_t order = 0; order <= 6; order++)
		test_width(order);
	test_snapshots();
	test_bitmaps();
	ksft_finished();
}
