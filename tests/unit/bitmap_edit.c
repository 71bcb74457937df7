// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A power cut at every write of changes of persistent bitmaps.
 */
#include "powercut.h"

static int act(struct blk_qcow2 *q, char what, struct blk_error *e)
{
	static const struct blk_qcow2_bitmap_change first[] = {
		{ .what = BLK_BITMAP_ADD, .granularity = 512 },
		{ .what = BLK_BITMAP_MERGE, .source = "one" },
	}, merge[] = {
		{ .what = BLK_BITMAP_MERGE, .source = "two" },
		{ .what = BLK_BITMAP_DISABLE },
	}, gone = { .what = BLK_BITMAP_REMOVE },
	clear = { .what = BLK_BITMAP_CLEAR };
	static const struct dm_qcow_run runs[] = {
		{ .offset = 600 << 10, .length = 5000 },
		{ .offset = 1 << 20, .length = 1 << 20 },
	};

	switch (what) {
	case 'a':
		return blk_qcow2_bitmaps_change(q, "new", first, 2, e);
	case 'm':
		return blk_qcow2_bitmaps_change(q, "one", merge, 2, e);
	case 'c':
		return blk_qcow2_bitmaps_change(q, "one", &clear, 1, e);
	case 'w':
		return blk_qcow2_bitmaps_record(q, runs, 2, e);
	default:
		return blk_qcow2_bitmaps_change(q, "one", &gone, 1, e) ?:
			blk_qcow2_bitmaps_change(q, "two", &gone, 1, e);
	}
}

/* Bitmaps as they were, as they shall be, or half of two changes */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	struct img_check c = img_check(path);
	bool ok = (c.rc == 0 || c.rc == 3) && !c.corruptions &&
		!sh("qemu-img compare -U -f qcow2 -F raw %s disk.raw >/dev/null", path) &&
		!sh("qemu-img info -U %s | sed -n '/bitmaps:/,/refcount/p' >now; "
		    "cmp -s now old || cmp -s now want || cmp -s now between", path);

	if (!ok)
		ksft_print_msg("%s: op %zu of %zu: check says %d, %ld corruptions",
			       path, k, n_ops, c.rc, c.corruptions);
	return ok;
}

static bool recovers(void *opaque, const char *path)
{
	return !sh("qemu-img bitmap --add %s again", path);
}

static bool list(const char *image, const char *into)
{
	return !sh("qemu-img info %s | sed -n '/bitmaps:/,/refcount/p' >%s",
		   image, into);
}

static void test_cuts(char what, const char *opts, unsigned int step)
{
	static const struct cut_judge judge = {
		.state = state_ok, .recovers = recovers,
	};
	unsigned int states = 0;
	struct img i;
	bool ok = !sh("rm -f *.qcow2 *.raw; qemu-img create -q -f qcow2 %s i.qcow2 2M && "
		      "qemu-img bitmap --add -g 512 i.qcow2 one && "
		      "qemu-io -f qcow2 -c 'write -P 1 0 500k' i.qcow2 >/dev/null && "
		      "qemu-img bitmap --add -g 4k i.qcow2 two && "
		      "qemu-io -f qcow2 -c 'write -P 2 1M 900k' i.qcow2 >/dev/null && "
		      "qemu-img convert -f qcow2 -O raw i.qcow2 disk.raw && "
		      "cp i.qcow2 base.qcow2 && cp i.qcow2 half.qcow2 && "
		      "qemu-img bitmap --remove half.qcow2 one", opts) &&
		list("i.qcow2", "old") && list("half.qcow2", "between") &&
		img_open(&i, "i.qcow2");

	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, act(i.q, what, &i.e), "change") &&
			img_ok(&i, blk_qcow2_trim(i.q, &i.e), "trim");
		img_close(&i);
	}
	ok = ok && img_has_leaks("i.qcow2", 0) && list("i.qcow2", "want") &&
		cut_replay(&judge, step, &states);
	ksft_test_result(ok, "power cuts: %c %s: %u states", what, opts, states);
	cut_forget();
}

int main(void)
{
	img_start_fast();
	for (const char *what = "amcwr"; *what; what++) {
		test_cuts(*what, "", 1);
		test_cuts(*what, "-o cluster_size=512", 2);
	}
	ksft_finished();
}
