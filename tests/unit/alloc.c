// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The allocator on real images: grants, release, trim, errors.
 */
#include <time.h>

#include "image.h"

static bool create(const char *opts, const char *size)
{
	return !sh("rm -f i.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 %s",
		   opts, size);
}

/* Do the grants overlap nothing, read as zeroes and lie in the file? */
static bool grants_ok(struct img *i)
{
	uint8_t *buf = malloc(i->cs);
	bool ok = true;

	for (size_t k = 0; k < i->n_grants; k++) {
		const struct dm_qcow_run *g = &i->grant[k];

		ok &= g->offset + g->length <= img_size("i.qcow2");
		ok &= i->told_size >= g->offset + g->length;
		ok &= !((g->offset | g->length) & (i->cs - 1));
		for (size_t j = 0; j < k; j++)
			ok &= g->offset + g->length <= i->grant[j].offset ||
				i->grant[j].offset + i->grant[j].length <=
				g->offset;
		for (uint64_t o = 0; o < g->length &&
		     g->flags & DM_QCOW_RUN_ZEROED; o += i->cs) {
			ok &= !blk_file_read(i->f, buf, i->cs, g->offset + o);
			for (uint64_t b = 0; b < i->cs; b++)
				ok &= !buf[b];
		}
	}
	free(buf);
	return ok;
}

/* Dirties the grants, so that reuse without zeroing would show. */
static void scribble(struct img *i)
{
	void *buf = NULL;

	if (posix_memalign(&buf, 4096, BLK_MAX(i->cs, 4096U)))
		return;
	memset(buf, 0xee, i->cs);
	for (size_t k = 0; k < i->n_grants; k++)
		for (uint64_t o = 0; o < i->grant[k].length; o += i->cs)
			blk_file_write(i->f, buf, i->cs,
				       i->grant[k].offset + o);
	free(buf);
}

/* Everything twice: the second round reuses what the first gave back. */
static bool cycle(struct img *i, uint64_t bytes)
{
	bool ok = img_grant(i, bytes) && grants_ok(i) &&
		img_has_leaks("i.qcow2", (long)img_granted(i));

	scribble(i);
	ok = ok && img_ok(i, blk_qcow2_release(i->q, i->grant, i->n_grants,
					       &i->e), "release") &&
		img_has_leaks("i.qcow2", 0);
	i->n_grants = 0;
	ok = ok && img_grant(i, bytes) && img_grant(i, bytes) &&
		grants_ok(i) &&
		img_has_leaks("i.qcow2", (long)img_granted(i));
	return ok;
}

static void test_cycle(const char *opts, uint64_t bytes)
{
	struct img i;
	bool was = true;
	bool ok = create(opts, "1G") && img_attach(&i, "i.qcow2", &was) &&
		!was && cycle(&i, bytes) && img_detach(&i) &&
		img_has_leaks("i.qcow2", 0);

	ksft_test_result(ok, "grant, release, grant, detach: %s, %llu bytes",
			 opts, (unsigned long long)bytes);
}

static void test_widths(void)
{
	static const char *const cluster[] = { "512", "4k", "64k", "2M" };
	static const int bits[] = { 1, 2, 4, 8, 16, 32, 64 };
	char opts[128];

	for (size_t c = 0; c < BLK_COUNT(cluster); c++)
		for (size_t b = 0; b < BLK_COUNT(bits); b++) {
			snprintf(opts, sizeof(opts),
				 "-o cluster_size=%s,refcount_bits=%d",
				 cluster[c], bits[b]);
			test_cycle(opts, 5 << 20);
		}
	test_cycle("-o compat=0.10", 1 << 20);
	test_cycle("-o preallocation=metadata", 1 << 20);
	test_cycle("", 1);
}

/* Detaching an image that nothing was written to changes only its size. */
static void test_unchanged(void)
{
	struct img i;
	bool was;
	bool ok = create("", "1G") && !sh("cp i.qcow2 before.qcow2") &&
		img_attach(&i, "i.qcow2", &was) && img_grant(&i, 64 << 20) &&
		img_detach(&i) && img_size("i.qcow2") == 4 * 65536 &&
		!sh("cmp -n $(stat -c %%s before.qcow2) before.qcow2 i.qcow2");

	ksft_test_result(ok, "attach and detach leave the image as it was");
}

/* The refcount table grows: with 512-byte clusters every 8 MiB. */
static void test_table_growth(const char *opts, int rounds)
{
	struct img i;
	bool was, ok;
	uint64_t old;

	ok = create(opts, "1G") && img_attach(&i, "i.qcow2", &was);
	old = i.h->refcount_table_offset;
	for (int r = 0; r < rounds && ok; r++)
		ok = img_grant(&i, 8 << 20);
	ok = ok && i.h->refcount_table_offset != old && i.n_claimed &&
		img_has_leaks("i.qcow2", (long)img_granted(&i));
	for (size_t k = 0; k < i.n_grants && ok; k++)
		ok = i.grant[k].offset + i.grant[k].length <= old ||
			i.grant[k].offset > old;
	ok = ok && img_detach(&i) && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-io -f qcow2 -c 'write -P 7 0 1M' -c 'read -P 7 0 1M' i.qcow2 >/dev/null");
	ksft_test_result(ok, "the refcount table grows: %s", opts);
}

static void test_release_errors(void)
{
	struct dm_qcow_run bad[] = {
		{ .offset = 0, .length = 65536 },
		{ .offset = 65536, .length = 65536 },
		{ .offset = 3 * 65536, .length = 65536 },
		{ .offset = 1 << 30, .length = 65536 },
		{ .offset = 1ULL << 60, .length = 65536 },
		{ .offset = 0, .length = 1ULL << 61 },
		{ .offset = UINT64_MAX - 65535, .length = 131072 },
		{ .offset = 4 * 65536 + 512, .length = 65536 },
		{ .offset = 4 * 65536, .length = 0 },
	};
	struct dm_qcow_run mixed[2];
	struct img i;
	bool was;
	bool ok = create("", "1G") && img_attach(&i, "i.qcow2", &was) &&
		img_grant(&i, 65536);

	for (size_t k = 0; k < BLK_COUNT(bad) && ok; k++)
		ok = blk_qcow2_release(i.q, &bad[k], 1, &i.e) == -EUCLEAN;
	ksft_test_result(ok && img_has_leaks("i.qcow2", 1),
			 "release refuses metadata, free clusters and nonsense");
	mixed[0] = bad[0];
	mixed[1] = i.grant[0];
	ksft_test_result(blk_qcow2_release(i.q, mixed, 2, &i.e) == -EUCLEAN &&
			 img_has_leaks("i.qcow2", 0),
			 "and frees the others");
	ksft_test_result(blk_qcow2_release(i.q, i.grant, 1, &i.e) == -EUCLEAN &&
			 img_has_leaks("i.qcow2", 0), "but not twice");
	img_close(&i);
}

/* Several compressed clusters in one host cluster: each drops one. */
static void test_compressed(void)
{
	struct img i;
	struct dm_qcow_run run = { .flags = DM_QCOW_RUN_COMPRESSED };
	uint64_t l2, entry;
	int n = 0;
	bool was, ok;

	ok = !sh("truncate -s 4M zero.raw && head -c 1M /dev/urandom | "
		 "tr '\\0-\\377' 'a-d' | "
		 "dd of=zero.raw conv=notrunc status=none && rm -f i.qcow2 && "
		 "qemu-img convert -c -O qcow2 zero.raw i.qcow2") &&
		img_attach(&i, "i.qcow2", &was);
	l2 = ok ? img_be64(&i, i.h->l1_table_offset) & QCOW2_OFFSET_MASK : 0;
	for (uint64_t k = 0; k < 64 && ok; k++) {
		entry = img_be64(&i, l2 + k * 8);
		if (!(entry & QCOW2_L2_COMPRESSED))
			continue;
		n++;
		run.offset = qcow2_compressed_offset(entry, 16);
		run.length = qcow2_compressed_length(entry, 16);
		img_put_be64(&i, l2 + k * 8, 0);
		ok = img_ok(&i, blk_qcow2_release(i.q, &run, 1, &i.e),
			    "release") && img_has_leaks("i.qcow2", 0);
	}
	ksft_test_result(ok && n > 8, "%d compressed clusters are released", n);
	img_close(&i);
}

/* What a hostile refcount block calls free is not given out. */
static void test_hostile_refcounts(void)
{
	struct dm_qcow_run run;
	size_t n = 1;
	struct img i;
	bool was;
	bool ok;

	ok = create("", "1G") &&
		!sh("printf '\\0\\0' | "
		    "dd of=i.qcow2 bs=1 seek=131072 conv=notrunc status=none") &&
		img_attach(&i, "i.qcow2", &was);
	ksft_test_result(ok && blk_qcow2_alloc(i.q, 65536, &run, &n, &i.e) ==
			 -EUCLEAN && !n, "a header with refcount 0: %s",
			 i.e.msg);
	img_close(&i);
	ok = create("", "1G") &&
		!sh("printf '\\0\\0\\0\\0\\0\\003\\0\\0' | "
		    "dd of=i.qcow2 bs=1 seek=65536 conv=notrunc status=none") &&
		img_open(&i, "i.qcow2");
	ksft_test_result(ok && blk_qcow2_mark(i.q, &was, &i.e) == -EUCLEAN,
			 "a refcount block on the L1 table: %s", i.e.msg);
	img_close(&i);
	ok = create("", "1G") &&
		!sh("printf '\\0\\0\\0\\0\\0\\002\\0\\1' | "
		    "dd of=i.qcow2 bs=1 seek=65536 conv=notrunc status=none") &&
		img_open(&i, "i.qcow2");
	ksft_test_result(ok && blk_qcow2_can_attach(i.q, true, &i.e) ==
			 -EUCLEAN && !blk_qcow2_can_attach(i.q, false, &i.e),
			 "a bad refcount table entry, for writers: %s",
			 i.e.msg);
	img_close(&i);
}

/* Cluster 4 becomes a block of the far future; all near clusters are taken. */
static bool create_far(void)
{
	return create("", "1G") &&
		!sh("head -c 65536 /dev/zero | tr '\\0' '\\1' | "
		    "dd of=i.qcow2 bs=64k seek=2 conv=notrunc status=none") &&
		!sh("truncate -s 320k i.qcow2 && printf '\\0\\1' | "
		    "dd of=i.qcow2 bs=64k seek=4 conv=notrunc status=none") &&
		!sh("printf '\\0\\0\\0\\0\\0\\4\\0\\0' | "
		    "dd of=i.qcow2 bs=8 seek=%d conv=notrunc status=none",
		    8192 + 4000);
}

/* Refcounts that claim a place far behind the end cost no space for the gap. */
static void test_far_refcounts(void)
{
	struct stat st = { 0 };
	uint64_t leaks = 0;
	struct img i;
	bool was, stop = false;
	bool ok = create_far() && img_attach(&i, "i.qcow2", &was) &&
		!blk_qcow2_scan_begin(i.q, &i.e) && img_grant(&i, 1 << 20) &&
		!stat("i.qcow2", &st);

	ksft_test_result(ok && i.grant[0].offset == (2ULL << 30) + 65536 &&
			 st.st_blocks < 40 << 11 && grants_ok(&i),
			 "refcounts far behind the end: %lld blocks for %lld bytes",
			 (long long)st.st_blocks, (long long)st.st_size);
	ok = ok && !blk_qcow2_scan_run(i.q, &stop, &i.e) &&
		!blk_qcow2_scan_end(i.q, &leaks, &i.e) &&
		leaks == 32768 - 5;
	ksft_test_result(ok && !img_check("i.qcow2").corruptions,
			 "a scan that a new refcount block came into");
	img_close(&i);
}

static int full_hook(void *opaque, enum blk_file_op op, uint64_t off,
		     uint64_t len, const void *data)
{
	uint64_t *limit = opaque;

	if (op == BLK_FILE_OP_ZERO && off + len > *limit)
		return -ENOSPC;
	return 0;
}

/* A host that is full: what is left inside, then an error, then again */
static void test_host_full(void)
{
	struct dm_qcow_run run[8];
	uint64_t limit = 4 << 20;
	struct img i;
	size_t n = 8;
	bool was, ok;
	int ret = 0;

	ok = create("", "1G") && img_attach(&i, "i.qcow2", &was);
	i.f->hook = full_hook;
	i.f->hook_opaque = &limit;
	for (int k = 0; k < 50 && ok && !ret; k++) {
		n = 8;
		ret = blk_qcow2_alloc(i.q, 64 << 20, run, &n, &i.e);
		if (!ret) {
			i.grant = realloc(i.grant,
					  (i.n_grants + n) * sizeof(*run));
			memcpy(i.grant + i.n_grants, run, n * sizeof(*run));
			i.n_grants += n;
		}
	}
	ksft_test_result(ok && ret == -ENOSPC && img_granted(&i) == 60 &&
			 img_size("i.qcow2") == limit && grants_ok(&i) &&
			 img_has_leaks("i.qcow2", 60),
			 "a full host: %llu clusters, then: %s",
			 (unsigned long long)img_granted(&i), i.e.msg);
	limit = UINT64_MAX;
	ksft_test_result(img_grant(&i, 1 << 20) && grants_ok(&i) &&
			 img_detach(&i) && img_has_leaks("i.qcow2", 0),
			 "space returns");
}

/* Free space in small pieces is used, and is not all that there is. */
static void test_fragments(void)
{
	struct img i;
	bool was;
	uint64_t first;
	bool ok = create("", "1G") && img_attach(&i, "i.qcow2", &was) &&
		img_grant(&i, 64 << 20);

	first = ok ? i.grant[0].offset : 0;
	for (int k = 0; k < 200 && ok; k++) {
		struct dm_qcow_run r = {
			.offset = first + k * 2 * 65536, .length = 65536,
		};

		ok = !blk_qcow2_release(i.q, &r, 1, &i.e);
	}
	i.n_grants = 0;
	ok = ok && img_grant(&i, 32 << 20);
	ksft_test_result(ok && img_granted(&i) == 512 && i.n_grants == 65 &&
			 i.grant[0].offset == first && grants_ok(&i),
			 "64 fragments, then a long run (%zu runs)",
			 i.n_grants);
	img_close(&i);
}

static void test_large(void)
{
	struct timespec a, b;
	struct img i;
	bool was;
	bool ok = create("", "60T");
	double ms;

	clock_gettime(CLOCK_MONOTONIC, &a);
	ok = ok && img_attach(&i, "i.qcow2", &was) && img_grant(&i, 64 << 20);
	clock_gettime(CLOCK_MONOTONIC, &b);
	ms = (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6;
	ksft_test_result(ok && ms < 2000, "60 TiB: open and grant in %.0f ms",
			 ms);
	img_close(&i);
}

int main(void)
{
	img_start();
	test_widths();
	test_unchanged();
	test_table_growth("-o cluster_size=512", 3);
	test_table_growth("-o cluster_size=512,refcount_bits=64", 3);
	test_table_growth("-o cluster_size=1k,refcount_bits=64", 4);
	test_release_errors();
	test_compressed();
	test_hostile_refcounts();
	test_far_refcounts();
	test_host_full();
	test_fragments();
	test_large();
	ksft_finished();
}
