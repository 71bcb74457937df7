// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Persistent bitmaps before writes that they do not record.
 */
#include "powercut.h"

static bool create(const char *more)
{
	return !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 i.qcow2 64M && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 1M' i.qcow2 >/dev/null && (%s)",
		   more);
}

static int begin(bool invalidate, struct blk_error *e)
{
	struct img i;
	int ret = -EIO;

	if (img_open(&i, "i.qcow2"))
		ret = blk_qcow2_bitmaps_begin(i.q, invalidate, &i.e);
	*e = i.e;
	img_close(&i);
	return ret;
}

/* What QEMU says of the bitmap: its flags, in order */
static bool has_flags(const char *path, const char *name, const char *flags)
{
	return !sh("qemu-img info -U --output=json %s | tr -d ' \\n' | "
		   "sed 's/},{/}\\n{/g' | grep -F '\"name\":\"%s\"' | "
		   "grep -qF '\"flags\":[%s]'", path, name, flags);
}

static void test_none(const char *more, const char *what)
{
	struct blk_error e = { 0 };
	bool ok = create(more) && !sh("cp i.qcow2 before.qcow2") &&
		!begin(false, &e) && !begin(true, &e) &&
		!sh("cmp before.qcow2 i.qcow2");

	ksft_test_result(ok, "nothing to do: %s", what);
}

static void test_recording(void)
{
	struct blk_error e = { 0 };
	bool ok = create("qemu-img bitmap --add i.qcow2 rec && "
			 "qemu-img bitmap --add --disable i.qcow2 old && "
			 "qemu-img bitmap --add -g 512 i.qcow2 rec2 && "
			 "cp i.qcow2 before.qcow2");

	ksft_test_result(ok && begin(false, &e) == -EOPNOTSUPP &&
			 strstr(e.msg, "rec") && e.hint[0] &&
			 !sh("cmp before.qcow2 i.qcow2"), "refused: %s", e.msg);
	ok = ok && !begin(true, &e) && img_has_leaks("i.qcow2", 0) &&
		has_flags("i.qcow2", "rec", "\"in-use\",\"auto\"") &&
		has_flags("i.qcow2", "rec2", "\"in-use\",\"auto\"") &&
		has_flags("i.qcow2", "old", "");
	ksft_test_result(ok, "invalidated, and the others stay");
	ok = ok && !sh("cp i.qcow2 before.qcow2") && !begin(false, &e) &&
		!sh("cmp before.qcow2 i.qcow2");
	ksft_test_result(ok, "and that is all there is to do");
}

static bool state_ok(void *opaque, const char *path, size_t k)
{
	bool off = !sh("test $(dd if=%s bs=1 skip=95 count=1 status=none | od -An -tu1) = 0",
		       path);
	struct img_check c = img_check(path);

	/* trusted means: as before, or each as it should be */
	return (c.rc == 0 || c.rc == 3) && !c.corruptions &&
		(off || has_flags(path, "rec", "\"auto\"") ||
		 has_flags(path, "rec", "\"in-use\",\"auto\"")) &&
		(off || has_flags(path, "old", ""));
}

static bool recovers(void *opaque, const char *path)
{
	struct img i;
	bool was, ok = img_open(&i, path) &&
		!blk_qcow2_bitmaps_begin(i.q, true, &i.e) &&
		!blk_qcow2_mark(i.q, &was, &i.e) && img_scan(&i) >= 0 &&
		img_detach(&i);

	return ok && img_has_leaks(path, 0);
}

static void test_power(void)
{
	struct cut_judge j = { state_ok, recovers, NULL };
	unsigned int states = 0;
	struct img i;
	bool ok = create("qemu-img bitmap --add i.qcow2 rec && "
			 "qemu-img bitmap --add --disable i.qcow2 old && "
			 "cp i.qcow2 base.qcow2") && img_open(&i, "i.qcow2");

	if (ok) {
		i.f->hook = cut_log;
		ok = !blk_qcow2_bitmaps_begin(i.q, true, &i.e);
	}
	img_close(&i);
	ok = ok && n_ops == 6 && cut_replay(&j, 1, &states);
	ksft_test_result(ok, "%u states of %zu writes", states, n_ops);
	cut_forget();
}

int main(void)
{
	img_start_fast();
	test_none(":", "no bitmaps");
	test_none("qemu-img bitmap --add --disable i.qcow2 b", "it does not record");
	test_none("qemu-img bitmap --add i.qcow2 b && printf '\\0' | "
		  "dd of=i.qcow2 bs=1 seek=95 conv=notrunc status=none",
		  "nobody trusts it");
	test_recording();
	test_power();
	ksft_finished();
}
