// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Resizing: sizes, kinds of images, what shows in the new part, what is
 * refused, grants that are outstanding, and power cuts.
 */
#include "powercut.h"

static bool resize(struct img *i, const char *path, uint64_t size,
		   uint64_t backing)
{
	return img_open(i, path) &&
		img_ok(i, blk_qcow2_resize(i->q, size, true, backing, &i->e),
		       "resize") && i->h->size == size;
}

/* Is the image this disk, of this size? */
static bool is_disk(const char *path, const char *raw)
{
	return !sh("qemu-img compare -U -f qcow2 -F raw %s %s >/dev/null && "
		   "test $(qemu-img info -U --output=json %s | "
		   "sed -n 's/.*\"virtual-size\": \\([0-9]*\\).*/\\1/p' | tail -n 1) "
		   "= $(stat -c %%s %s)", path, raw, path, raw);
}

static bool same(const char *path)
{
	return is_disk(path, "want.raw");
}

/* What the guest sees now, with zeroes behind the end or cut off there */
static bool expect(uint64_t size)
{
	return !sh("qemu-img convert -U -f qcow2 -O raw i.qcow2 want.raw && "
		   "truncate -s %llu want.raw", (unsigned long long)size);
}

/* Data everywhere, up to the end */
static bool make(const char *opts, uint64_t size, const char *more)
{
	unsigned long long s = size;

	return !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 %llu && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 %llu' -c 'write -P 2 %llu 512' "
		   "-c 'write -P 3 %llu %llu' i.qcow2 >/dev/null && (%s)",
		   opts, s, BLK_MIN(s, 1ULL << 20), s / 2 & ~511ULL,
		   s - BLK_MIN(s, 70ULL << 10), BLK_MIN(s, 70ULL << 10), more);
}

static bool step(const char *opts, uint64_t to, uint64_t backing)
{
	struct img i;
	bool ok = expect(to) && resize(&i, "i.qcow2", to, backing) &&
		!blk_qcow2_leaked(i.q);

	img_close(&i);
	ok = ok && img_has_leaks("i.qcow2", 0) && same("i.qcow2");
	if (!ok)
		ksft_print_msg("%s: to %llu", opts, (unsigned long long)to);
	return ok;
}

/* Up, down, up again over what was cut off */
static void test_sizes(const char *opts, const char *more)
{
	static const uint64_t sizes[] = {
		20 << 20, (64ULL << 20) + 512, 3 << 20, (3 << 20) + 1024,
		1 << 20, 200ULL << 20, 512, 40 << 20,
	};
	bool ok = make(opts, 16 << 20, more);

	for (size_t k = 0; k < BLK_COUNT(sizes) && ok; k++)
		ok = step(opts, sizes[k], 0);
	ksft_test_result(ok, "sizes: %s; %s", opts, more);
}

/* The snapshot stays what it was. */
static void test_snapshots(const char *opts)
{
	bool ok = make(opts, 16 << 20, "qemu-img snapshot -c a i.qcow2 && "
		       "qemu-io -f qcow2 -c 'write -P 5 15M 64k' i.qcow2 >/dev/null && "
		       "qemu-img snapshot -c b i.qcow2");

	ok = ok && !sh("for s in a b; do qemu-img convert -l $s -f qcow2 -O raw i.qcow2 $s.raw || exit; done");
	ok = ok && step(opts, (16 << 20) - 3000 * 512, 0) &&
		step(opts, 64ULL << 20, 0) && step(opts, 1 << 20, 0) &&
		step(opts, 30 << 20, 0) &&
		!sh("for s in a b; do qemu-img convert -l $s -f qcow2 -O raw i.qcow2 now.raw && "
		    "qemu-img compare -f raw -F raw $s.raw now.raw >/dev/null || exit; done") &&
		!sh("qemu-img snapshot -a a i.qcow2 && "
		    "qemu-img compare -f qcow2 -F raw i.qcow2 a.raw >/dev/null && "
		    "qemu-img snapshot -d a i.qcow2 && qemu-img snapshot -d b i.qcow2") &&
		img_has_leaks("i.qcow2", 0);
	ksft_test_result(ok, "snapshots: %s", opts);
}

/* A backing file that is longer does not show. */
static void test_backing(const char *opts)
{
	bool ok = make(opts, 5 << 20, ":");

	ok = ok && step(opts, 9 << 20, 16 << 20) &&
		step(opts, 40 << 20, 16 << 20) &&
		step(opts, 2 << 20, 16 << 20) && step(opts, 17 << 20, 16 << 20);
	ksft_test_result(ok, "a longer backing file: %s", opts);
}

/* The disk ends inside a cluster (or subcluster) that the backing file fills. */
static void test_backing_tail(void)
{
	struct img i;
	int ret = 0;
	bool ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 "
		      "-b base.raw -F raw i.qcow2 %u && cp i.qcow2 before.qcow2",
		      (5 << 20) + 512) && img_open(&i, "i.qcow2");

	if (ok)
		ret = blk_qcow2_resize(i.q, 9 << 20, false, 16 << 20, &i.e);
	ksft_test_result(ok && ret == -EOPNOTSUPP, "an end inside the backing file: %s",
			 i.e.msg);
	img_close(&i);
	ok = ok && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-io -f qcow2 -c 'write -P 4 5M 512' i.qcow2 >/dev/null") &&
		step("", 9 << 20, 16 << 20);
	ksft_test_result(ok, "and when it is written");
	ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 -o extended_l2=on "
		 "-b base.raw -F raw i.qcow2 %u", (5 << 20) + 6144) &&
		step("extended_l2=on", 9 << 20, 16 << 20);
	ksft_test_result(ok, "an end between subclusters");
	ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 -o extended_l2=on "
		 "-b base.raw -F raw i.qcow2 %u", (5 << 20) + 512) &&
		img_open(&i, "i.qcow2") &&
		blk_qcow2_resize(i.q, 9 << 20, false, 16 << 20, &i.e) ==
		-EOPNOTSUPP;
	img_close(&i);
	ksft_test_result(ok && img_has_leaks("i.qcow2", 0),
			 "an end inside a subcluster");
}

static void refused(const char *opts, const char *more, uint64_t size,
		    uint64_t backing, int err, const char *what)
{
	struct img i;
	int ret = 0;
	bool ok = make(opts, 4 << 20, more) &&
		!sh("cp i.qcow2 before.qcow2") && img_open(&i, "i.qcow2");

	if (ok)
		ret = blk_qcow2_resize(i.q, size, false, backing, &i.e);
	ok = ok && ret == err && i.e.msg[0] && !sh("cmp before.qcow2 i.qcow2");
	ksft_test_result(ok, "refused: %s: %s", what, ok ? i.e.msg : "");
	img_close(&i);
}

static void test_refused(void)
{
	refused("", ":", 4097, 0, -EINVAL, "half a sector");
	refused("", ":", 1 << 20, 0, -EINVAL, "smaller");
	refused("", ":", 1ULL << 62, 0, -EOPNOTSUPP, "too large");
	refused("-o cluster_size=512", ":", 1ULL << 40, 0, -EOPNOTSUPP,
		"an L1 of more than 32 MiB");
	refused("-o compat=0.10", "qemu-img snapshot -c a i.qcow2", 8 << 20, 0,
		-EOPNOTSUPP, "snapshots of version 2");
	refused("", "qemu-img bitmap --add i.qcow2 b0", 8 << 20, 0,
		-EOPNOTSUPP, "bitmaps");
	refused("-o compat=0.10 -b base.raw -F raw", ":", 8 << 20, 16 << 20,
		-EOPNOTSUPP, "a backing file and version 2");
}

/* As under a suspended device: grants are out, new metadata is claimed. */
static void test_attached(const char *opts)
{
	struct img i;
	bool was;
	bool ok = make(opts, 16 << 20, ":") &&
		img_attach(&i, "i.qcow2", &was) && img_grant(&i, 40 * i.cs) &&
		img_write(&i, 2 << 20, 7);

	img_ok(&i, ok ? 0 : -1, "attach");
	ok = ok && img_ok(&i, blk_qcow2_resize(i.q, 600 << 20, false, 0, &i.e),
			  "grow") && i.n_claimed &&
		img_has_leaks("i.qcow2", (long)img_granted(&i)) &&
		img_write(&i, 590 << 20, 8) && img_grant(&i, 10 * i.cs) &&
		img_ok(&i, blk_qcow2_resize(i.q, 3 << 20, true, 0, &i.e),
		       "shrink") &&
		img_has_leaks("i.qcow2", (long)img_granted(&i)) &&
		img_write(&i, 1 << 20, 9) && img_detach(&i);
	ksft_test_result(ok && img_has_leaks("i.qcow2", 0),
			 "attached and suspended: %s", opts);
}

/* The old disk or the new one, whichever the header says */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	struct img_check c = img_check(path);
	bool ok = (c.rc == 0 || c.rc == 3) && !c.corruptions &&
		(is_disk(path, "old.raw") || same(path));

	if (!ok)
		ksft_print_msg("%s: op %zu of %zu: check says %d, %ld corruptions",
			       path, k, n_ops, c.rc, c.corruptions);
	return ok;
}

/* It can be done again, and a scan finds what leaks. */
static bool recovers(void *opaque, const char *path)
{
	uint64_t size = *(uint64_t *)opaque;
	struct img i;
	bool was;
	bool ok = img_open(&i, path) &&
		!blk_qcow2_mark(i.q, &was, &i.e) && img_scan(&i) >= 0 &&
		img_ok(&i, blk_qcow2_resize(i.q, size, true,
					    blk_qcow2_backing_file(i.q) ?
					    16 << 20 : 0, &i.e), "again") &&
		img_detach(&i);

	return ok && img_has_leaks(path, 0) && same(path);
}

static void test_power(const char *opts, const char *more, uint64_t from,
		       uint64_t to, uint64_t backing, size_t each)
{
	struct cut_judge j = { state_ok, recovers, &to };
	unsigned int states = 0;
	struct img i;
	bool ok;

	cut_forget();
	ok = make(opts, from, more) && !sh("cp i.qcow2 base.qcow2") &&
		expect(from) && !sh("mv want.raw old.raw") && expect(to) &&
		img_open(&i, "i.qcow2");
	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, blk_qcow2_resize(i.q, to, true, backing, &i.e),
			    "resize");
	}
	img_close(&i);
	ok = ok && img_has_leaks("i.qcow2", 0) && same("i.qcow2") &&
		cut_replay(&j, each, &states);
	ksft_test_result(ok, "%u states of %zu writes: %s; %s; to %llu", states,
			 n_ops, opts, more, (unsigned long long)to);
}

struct fault {
	long n;		/* changes so far */
	long at;	/* which one fails */
	bool ever;	/* and all after it */
};

static int fail_op(void *opaque, enum blk_file_op op, uint64_t off,
		   uint64_t len, const void *data)
{
	struct fault *f = opaque;
	long n = f->n++;

	return n == f->at || (f->ever && n > f->at) ? -EIO : 0;
}

/* The host fails at one change: no more than leaks, which are known. */
static bool one_fault(uint64_t to, long at, bool ever, bool *over)
{
	struct fault f = { .at = at, .ever = ever };
	struct img i;
	bool ok, leaked = false;
	int ret = 0;

	ok = !sh("cp --sparse=always base.qcow2 w.qcow2") &&
		img_open(&i, "w.qcow2");
	if (ok) {
		i.f->hook = fail_op;
		i.f->hook_opaque = &f;
		ret = blk_qcow2_resize(i.q, to, true, 0, &i.e);
		leaked = blk_qcow2_leaked(i.q);
	}
	img_close(&i);
	*over = f.n <= at;
	ok = ok && state_ok(NULL, "w.qcow2", 0) && (ret || same("w.qcow2")) &&
		(leaked || img_has_leaks("w.qcow2", 0)) &&
		recovers(&to, "w.qcow2");
	if (!ok)
		ksft_print_msg("change %ld%s: %d", at, ever ? ", ever" : "", ret);
	return ok;
}

static void test_faults(const char *opts, const char *more, uint64_t from,
			uint64_t to)
{
	bool over = false;
	bool ok = make(opts, from, more) && !sh("cp i.qcow2 base.qcow2") &&
		expect(from) && !sh("mv want.raw old.raw") && expect(to);
	long k = 0;

	for (; ok && !over; k++)
		ok = one_fault(to, k, false, &over) &&
			one_fault(to, k, true, &over);
	ksft_test_result(ok, "an error at each of %ld changes: %s; to %llu",
			 k - 1, opts, (unsigned long long)to);
}

int main(void)
{
	static const char snap[] = "qemu-img snapshot -c a i.qcow2";
	static const char packed[] =
		"qemu-io -f qcow2 -c 'write -c -P 7 5M 64k' -c 'write -c -P 8 6M 64k' i.qcow2 >/dev/null";

	img_start_fast();
	sh("dd if=/dev/urandom of=base.raw bs=1M count=16 status=none");
	test_sizes("", packed);
	test_sizes("-o cluster_size=512", ":");
	test_sizes("-o cluster_size=4k,refcount_bits=1", ":");
	test_sizes("-o cluster_size=2M,refcount_bits=64", ":");
	test_sizes("-o cluster_size=1k,refcount_bits=64", ":");
	test_sizes("-o compat=0.10", ":");
	test_sizes("-o compat=0.10,cluster_size=512", ":");
	test_sizes("-o extended_l2=on", packed);
	test_sizes("-o extended_l2=on,cluster_size=16k", ":");
	test_snapshots("");
	test_snapshots("-o cluster_size=512");
	test_snapshots("-o extended_l2=on");
	test_backing("-b base.raw -F raw");
	test_backing("-b base.raw -F raw -o cluster_size=512");
	test_backing("-b base.raw -F raw -o extended_l2=on");
	test_backing_tail();
	test_refused();
	test_attached("");
	test_attached("-o cluster_size=512");
	test_attached("-o cluster_size=4k,refcount_bits=64");
	test_power("", snap, (3 << 20) + 512, (600 << 20) + 512, 0, 1);
	test_power("", snap, (9 << 20) + 512, (2 << 20) + 1024, 0, 1);
	test_power("-o cluster_size=512", ":", 1 << 20, 9 << 20, 0, 1);
	test_power("-o cluster_size=4k", snap, 7 << 20, 1 << 20, 0, 1);
	test_power("-o extended_l2=on -b base.raw -F raw", ":", 3 << 20,
		   9 << 20, 16 << 20, 1);
	test_faults("", snap, (3 << 20) + 512, (600 << 20) + 512);
	test_faults("", snap, 5 << 20, 1 << 20);
	test_faults("-o cluster_size=512", ":", 1 << 20, 9 << 20);
	cut_forget();
	ksft_finished();
}
