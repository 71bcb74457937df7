// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Header, extensions and features: every field out of range, one by one.
 */
#include "image.h"

#define CS 65536U

/* A valid header cluster, as qemu-img writes it */
static void make_valid(uint8_t *b)
{
	memset(b, 0, CS);
	blk_put_be32(b, QCOW2_MAGIC);
	blk_put_be32(b + 4, 3);
	blk_put_be32(b + 20, 16);
	blk_put_be64(b + 24, 1ULL << 30);
	blk_put_be32(b + 36, 2);
	blk_put_be64(b + 40, 3 * CS);
	blk_put_be64(b + 48, CS);
	blk_put_be32(b + 56, 1);
	blk_put_be32(b + 96, 4);
	blk_put_be32(b + 100, 112);
}

static const char *judge(const uint8_t *b)
{
	struct qcow2_header h;
	const char *why = qcow2_header_decode(b, &h);

	return why ? why : qcow2_header_validate(&h, 4 * CS);
}

/* A field of 4 or 8 bytes, a value, and whether it is valid */
static const struct field {
	const char *name;
	uint32_t at;
	uint32_t bytes;
	uint64_t value;
	bool valid;
} fields[] = {
	{ "magic", 0, 4, 0x514649fa, false },
	{ "version 1", 4, 4, 1, false },
	{ "version 4", 4, 4, 4, false },
	{ "backing name behind the cluster", 8, 8, CS, false },
	{ "backing name far away", 8, 8, UINT64_MAX, false },
	{ "cluster_bits 8", 20, 4, 8, false },
	{ "cluster_bits 22", 20, 4, 22, false },
	{ "cluster_bits huge", 20, 4, UINT32_MAX, false },
	{ "size beyond the L1", 24, 8, (1ULL << 30) + 1, false },
	{ "size 2^62", 24, 8, 1ULL << 62, false },
	{ "size max", 24, 8, UINT64_MAX, false },
	{ "size 0", 24, 8, 0, true },
	{ "crypt_method 3", 32, 4, 3, false },
	{ "l1_size too small", 36, 4, 1, false },
	{ "l1_size too large", 36, 4, (4U << 20) + 1, false },
	{ "l1_size max", 36, 4, UINT32_MAX, false },
	{ "l1 at 0", 40, 8, 0, false },
	{ "l1 unaligned", 40, 8, 3 * CS + 512, false },
	{ "l1 behind the file", 40, 8, 4 * CS, false },
	{ "l1 at 2^56", 40, 8, 1ULL << 56, false },
	{ "refcount table at 0", 48, 8, 0, false },
	{ "refcount table unaligned", 48, 8, CS + 8, false },
	{ "refcount table behind the file", 48, 8, 4 * CS, false },
	{ "refcount table at 2^63", 48, 8, 1ULL << 63, false },
	{ "no refcount table", 56, 4, 0, false },
	{ "refcount table of 8 MiB", 56, 4, 128, true },
	{ "refcount table larger than 8 MiB", 56, 4, 129, false },
	{ "refcount table max", 56, 4, UINT32_MAX, false },
	{ "too many snapshots", 60, 4, 65537, false },
	{ "snapshots without a table", 60, 4, 1, false },
	{ "unknown incompatible bit 5", 72, 8, 1 << 5, false },
	{ "unknown incompatible bit 63", 72, 8, 1ULL << 63, false },
	{ "compression bit without a type", 72, 8, 1 << 3, false },
	{ "dirty", 72, 8, 1, true },
	{ "unknown compatible bits", 80, 8, UINT64_MAX, true },
	{ "unknown autoclear bits", 88, 8, UINT64_MAX, true },
	{ "refcount_order 7", 96, 4, 7, false },
	{ "refcount_order 0", 96, 4, 0, true },
	{ "header_length 96", 100, 4, 96, false },
	{ "header_length 105", 100, 4, 105, false },
	{ "header_length 104", 100, 4, 104, true },
	{ "header_length of a cluster", 100, 4, CS, true },
	{ "header_length larger", 100, 4, CS + 8, false },
	{ "compression type 2", 104, 4, 2U << 24, false },
	{ "zstd without its bit", 104, 4, 1U << 24, false },
};

static void test_fields(uint8_t *b)
{
	make_valid(b);
	ksft_test_result(!judge(b), "a valid header");
	for (size_t i = 0; i < BLK_COUNT(fields); i++) {
		const struct field *f = &fields[i];

		make_valid(b);
		if (f->bytes == 8)
			blk_put_be64(b + f->at, f->value);
		else
			blk_put_be32(b + f->at, (uint32_t)f->value);
		ksft_test_result(!judge(b) == f->valid, "%s", f->name);
	}
}

static void test_combinations(uint8_t *b)
{
	make_valid(b);
	blk_put_be64(b + 8, CS - 10);
	blk_put_be32(b + 16, 10);
	ksft_test_result(!judge(b), "a backing name up to the cluster's end");
	blk_put_be32(b + 16, 11);
	ksft_test_result(!!judge(b), "a backing name across the cluster's end");
	blk_put_be64(b + 8, 4096);
	blk_put_be32(b + 16, 1024);
	ksft_test_result(!!judge(b), "a backing name of 1024 bytes");
	make_valid(b);
	blk_put_be64(b + 72, QCOW2_INCOMPAT_EXTL2);
	blk_put_be32(b + 36, 4);
	ksft_test_result(!judge(b), "extended L2 entries");
	blk_put_be32(b + 20, 13);
	ksft_test_result(!!judge(b), "extended L2 entries in 8K clusters");
	make_valid(b);
	blk_put_be32(b + 60, 1);
	blk_put_be64(b + 64, 2 * CS);
	ksft_test_result(!judge(b), "a snapshot table");
	blk_put_be64(b + 64, 2 * CS + 512);
	ksft_test_result(!!judge(b), "an unaligned snapshot table");
}

static const char *parse(const uint8_t *b, struct blk_ext_info *x)
{
	struct qcow2_header h;
	const char *why = qcow2_header_decode(b, &h);

	return why ? why : blk_ext_parse(b, CS, &h, x);
}

static void test_extensions(uint8_t *b)
{
	struct blk_ext_info x;
	uint8_t *p = b + 112;

	make_valid(b);
	ksft_test_result(!parse(b, &x) && x.end == 112 && x.has_end,
			 "no extensions");
	blk_put_be32(p, QCOW2_EXT_BACKING_FORMAT);
	blk_put_be32(p + 4, 5);
	memcpy(p + 8, "qcow2", 5);
	blk_put_be32(p + 16, 0x12345678);
	blk_put_be32(p + 20, 0);
	blk_ext_emit_in_use(p + 24);
	ksft_test_result(!parse(b, &x) && x.backing_format.len == 5 &&
			 x.in_use == 136 && x.in_use_last && x.in_use_set &&
			 x.end == 152, "three extensions, the mark last");
	blk_put_be32(b + 152 + 4, CS - 152 - 8);
	ksft_test_result(!parse(b, &x) && x.has_end,
			 "the end has a length up to the cluster's end");
	blk_put_be32(b + 152 + 4, CS - 152 - 7);
	ksft_test_result(!!parse(b, &x), "the end has a length beyond it");
	blk_put_be32(b + 152 + 4, 0);
	blk_put_be32(p + 32, 0);
	ksft_test_result(!parse(b, &x) && x.in_use && !x.in_use_set,
			 "a mark that was withdrawn in place");
	blk_put_be32(p + 4, CS - 112 - 8);
	ksft_test_result(!parse(b, &x) && x.end == CS && !x.has_end,
			 "an extension up to the cluster's end");
	blk_put_be32(p + 4, CS - 112 - 7);
	ksft_test_result(!!parse(b, &x), "an extension beyond it");
	blk_put_be32(p + 4, UINT32_MAX);
	ksft_test_result(!!parse(b, &x), "an extension of 4 GiB");
	make_valid(b);
	blk_put_be64(b + 8, 104);
	ksft_test_result(!!parse(b, &x), "a backing name inside the header");
}

static void make_bitmaps(uint8_t *b, uint32_t n, uint64_t size, uint64_t off)
{
	make_valid(b);
	blk_put_be32(b + 112, QCOW2_EXT_BITMAPS);
	blk_put_be32(b + 116, 24);
	blk_put_be32(b + 120, n);
	blk_put_be64(b + 128, size);
	blk_put_be64(b + 136, off);
}

static void test_ext_values(uint8_t *b)
{
	struct blk_ext_info x;

	make_bitmaps(b, 1, 64, CS);
	ksft_test_result(!parse(b, &x) && x.has_bitmaps, "bitmaps");
	blk_put_be32(b + 116, 25);
	ksft_test_result(!!parse(b, &x), "bitmaps of 25 bytes");
	make_bitmaps(b, 0, 64, CS);
	ksft_test_result(!!parse(b, &x), "no bitmaps");
	make_bitmaps(b, 65536, 64, CS);
	ksft_test_result(!!parse(b, &x), "too many bitmaps");
	make_bitmaps(b, 1, 65535 * 1024 + 1, CS);
	ksft_test_result(!!parse(b, &x), "a directory that is too large");
	make_bitmaps(b, 1, 64, CS + 1);
	ksft_test_result(!!parse(b, &x), "an unaligned directory");
	make_bitmaps(b, 1, 64, CS);
	blk_put_be32(b + 124, 1);
	ksft_test_result(!!parse(b, &x), "reserved bytes of bitmaps");
	make_valid(b);
	blk_put_be32(b + 112, QCOW2_EXT_CRYPTO);
	blk_put_be32(b + 116, 16);
	blk_put_be64(b + 120, CS);
	blk_put_be64(b + 128, CS);
	ksft_test_result(!!parse(b, &x), "LUKS without encryption");
	blk_put_be32(b + 32, QCOW2_CRYPT_LUKS);
	ksft_test_result(!parse(b, &x) && x.has_crypto, "LUKS");
	blk_put_be64(b + 120, 0);
	ksft_test_result(!!parse(b, &x), "LUKS header at 0");
}

static void test_feature_names(uint8_t *b)
{
	struct blk_ext_info x;
	char names[256], small[8];

	make_valid(b);
	blk_put_be32(b + 112, QCOW2_EXT_FEATURE_TABLE);
	blk_put_be32(b + 116, 2 * 48);
	b[120] = 0;
	b[121] = 40;
	strcpy((char *)b + 122, "time travel\n");
	b[168] = 2;
	b[169] = 41;
	memset(b + 170, 'x', 46);
	ksft_test_result(!parse(b, &x) && x.features.len == 96,
			 "a feature name table");
	blk_ext_feature_names(b, &x, BLK_FEATURE_INCOMPATIBLE,
			      1ULL << 40 | 1ULL << 41, names, sizeof(names));
	ksft_test_result(!strcmp(names, "time travel?, bit 41"),
			 "unknown features by name: %s", names);
	blk_ext_feature_names(b, &x, BLK_FEATURE_AUTOCLEAR, 1ULL << 41, names,
			      sizeof(names));
	ksft_test_result(strlen(names) == 46, "a name without a nul");
	blk_ext_feature_names(b, &x, BLK_FEATURE_INCOMPATIBLE, UINT64_MAX,
			      small, sizeof(small));
	ksft_test_result(strlen(small) == 7, "a buffer that is too small");
}

static void test_emit(uint8_t *b)
{
	uint8_t copy[QCOW2_HEADER_MIN_READ] = { 0 };
	struct qcow2_header h;

	make_valid(b);
	qcow2_header_decode(b, &h);
	blk_header_emit(&h, copy);
	ksft_test_result(!memcmp(b, copy, sizeof(copy)),
			 "decode and emit, version 3");
	blk_put_be32(b + 4, 2);
	memset(b + 72, 0x5a, 40);
	memset(copy + 72, 0x5a, 40);
	qcow2_header_decode(b, &h);
	blk_header_emit(&h, copy);
	ksft_test_result(!memcmp(b, copy, sizeof(copy)),
			 "decode and emit, version 2 leaves the rest alone");
}

int main(void)
{
	uint8_t *b = malloc(CS);

	ksft_print_header();
	test_fields(b);
	test_combinations(b);
	test_extensions(b);
	test_ext_values(b);
	test_feature_names(b);
	test_emit(b);
	free(b);
	ksft_finished();
}
