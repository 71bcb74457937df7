// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A power cut at every write of making, applying and deleting snapshots.
 */
#include "powercut.h"

static int act(struct blk_qcow2 *q, char what, struct blk_error *e)
{
	return what == 'c' ? blk_qcow2_snapshot_create(q, "new", e) :
		what == 'a' ? blk_qcow2_snapshot_apply(q, "one", e) :
		blk_qcow2_snapshot_delete(q, "one", e);
}

static bool is_raw(const char *path, const char *raw)
{
	return !sh("qemu-img compare -U -f qcow2 -F raw %s %s >/dev/null", path, raw);
}

/* The old disk or the new one, and the snapshot that stays */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	struct img_check c = img_check(path);
	bool ok = (c.rc == 0 || c.rc == 3) && !c.corruptions &&
		(is_raw(path, "old.raw") || is_raw(path, "want.raw")) &&
		!sh("qemu-img convert -U -l two -f qcow2 -O raw %s now.raw && cmp -s now.raw two.raw",
		    path);

	if (!ok)
		ksft_print_msg("%s: op %zu of %zu: check says %d, %ld corruptions",
			       path, k, n_ops, c.rc, c.corruptions);
	return ok;
}

static bool recovers(void *opaque, const char *path)
{
	return !sh("qemu-img snapshot -c again %s", path);
}

static void test_cuts(char what, const char *opts)
{
	static const struct cut_judge judge = {
		.state = state_ok, .recovers = recovers,
	};
	unsigned int states = 0;
	struct img i;
	bool ok = !sh("rm -f *.qcow2 *.raw; qemu-img create -q -f qcow2 %s i.qcow2 2M && "
		      "qemu-io -f qcow2 -c 'write -P 1 0 500k' i.qcow2 >/dev/null && "
		      "qemu-img snapshot -c one i.qcow2 && "
		      "qemu-io -f qcow2 -c 'write -P 2 100k 900k' i.qcow2 >/dev/null && "
		      "qemu-img convert -f qcow2 -O raw i.qcow2 two.raw && "
		      "qemu-img snapshot -c two i.qcow2 && "
		      "qemu-io -f qcow2 -c 'write -P 3 64k 64k' i.qcow2 >/dev/null && "
		      "cp i.qcow2 base.qcow2 && "
		      "qemu-img convert -f qcow2 -O raw i.qcow2 old.raw", opts) &&
		img_open(&i, "i.qcow2");

	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, act(i.q, what, &i.e), "change") &&
			img_ok(&i, blk_qcow2_trim(i.q, &i.e), "trim");
		img_close(&i);
	}
	ok = ok && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-img convert -f qcow2 -O raw i.qcow2 want.raw") &&
		cut_replay(&judge, 1, &states);
	ksft_test_result(ok, "power cuts: %c %s: %u states", what, opts, states);
	cut_forget();
}

int main(void)
{
	img_start_fast();
	for (const char *what = "cad"; *what; what++) {
		test_cuts(*what, "");
		test_cuts(*what, "-o cluster_size=512,refcount_bits=8");
	}
	ksft_finished();
}
