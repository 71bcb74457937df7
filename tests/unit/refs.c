// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reference counts in memory: of any width, and those of several threads
 * together.
 */
#include <errno.h>

#include "fmt/qcow2_check_int.h"
#include "ksft.h"

#define CLUSTERS	(3 * BLK_REFS_PAGE + 100)

static const uint64_t values[] = {
	0, 1, 2, 127, 128, 254, 255, 256, 65535, 65536, UINT32_MAX, 1ULL << 40,
};

#define N_VALUES	(sizeof(values) / sizeof(*values))

/* All pairs of values, in the page from @base on; the rest of it counts once */
static bool fill(struct blk_refs *r, uint64_t base, bool second, uint64_t most)
{
	bool ok = true;

	for (uint64_t i = 0; i < N_VALUES * N_VALUES; i++) {
		uint64_t v = values[second ? i % N_VALUES : i / N_VALUES];

		if (v && v <= most)
			ok &= !blk_refs_add(r, base + i, v);
	}
	return ok && !blk_refs_add_run(r, base + 1000, 100, 1);
}

static bool is_sum(const struct blk_refs *r, uint64_t base, uint64_t most)
{
	bool ok = blk_refs_get(r, base + 1050) == 2 &&
		!blk_refs_get(r, base + 2000);

	for (uint64_t i = 0; i < N_VALUES * N_VALUES; i++) {
		uint64_t x = values[i / N_VALUES], y = values[i % N_VALUES];

		ok &= blk_refs_get(r, base + i) ==
			(x <= most ? x : 0) + (y <= most ? y : 0);
	}
	return ok;
}

/* Small and wide pages, one that only the first has, one that only the other */
static void test_merge(uint64_t most)
{
	struct blk_refs a = { 0 }, b = { 0 };
	bool ok = !blk_refs_init(&a, CLUSTERS) && !blk_refs_init(&b, CLUSTERS) &&
		fill(&a, 0, false, most) && fill(&b, 0, true, most) &&
		!blk_refs_add(&a, BLK_REFS_PAGE + 7, 3) &&
		!blk_refs_add(&b, 2 * BLK_REFS_PAGE + 8, 300) &&
		!blk_refs_add(&b, CLUSTERS - 1, 9) &&
		!blk_refs_merge(&a, &b);

	ok = ok && is_sum(&a, 0, most) && !b.page &&
		blk_refs_get(&a, BLK_REFS_PAGE + 7) == 3 &&
		blk_refs_get(&a, 2 * BLK_REFS_PAGE + 8) == 300 &&
		blk_refs_get(&a, CLUSTERS - 1) == 9 &&
		blk_refs_end(&a) == CLUSTERS;
	blk_refs_free(&a);
	blk_refs_free(&b);
	ksft_test_result(ok, "merge: counts up to %llu",
			 (unsigned long long)most);
}

static void test_small(void)
{
	struct blk_refs a = { 0 };
	bool ok = !blk_refs_init(&a, CLUSTERS) &&
		!blk_refs_add_run(&a, BLK_REFS_PAGE - 5, 10, 2);
	const uint8_t *p = blk_refs_small(&a, 17);

	ok = ok && p && p[BLK_REFS_PAGE - 6] == 0 && p[BLK_REFS_PAGE - 5] == 2;
	p = blk_refs_small(&a, BLK_REFS_PAGE);
	ok = ok && p && p[4] == 2 && p[5] == 0;
	p = blk_refs_small(&a, 2 * BLK_REFS_PAGE);
	ok = ok && p && !p[0] && !p[BLK_REFS_PAGE - 1];
	ok = ok && !blk_refs_add(&a, 3, 1000) && !blk_refs_small(&a, 4) &&
		blk_refs_small(&a, CLUSTERS + BLK_REFS_PAGE);
	ok = ok && blk_refs_add_run(&a, CLUSTERS - 1, 2, 1) == -ERANGE;
	blk_refs_free(&a);
	ksft_test_result(ok, "pages of small counts");
}

int main(void)
{
	ksft_print_header();
	test_merge(100);
	test_merge(255);
	test_merge(65535);
	test_merge(UINT64_MAX);
	test_small();
	ksft_finished();
}
