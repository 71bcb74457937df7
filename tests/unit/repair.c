// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Repairing dirty images: killed ones of QEMU's, and such with wrong refcounts,
 * COPIED bits and refcount tables; power cuts in between; what is refused.
 */
#include "powercut.h"
#include "qcow2/refcount.h"

#define HEADER_INCOMPAT_AT	72

static unsigned int seed = 1;

static unsigned int dice(unsigned int n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 16) % n;
}

static bool same_as_before(const char *path)
{
	return !sh("qemu-img compare -U -f qcow2 -F raw %s want.raw >/dev/null",
		   path);
}

static bool keep_content(void)
{
	return !sh("qemu-img convert -U -f qcow2 -O raw i.qcow2 want.raw");
}

static bool repair(struct img *i, const char *path, bool *repaired)
{
	return img_open(i, path) &&
		img_ok(i, blk_qcow2_can_attach(i->q, true, &i->e),
		       "can_attach") &&
		img_ok(i, blk_qcow2_repair(i->q, repaired, &i->e), "repair");
}

static bool is_dirty(struct img *i)
{
	return img_be64(i, HEADER_INCOMPAT_AT) & QCOW2_INCOMPAT_DIRTY;
}

static void set_dirty(struct img *i)
{
	img_put_be64(i, HEADER_INCOMPAT_AT,
		     img_be64(i, HEADER_INCOMPAT_AT) | QCOW2_INCOMPAT_DIRTY);
}

/* Repaired, clean, the same content, and of use afterwards */
static bool repairs(const char *path)
{
	struct img i;
	bool did = false, was = true, ok;

	ok = repair(&i, path, &did) && did && !is_dirty(&i);
	img_close(&i);
	ok = ok && img_has_leaks(path, 0) && same_as_before(path);
	ok = ok && repair(&i, path, &did) && !did &&
		img_ok(&i, blk_qcow2_pad(i.q, true, &i.e), "pad") &&
		img_ok(&i, blk_qcow2_mark(i.q, &was, &i.e), "mark") && !was &&
		img_grant(&i, 5 * i.cs) && img_detach(&i);
	return ok && img_has_leaks(path, 0) && same_as_before(path);
}

/* QEMU dies while refcounts are only in its memory. */
static void test_killed(const char *opts, const char *before)
{
	bool ok = !sh("rm -f *.qcow2; "
		      "qemu-img create -q -f qcow2 -o lazy_refcounts=on%s i.qcow2 64M && "
		      "qemu-io -f qcow2 -c 'write -P 1 0 2M' i.qcow2 >/dev/null && "
		      "(%s) >/dev/null && "
		      "qemu-io -f qcow2 -c 'write -P 2 1M 3M' -c 'discard 64k 64k' "
		      "-c 'write -P 3 20M 100k' -c flush -c abort i.qcow2 >/dev/null 2>&1; "
		      "test -s i.qcow2", opts, before);
	struct img i;

	ok = ok && keep_content() && img_open(&i, "i.qcow2");
	ok = ok && is_dirty(&i);
	img_close(&i);
	ksft_test_result(ok && repairs("i.qcow2"), "killed: lazy_refcounts=on%s; %s",
			 opts, before);
}

/* Every fourth refcount of every block becomes something else. */
static bool plant_refcounts(struct img *i)
{
	uint32_t order = i->h->refcount_order;
	uint64_t n = 1ULL << blk_refcount_block_bits(i->h->cluster_bits, order);
	uint64_t table = i->h->refcount_table_offset;
	uint8_t *b = malloc(i->cs);
	bool ok = true;

	for (uint64_t k = 0; k < i->cs / 8 && ok; k++) {
		uint64_t off = img_be64(i, table + k * 8);

		if (!off)
			continue;
		ok = !blk_file_read(i->f, b, i->cs, off);
		for (uint64_t c = 0; c < BLK_MIN(n, 3000U); c++)
			if (!dice(4))
				blk_refcount_set(b, order, c,
						 dice(1U << BLK_MIN(1U << order, 3U)));
		ok = ok && !blk_file_write(i->f, b, i->cs, off);
	}
	free(b);
	return ok;
}

/* Every third entry of the active tables changes its COPIED bit. */
static void plant_copied(struct img *i)
{
	uint64_t step = i->h->incompatible_features & QCOW2_INCOMPAT_EXTL2 ?
		16 : 8;

	for (uint32_t k = 0; k < i->h->l1_size; k++) {
		uint64_t at = i->h->l1_table_offset + k * 8;
		uint64_t l1 = img_be64(i, at);
		uint64_t l2 = l1 & QCOW2_OFFSET_MASK;

		if (!l2)
			continue;
		for (uint64_t o = 0; o < BLK_MIN(i->cs, 4096U); o += step) {
			uint64_t e = img_be64(i, l2 + o);

			if (e & QCOW2_OFFSET_MASK && !dice(3) &&
			    !(e & QCOW2_L2_COMPRESSED))
				img_put_be64(i, l2 + o, e ^ QCOW2_ENTRY_COPIED);
		}
		if (!dice(3))
			img_put_be64(i, at, l1 ^ QCOW2_ENTRY_COPIED);
	}
}

static bool make(const char *opts, const char *more)
{
	return !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 -o compat=1.1%s i.qcow2 64M && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 600k' -c 'write -P 2 9M 300k' "
		   "-c 'discard 128k 64k' -c 'write -z 256k 64k' i.qcow2 >/dev/null && (%s)",
		   opts, more) && keep_content();
}

static void test_planted(const char *opts, const char *more)
{
	struct img i;
	bool ok = make(opts, more) && img_open(&i, "i.qcow2");

	if (ok) {
		set_dirty(&i);
		ok = plant_refcounts(&i);
		plant_copied(&i);
	}
	img_close(&i);
	ok = ok && repairs("i.qcow2");
	ksft_test_result(ok, "wrong refcounts and COPIED bits%s; %s", opts,
			 more);
}

/* The refcount table has lost an entry, or ends too early. */
static void test_table(const char *opts, bool shorter)
{
	struct img i;
	uint8_t be[4];
	bool ok = make(opts, shorter ?
		       "qemu-io -f qcow2 -c 'write -P 3 10M 4M' i.qcow2 >/dev/null" :
		       ":") && keep_content() && img_open(&i, "i.qcow2");

	if (ok && shorter) {
		ok = i.h->refcount_table_clusters > 1;
		blk_put_be32(be, 1);
		ok = ok && !blk_file_write(i.f, be, 4, 56);
	} else if (ok) {
		img_put_be64(&i, i.h->refcount_table_offset, 0);
	}
	if (ok)
		set_dirty(&i);
	img_close(&i);
	ksft_test_result(ok && repairs("i.qcow2"), "a refcount table that %s%s",
			 shorter ? "is too short" : "misses a block", opts);
}

/* Refused, with words, and not one byte is changed */
static void test_refused(const char *what, uint64_t l1_entry, uint64_t l2_entry)
{
	struct img i;
	bool did = true;
	int ret = -1;
	bool ok = make("", ":") && img_open(&i, "i.qcow2");

	if (ok) {
		uint64_t at = i.h->l1_table_offset;

		if (l2_entry)
			img_put_be64(&i, (img_be64(&i, at) & QCOW2_OFFSET_MASK) + 8,
				     l2_entry);
		if (l1_entry)
			img_put_be64(&i, at, l1_entry);
		set_dirty(&i);
		plant_refcounts(&i);
	}
	img_close(&i);
	ok = ok && !sh("cp i.qcow2 before.qcow2") && img_open(&i, "i.qcow2");
	if (ok)
		ret = blk_qcow2_repair(i.q, &did, &i.e);
	ok = ok && ret == -EUCLEAN && !did && strstr(i.e.hint, "check -r all") &&
		!sh("cmp before.qcow2 i.qcow2");
	ksft_test_result(ok, "refused: %s: %s", what, ok ? i.e.msg : "");
	img_close(&i);
}

/* Dirty and whole, or repaired and clean */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	struct img i;
	bool ok = img_open(&i, path), dirty = ok && is_dirty(&i);

	img_close(&i);
	ok = ok && same_as_before(path) && (dirty || img_has_leaks(path, 0));
	if (!ok)
		ksft_print_msg("%s: op %zu of %zu: %s", path, k, n_ops,
			       dirty ? "dirty" : "clean");
	return ok;
}

static bool recovers(void *opaque, const char *path)
{
	struct img i;
	bool did, ok = repair(&i, path, &did);

	img_close(&i);
	return ok && img_has_leaks(path, 0) && same_as_before(path);
}

static void test_power(const char *opts, const char *more, bool lose_block)
{
	struct cut_judge j = { state_ok, recovers, NULL };
	unsigned int states = 0;
	struct img i;
	bool did = false, ok;

	cut_forget();
	ok = make(opts, more) && img_open(&i, "i.qcow2");
	if (ok) {
		set_dirty(&i);
		ok = plant_refcounts(&i);
		plant_copied(&i);
		if (lose_block)
			img_put_be64(&i, i.h->refcount_table_offset, 0);
	}
	img_close(&i);
	ok = ok && !sh("cp i.qcow2 base.qcow2") && img_open(&i, "i.qcow2");
	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, blk_qcow2_repair(i.q, &did, &i.e), "repair") &&
			did;
	}
	img_close(&i);
	ok = ok && img_has_leaks("i.qcow2", 0) && cut_replay(&j, 1, &states);
	ksft_test_result(ok, "%u states of %zu writes%s; %s", states, n_ops,
			 opts, more);
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

/* The host fails at one change: dirty or repaired, and it can be tried again. */
static bool one_fault(long at, bool ever, bool *over)
{
	struct fault f = { .at = at, .ever = ever };
	bool did = false, ok;
	struct img i;

	ok = !sh("cp --sparse=always base.qcow2 w.qcow2") &&
		img_open(&i, "w.qcow2");
	if (ok) {
		i.f->hook = fail_op;
		i.f->hook_opaque = &f;
		ok = !blk_qcow2_repair(i.q, &did, &i.e) == did;
	}
	img_close(&i);
	*over = f.n <= at;
	return ok && state_ok(NULL, "w.qcow2", 0) && recovers(NULL, "w.qcow2");
}

static void test_faults(const char *opts)
{
	bool ok = make(opts, ":"), over = false;
	long k = 0;
	struct img i;

	ok = ok && img_open(&i, "i.qcow2");
	if (ok) {
		set_dirty(&i);
		ok = plant_refcounts(&i);
		plant_copied(&i);
		img_put_be64(&i, i.h->refcount_table_offset, 0);
	}
	img_close(&i);
	ok = ok && !sh("cp i.qcow2 base.qcow2");
	for (; ok && !over; k++)
		ok = one_fault(k, false, &over) && one_fault(k, true, &over);
	ksft_test_result(ok, "an error at each of %ld changes%s", k - 1, opts);
}

#define SNAPSHOT	"qemu-img snapshot -c a i.qcow2 && " \
			"qemu-io -f qcow2 -c 'write -P 9 64k 128k' i.qcow2 >/dev/null"
/* one host cluster holds more than 255 compressed ones */
#define CROWDED "yes | head -c 40M >many.raw && " \
	"qemu-img convert -c -f raw -O qcow2 many.raw i.qcow2"
#define PACKED		"qemu-io -f qcow2 -c 'write -c -P 7 4M 64k' " \
			"-c 'write -c -P 8 5M 64k' i.qcow2 >/dev/null"
#define BITMAP		"qemu-img bitmap --add i.qcow2 b0"

int main(void)
{
	img_start_fast();
	sh("truncate -s 64M base.raw");
	test_killed("", ":");
	test_killed(",cluster_size=512", ":");
	test_killed(",cluster_size=4k,refcount_bits=1", ":");
	test_killed(",cluster_size=2M,refcount_bits=64", ":");
	test_killed(",extended_l2=on", ":");
	test_killed(",compression_type=zstd", PACKED);
	test_killed("", PACKED);
	test_killed("", SNAPSHOT);
	test_killed(",extended_l2=on", SNAPSHOT);
	test_killed(",data_file=d.raw", ":");
	test_killed(",backing_file=base.raw,backing_fmt=raw", BITMAP);
	test_planted("", ":");
	test_planted("", SNAPSHOT " && " PACKED " && " BITMAP);
	test_planted("", CROWDED);
	test_planted(",cluster_size=512", ":");
	test_planted(",extended_l2=on,cluster_size=16k", SNAPSHOT);
	test_planted(",refcount_bits=1", PACKED);
	test_planted(",refcount_bits=2", SNAPSHOT);
	test_planted(",refcount_bits=64,cluster_size=4k", SNAPSHOT);
	test_planted(",data_file=d.raw", ":");
	test_table("", false);
	test_table(",cluster_size=512", false);
	test_table(",cluster_size=512,refcount_bits=64", true);
	test_refused("an L2 table is the L1", 3ULL << 16 | QCOW2_ENTRY_COPIED, 0);
	test_refused("an L2 table outside the file", 1ULL << 40, 0);
	test_refused("data in the refcount table", 0,
		     1ULL << 16 | QCOW2_ENTRY_COPIED);
	test_refused("data outside the file", 0, 1ULL << 40);
	test_refused("reserved bits", 0, 1ULL << 57 | 5ULL << 16);
	test_power("", SNAPSHOT, false);
	test_power(",cluster_size=4k,refcount_bits=1", ":", true);
	test_power(",cluster_size=512", ":", true);
	test_faults(",cluster_size=4k,refcount_bits=1");
	test_faults(",cluster_size=512");
	cut_forget();
	ksft_finished();
}
