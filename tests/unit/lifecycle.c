// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An image from attach to detach, with a stand-in for the kernel; the in-use
 * mark; the leak scan after a crash.
 */
#include "image.h"
#include "qcow2/refcount.h"

static bool create(const char *opts, const char *size)
{
	return !sh("rm -f i.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 %s",
		   opts, size);
}

/* The same writes by qemu-io to a raw image */
static bool same_content(struct img *i, uint64_t n, uint64_t stride)
{
	uint64_t cs = i->cs;
	bool ok = !sh("rm -f r.raw; truncate -s 256M r.raw");

	img_close(i);
	for (uint64_t k = 0; k < n && ok; k++)
		ok = k % 3 == 1 ||
			!sh("qemu-io -f raw -c 'write -P %d %llu %llu' r.raw >/dev/null",
			    (int)(k % 200 + 1),
			    (unsigned long long)(k * stride),
			    (unsigned long long)cs);
	return ok && !sh("qemu-img compare -f qcow2 -F raw i.qcow2 r.raw >/dev/null");
}

/* Writes n clusters, discards every third */
static bool use(struct img *i, uint64_t n, uint64_t stride)
{
	bool ok = true;

	for (uint64_t k = 0; k < n && ok; k++)
		ok = img_write(i, k * stride, (uint8_t)(k % 200 + 1));
	for (uint64_t k = 1; k < n && ok; k += 3)
		ok = img_discard(i, k * stride);
	return ok;
}

static void test_life(const char *opts)
{
	struct img i;
	bool was = true;
	uint64_t stride = 0;
	bool ok = create(opts, "256M") && img_attach(&i, "i.qcow2", &was) &&
		!was && img_grant(&i, 40 * i.cs) && img_grant(&i, 40 * i.cs);

	if (ok) {
		uint64_t half = 1ULL << (qcow2_l2_span_bits(i.h) - 1);

		stride = BLK_MAX(i.cs, BLK_MIN(half, (256ULL << 20) / 32));
		ok = use(&i, 20, stride) && img_detach(&i) &&
			img_has_leaks("i.qcow2", 0);
	}
	if (ok && img_open(&i, "i.qcow2"))
		ok = same_content(&i, 20, stride) &&
			img_has_leaks("i.qcow2", 0);
	ksft_test_result(ok, "a life: %s", opts);
}

/* Marked while attached; QEMU keeps the mark; a crash leaves it behind. */
static void test_mark(const char *opts)
{
	struct img i;
	bool was = true;
	bool ok = create(opts, "256M") && !sh("cp i.qcow2 before.qcow2") &&
		img_attach(&i, "i.qcow2", &was) && !was &&
		img_has_leaks("i.qcow2", 0);

	img_close(&i);
	ok = ok && img_attach(&i, "i.qcow2", &was) && was;
	img_close(&i);
	ok = ok && !sh("qemu-img amend -f qcow2 -o lazy_refcounts=on i.qcow2 && "
		    "qemu-img amend -f qcow2 -o lazy_refcounts=off i.qcow2") &&
		img_attach(&i, "i.qcow2", &was) && was &&
		img_ok(&i, blk_qcow2_unmark(i.q, &i.e), "unmark");
	img_close(&i);
	ok = ok && img_attach(&i, "i.qcow2", &was) && !was && img_detach(&i) &&
		!sh("cmp -n $(stat -c %%s before.qcow2) before.qcow2 i.qcow2") &&
		img_has_leaks("i.qcow2", 0);
	ksft_test_result(ok, "the mark comes and goes: %s", opts);
}

/* The name of a backing file is in the way and is moved. */
static void test_mark_backing(const char *opts, uint64_t name_at)
{
	struct img i;
	bool was = true, ok;

	ok = !sh("rm -f i.qcow2; qemu-img create -q -f raw base.raw 16M; "
		 "qemu-img create -q -f qcow2 %s -b base.raw -F raw i.qcow2 16M",
		 opts) && img_open(&i, "i.qcow2");
	if (ok && name_at) {
		/* an old image: no extensions, the name behind the header */
		uint8_t b[512];

		ok = !blk_file_read(i.f, b, 512, 0);
		memset(b + 72, 0, 512 - 72);
		memcpy(b + name_at, "base.raw", 8);
		blk_put_be64(b + 8, name_at);
		ok = ok && !blk_file_write(i.f, b, 512, 0);
		img_close(&i);
		ok = ok && img_open(&i, "i.qcow2");
	}
	ok = ok && img_ok(&i, blk_qcow2_mark(i.q, &was, &i.e), "mark") &&
		!was && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-img info -U i.qcow2 | grep -q 'backing file: base.raw'");
	img_close(&i);
	ok = ok && img_open(&i, "i.qcow2") &&
		!strcmp(blk_qcow2_backing_file(i.q), "base.raw") &&
		!blk_qcow2_mark(i.q, &was, &i.e) && was &&
		!blk_qcow2_unmark(i.q, &i.e) && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-img info -U i.qcow2 | grep -q 'backing file: base.raw'");
	ksft_test_result(ok, "a backing file's name makes room: %s, %llu",
			 opts, (unsigned long long)name_at);
	img_close(&i);
}

/* A header cluster that is full: no mark, and always a scan. */
static void test_mark_full(void)
{
	char name[300];
	struct img i;
	bool was = false, ok;

	memset(name, 'n', 290);
	strcpy(name + 240, ".raw");
	ok = !sh("rm -f i.qcow2; qemu-img create -q -f raw %s 16M && "
		 "qemu-img create -q -f qcow2 -o cluster_size=512 -b %s "
		 "-F raw i.qcow2 16M && cp i.qcow2 before.qcow2",
		 name, name) && img_open(&i, "i.qcow2");
	if (ok) {
		/* a long unknown extension in front of the name */
		uint8_t b[512];
		struct blk_ext_info x;

		ok = !blk_file_read(i.f, b, 512, 0) &&
			!blk_ext_parse(b, 512, i.h, &x);
		blk_put_be32(b + x.end, 0x12345678);
		blk_put_be32(b + x.end + 4,
			     BLK_MIN(x.limit, 504U) - x.end - 8);
		ok = ok && !blk_file_write(i.f, b, 512, 0);
		img_close(&i);
		ok = ok && !sh("cp i.qcow2 before.qcow2") &&
			img_open(&i, "i.qcow2");
	}
	ok = ok && img_ok(&i, blk_qcow2_mark(i.q, &was, &i.e), "mark") &&
		was && img_ok(&i, blk_qcow2_unmark(i.q, &i.e), "unmark") &&
		!sh("cmp before.qcow2 i.qcow2");
	ksft_test_result(ok, "no room for a mark");
	img_close(&i);
}

static void test_autoclear(void)
{
	struct img i;
	bool was;
	bool ok = create("", "16M") &&
		!sh("printf '\\377\\377\\377\\377\\377\\377\\377\\375' | "
		    "dd of=i.qcow2 bs=1 seek=88 conv=notrunc status=none") &&
		img_attach(&i, "i.qcow2", &was) && !img_be64(&i, 88);

	ksft_test_result(ok, "unknown autoclear bits are cleared");
	img_close(&i);
}

/* Writes, then dies; the scan finds exactly what qemu-img finds. */
static void test_scan(const char *opts)
{
	struct img i;
	bool was = false;
	long left;
	bool ok = create(opts, "256M") && img_attach(&i, "i.qcow2", &was) &&
		img_grant(&i, 50 * i.cs);

	for (uint64_t k = 0; k < 10 && ok; k++)
		ok = img_write(&i, k * i.cs, (uint8_t)(k + 1));
	/* unmapped on disk, but the release is lost */
	if (ok)
		img_put_be64(&i, img_l2_entry(&i, 3 * i.cs), 0);
	left = (long)img_granted(&i) + 1;
	ok = ok && img_has_leaks("i.qcow2", left);
	img_close(&i);
	ok = ok && img_attach(&i, "i.qcow2", &was) && was &&
		img_scan(&i) == left && img_has_leaks("i.qcow2", 0) &&
		img_grant(&i, 20 * i.cs) && img_write(&i, 3 * i.cs, 9) &&
		img_detach(&i) && img_has_leaks("i.qcow2", 0);
	ok = ok && img_attach(&i, "i.qcow2", &was) && !was && img_detach(&i);
	ksft_test_result(ok, "a crash, and a scan: %s", opts);
}

/* The device is in use while the scan runs. */
static void test_scan_live(void)
{
	struct img i;
	uint64_t leaks = 0;
	bool stop = false, was = false;
	long left;
	bool ok = create("", "256M") && img_attach(&i, "i.qcow2", &was) &&
		img_grant(&i, 50 * i.cs) && img_write(&i, 0, 1) &&
		img_write(&i, 65536, 2) && img_write(&i, 131072, 3);

	left = (long)img_granted(&i);
	img_close(&i);
	ok = ok && img_attach(&i, "i.qcow2", &was) && was &&
		!blk_qcow2_scan_begin(i.q, &i.e) &&
		img_grant(&i, 20 * i.cs) && img_discard(&i, 65536) &&
		img_write(&i, 1 << 20, 4) && img_write(&i, 2 << 20, 5);
	ok = ok && img_ok(&i, blk_qcow2_scan_run(i.q, &stop, &i.e), "run");
	ok = ok && img_discard(&i, 2 << 20) && img_discard(&i, 0) &&
		img_write(&i, 3 << 20, 6);
	ok = ok && img_ok(&i, blk_qcow2_scan_end(i.q, &leaks, &i.e), "end") &&
		(long)leaks <= left && leaks &&
		img_has_leaks("i.qcow2", (long)img_granted(&i));
	ksft_test_result(ok && img_detach(&i) && img_has_leaks("i.qcow2", 0),
			 "a scan beside writes and discards (%llu of %ld)",
			 (unsigned long long)leaks, left);
	stop = true;
	ok = img_attach(&i, "i.qcow2", &was) &&
		!blk_qcow2_scan_begin(i.q, &i.e) &&
		blk_qcow2_scan_run(i.q, &stop, &i.e) == -ECANCELED &&
		blk_qcow2_scan_end(i.q, &leaks, &i.e) == -EINVAL;
	ksft_test_result(ok, "a scan that is stopped");
	img_close(&i);
}

/* Lowers or raises one refcount by hand, while nobody has the image. */
static bool set_refcount(uint64_t cluster, uint16_t rc)
{
	struct img i;
	uint8_t b[2];
	bool ok = img_open(&i, "i.qcow2");

	blk_put_be16(b, rc);
	ok = ok && !blk_file_write(i.f, b, 2, 2 * i.cs + cluster * 2);
	img_close(&i);
	return ok;
}

static void test_scan_judgement(void)
{
	struct img i;
	bool was;
	uint64_t c;
	bool ok = create("", "256M") && img_attach(&i, "i.qcow2", &was) &&
		img_grant(&i, 20 * i.cs) && img_write(&i, 0, 1);

	c = ok ? (img_be64(&i, img_l2_entry(&i, 0)) & QCOW2_OFFSET_MASK) >> 16 :
		0;
	ok = ok && img_detach(&i) && set_refcount(c, 2) &&
		img_attach(&i, "i.qcow2", &was);
	ksft_test_result(ok && img_scan(&i) == 0 && blk_qcow2_leaked(i.q),
			 "a count is not lowered to 1 under an entry without \"copied\"");
	ksft_test_result(ok && !blk_qcow2_unmark(i.q, &i.e),
			 "and the mark stays");
	img_close(&i);
	ok = set_refcount(c, 0) && img_attach(&i, "i.qcow2", &was) && was;
	ksft_test_result(ok && img_scan(&i) == -EUCLEAN &&
			 blk_qcow2_leaked(i.q),
			 "a reference to a free cluster is reported: %s",
			 i.e.msg);
	img_close(&i);
}

static void test_scan_snapshots(void)
{
	struct img i;
	struct dm_qcow_run *runs = NULL;
	size_t n = 0;
	bool ok, was = false;

	ok = create("", "256M") &&
		!sh("qemu-io -f qcow2 -c 'write -P 1 0 2M' i.qcow2 >/dev/null && "
		    "qemu-img snapshot -c a i.qcow2 && "
		    "qemu-io -f qcow2 -c 'write -P 2 1M 2M' i.qcow2 >/dev/null && "
		    "qemu-img snapshot -c b i.qcow2 && "
		    "qemu-img bitmap --add i.qcow2 b0 && "
		    "qemu-img bitmap --add -g 512 i.qcow2 b1") &&
		img_open(&i, "i.qcow2");
	ksft_test_result(ok && !blk_qcow2_can_attach(i.q, true, &i.e) &&
			 !blk_qcow2_can_attach(i.q, false, &i.e),
			 "snapshots and bitmaps are fine");
	ok = ok && img_ok(&i, blk_qcow2_metadata(i.q, &runs, &n, &i.e),
			  "metadata");
	for (size_t k = 1; k < n && ok; k++)
		ok = runs[k].offset > runs[k - 1].offset + runs[k - 1].length;
	ksft_test_result(ok && n, "metadata: %zu runs", n);
	free(runs);
	ok = ok && !blk_qcow2_mark(i.q, &was, &i.e) && img_grant(&i, 1 << 20);
	img_close(&i);
	ok = ok && img_has_leaks("i.qcow2", 16) && img_open(&i, "i.qcow2") &&
		img_scan(&i) == 16 && !blk_qcow2_unmark(i.q, &i.e);
	ksft_test_result(ok && img_has_leaks("i.qcow2", 0),
			 "a scan with snapshots and bitmaps");
	img_close(&i);
}

int main(void)
{
	static const char *const opts[] = {
		"", "-o cluster_size=512", "-o cluster_size=4k",
		"-o cluster_size=2M", "-o refcount_bits=1",
		"-o refcount_bits=64,cluster_size=4k", "-o compat=0.10",
	};

	img_start();
	for (size_t k = 0; k < BLK_COUNT(opts); k++) {
		test_life(opts[k]);
		test_scan(opts[k]);
		if (!strstr(opts[k], "compat"))
			test_mark(opts[k]);
	}
	test_mark_backing("", 0);
	test_mark_backing("-o cluster_size=512", 0);
	test_mark_backing("-o compat=0.10", 0);
	test_mark_backing("-o compat=0.10", 72);
	test_mark_full();
	test_autoclear();
	test_scan_live();
	test_scan_judgement();
	test_scan_snapshots();
	ksft_finished();
}
