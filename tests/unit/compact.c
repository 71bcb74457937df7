// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Compacting: power cuts at every write; disk, snapshot and check are what
 * they were, but for leaks.
 */
#include "powercut.h"

static int compact(struct img *i)
{
	static const struct blk_qcow2_compact how;
	uint64_t moved;

	return blk_qcow2_compact(i->q, &how, &moved, &i->e);
}

struct kind {
	const char *opts;
	const char *more;
	bool snap;
};

static bool make(const struct kind *k)
{
	return !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 4M && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 512k' -c 'write -P 2 1M 256k' "
		   "-c 'write -z 1M 64k' i.qcow2 >/dev/null && (%s) && "
		   "qemu-io -f qcow2 -d unmap -c 'discard 128k 256k' i.qcow2 >/dev/null && "
		   "cp i.qcow2 base.qcow2 && "
		   "qemu-img convert -f qcow2 -O raw i.qcow2 want.raw && "
		   "(! %s || qemu-img convert -f qcow2 -l a -O raw i.qcow2 snap.raw)",
		   k->opts, k->more, k->snap ? "true" : "false");
}

static bool state_ok(void *opaque, const char *path, size_t n)
{
	const struct kind *k = opaque;
	struct img_check c = img_check(path);
	bool ok = (c.rc == 0 || c.rc == 3) && !c.corruptions &&
		!sh("qemu-img compare -U -f qcow2 -F raw %s want.raw >/dev/null",
		    path);

	if (ok && k->snap)
		ok = !sh("qemu-img convert -U -f qcow2 -l a -O raw %s now.raw && "
			 "cmp -s now.raw snap.raw", path);
	if (!ok)
		ksft_print_msg("%s %s: op %zu of %zu: check says %d, %ld corruptions",
			       path, k->opts, n, n_ops, c.rc, c.corruptions);
	return ok;
}

/* It can be done again, and ends as it would have. */
static bool recovers(void *opaque, const char *path)
{
	struct img i;
	bool ok = img_open(&i, path) && img_ok(&i, compact(&i), "again");

	img_close(&i);
	return ok && img_has_leaks(path, 0) && state_ok(opaque, path, 0) &&
		img_size(path) <= img_size("i.qcow2") +
		(img_size("i.qcow2") >> 3);
}

static void test_power(struct kind k, size_t each)
{
	struct cut_judge j = { state_ok, recovers, &k };
	unsigned int states = 0;
	struct img i;
	bool ok;

	cut_forget();
	ok = make(&k) && img_open(&i, "i.qcow2");
	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, compact(&i), "compact");
		img_close(&i);
	}
	ok = ok && img_has_leaks("i.qcow2", 0) && state_ok(&k, "i.qcow2", 0) &&
		img_size("i.qcow2") < img_size("base.qcow2") &&
		cut_replay(&j, each, &states);
	ksft_test_result(ok, "%u states of %zu writes: %s; %s", states, n_ops,
			 k.opts, k.more);
}

int main(void)
{
	static const char snap[] = "qemu-img snapshot -c a i.qcow2; "
		"qemu-io -f qcow2 -c 'write -P 4 64k 128k' i.qcow2 >/dev/null; "
		"qemu-img snapshot -c b i.qcow2; "
		"qemu-io -f qcow2 -c 'write -P 4 0 512k' i.qcow2 >/dev/null; "
		"qemu-img snapshot -c c i.qcow2; qemu-img snapshot -d b i.qcow2";
	static const char packed[] =
		"for i in 32 33 34 35 36; do qemu-io -f qcow2 -c \"write -c -P $i $((i*64))k 64k\" i.qcow2 >/dev/null; done";
	static const char bitmap[] = "qemu-img bitmap --add i.qcow2 b0; "
		"qemu-io -f qcow2 -c 'write -P 4 2M 128k' i.qcow2 >/dev/null";

	img_start_fast();
	test_power((struct kind){ "", ":", false }, 1);
	test_power((struct kind){ "", snap, true }, 1);
	test_power((struct kind){ "-o extended_l2=on", snap, true }, 2);
	test_power((struct kind){ "", packed, false }, 1);
	test_power((struct kind){ "", bitmap, false }, 1);
	test_power((struct kind){ "-o cluster_size=4k", snap, true }, 2);
	test_power((struct kind){ "-o cluster_size=512,refcount_bits=64", ":",
				  false }, 40);
	cut_forget();
	ksft_finished();
}
