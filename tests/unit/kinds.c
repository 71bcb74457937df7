// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Kinds of images: what may be attached, what is metadata, and that grants,
 * releases and leak scans are right for all of them.
 */
#include "image.h"

static bool create(const char *opts, const char *more)
{
	return !sh("rm -f *.qcow2 *.data; qemu-img create -q -f qcow2 %s i.qcow2 64M && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -P 2 30M 200k' "
		   "i.qcow2 >/dev/null && (%s)", opts, more);
}

#define SNAPSHOT	"qemu-img snapshot -c a i.qcow2 && " \
			"qemu-io -f qcow2 -c 'write -P 9 64k 128k' i.qcow2 >/dev/null && " \
			"qemu-img snapshot -c b i.qcow2"
#define PACKED		"qemu-io -f qcow2 -c 'write -c -P 7 4M 64k' " \
			"-c 'write -c -P 8 5M 64k' i.qcow2 >/dev/null"

/* A crash with grants out; the scan finds these and nothing else. */
static void test_scan(const char *opts, const char *more)
{
	struct img i;
	bool was;
	long left = 0;
	bool ok = create(opts, more) && img_attach(&i, "i.qcow2", &was) &&
		img_grant(&i, 30 * i.cs);

	if (ok)
		left = (long)img_granted(&i);
	ok = ok && img_has_leaks("i.qcow2", left);
	img_close(&i);
	ok = ok && img_attach(&i, "i.qcow2", &was) && was &&
		img_scan(&i) == left && img_has_leaks("i.qcow2", 0) &&
		img_grant(&i, 5 * i.cs) && img_detach(&i) &&
		img_has_leaks("i.qcow2", 0);
	ksft_test_result(ok, "scan: %s; %s", opts, more);
}

/* Copies the first L2 table, as the kernel does before it changes a shared one. */
static uint64_t copy_table(struct img *i, uint64_t *old)
{
	uint64_t l1 = i->h->l1_table_offset, copy = img_take(i);
	void *buf = NULL;

	*old = img_be64(i, l1) & QCOW2_OFFSET_MASK;
	if (!copy || posix_memalign(&buf, 4096, i->cs))
		return 0;
	if (blk_file_read(i->f, buf, i->cs, *old) ||
	    blk_file_write(i->f, buf, i->cs, copy) || blk_file_flush(i->f))
		copy = 0;
	free(buf);
	if (copy)
		img_put_be64(i, l1, copy | QCOW2_ENTRY_COPIED);
	return copy;
}

/* A write to what a snapshot has: table and data are copied and let go. */
static void test_shared(const char *opts)
{
	struct img i;
	struct dm_qcow_run run = { .flags = DM_QCOW_RUN_METADATA };
	uint64_t old = 0, copy = 0, data = 0, fresh = 0;
	bool was, ok;

	ok = create(opts, "qemu-img snapshot -c a i.qcow2") &&
		img_attach(&i, "i.qcow2", &was) && img_grant(&i, 30 * i.cs);
	if (ok) {
		run.length = i.cs;
		copy = copy_table(&i, &old);
		run.offset = old;
	}
	ok = ok && copy &&
		img_ok(&i, blk_qcow2_release(i.q, &run, 1, &i.e), "release");
	ksft_test_result(ok && blk_qcow2_release(i.q, &run, 1, &i.e) < 0,
			 "a snapshot's table is let go once: %s", opts);
	if (ok) {
		data = img_be64(&i, copy) & QCOW2_OFFSET_MASK;
		fresh = img_take(&i);
		img_put_be64(&i, copy, fresh | QCOW2_ENTRY_COPIED);
		run.offset = data;
		run.flags = 0;
	}
	ok = ok && img_ok(&i, blk_qcow2_release(i.q, &run, 1, &i.e), "release") &&
		img_has_leaks("i.qcow2", (long)img_granted(&i));
	/* never given out: neither the table nor the data */
	ok = ok && img_grant(&i, 200 * i.cs);
	for (size_t k = 0; ok && k < i.n_grants; k++) {
		struct dm_qcow_run *g = &i.grant[k];

		ok = (old < g->offset || old >= g->offset + g->length) &&
			(data < g->offset || data >= g->offset + g->length);
	}
	ok = ok && img_detach(&i) && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-img convert -l a -f qcow2 -O raw i.qcow2 a.raw && "
		    "qemu-io -r -f raw -c 'read -P 1 0 1M' a.raw >/dev/null");
	ksft_test_result(ok, "and the snapshot keeps it: %s", opts);
}

/* A crash after a table or data went from 2 references to 1 */
static void test_shared_crash(void)
{
	struct img i;
	uint64_t old = 0;
	bool was, ok;

	ok = create("", "qemu-img snapshot -c a i.qcow2") &&
		img_attach(&i, "i.qcow2", &was) && img_grant(&i, 2 * i.cs) &&
		copy_table(&i, &old);
	if (ok) {
		uint64_t l2 = img_be64(&i, i.h->l1_table_offset) &
			QCOW2_OFFSET_MASK;

		img_put_be64(&i, l2, img_take(&i) | QCOW2_ENTRY_COPIED);
	}
	img_close(&i);
	ok = ok && img_has_leaks("i.qcow2", 2) &&
		img_attach(&i, "i.qcow2", &was) && was && img_scan(&i) == 2 &&
		img_detach(&i) && img_has_leaks("i.qcow2", 0);
	ksft_test_result(ok, "a count of 1 for a snapshot alone asks for no COPIED");
}

static void test_metadata(const char *opts, const char *more)
{
	struct dm_qcow_run *runs = NULL;
	struct img i;
	size_t n = 0;
	bool ok = create(opts, more) && img_open(&i, "i.qcow2") &&
		img_ok(&i, blk_qcow2_metadata(i.q, &runs, &n, &i.e),
		       "metadata");

	for (uint32_t k = 0; ok && k < i.h->l1_size; k++) {
		uint64_t l2 = img_be64(&i, i.h->l1_table_offset + k * 8) &
			QCOW2_OFFSET_MASK;

		for (size_t r = 0; r < n && ok; r++)
			ok = !l2 || l2 < runs[r].offset ||
				l2 >= runs[r].offset + runs[r].length;
	}
	for (size_t k = 1; k < n && ok; k++)
		ok = runs[k].offset > runs[k - 1].offset + runs[k - 1].length;
	ksft_test_result(ok && n, "metadata without active tables, %zu runs: %s; %s",
			 n, opts, more);
	free(runs);
	img_close(&i);
}

#define SECRET	"--object secret,id=s,data=geheim"

/* Encrypted: zeroes in the file are none to the guest. */
static void test_luks(void)
{
	struct dm_qcow_run runs[8], *meta = NULL;
	size_t n = 8, n_meta = 0;
	struct img i;
	bool was, zeroed = false, header = false;
	/* QEMU times its key derivation, and sometimes finds that it can't */
	bool ok = !sh("for n in 1 2 3 4 5 6 7 8; do rm -f *.qcow2; qemu-img create -q -f qcow2 "
		      SECRET " -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 "
		      "i.qcow2 16M 2>/dev/null && exit; done; exit 1");

	if (!ok) {
		ksft_test_result_skip("LUKS", "qemu-img makes no such images");
		return;
	}
	ok = img_attach(&i, "i.qcow2", &was) &&
		img_ok(&i, blk_qcow2_metadata(i.q, &meta, &n_meta, &i.e),
		       "metadata") &&
		img_ok(&i, blk_qcow2_alloc(i.q, 1 << 20, runs, &n, &i.e),
		       "alloc");
	for (size_t k = 0; k < n && ok; k++)
		zeroed |= runs[k].flags & DM_QCOW_RUN_ZEROED;
	for (size_t k = 0; k < n_meta; k++)
		header |= meta[k].length > 1 << 20;
	free(meta);
	ok = ok && n && !zeroed && header &&
		img_ok(&i, blk_qcow2_release(i.q, runs, n, &i.e), "release");
	n = 8;
	ok = ok && img_ok(&i, blk_qcow2_alloc(i.q, 1 << 20, runs, &n, &i.e),
			  "alloc again");
	for (size_t k = 0; k < n && ok; k++)
		zeroed |= runs[k].flags & DM_QCOW_RUN_ZEROED;
	img_close(&i);
	ok = ok && !zeroed && img_attach(&i, "i.qcow2", &was) && was &&
		img_scan(&i) == 16 && img_detach(&i) &&
		!sh("qemu-img check -q " SECRET " --image-opts "
		    "driver=qcow2,file.filename=i.qcow2,encrypt.key-secret=s >/dev/null");
	ksft_test_result(ok, "LUKS: nothing is promised to read as zeroes");
}

/* Sets eight bytes at @at, then asks. */
static void test_attachable(const char *opts, const char *more, int at,
			    unsigned int low, bool ro, bool rw, const char *what)
{
	struct img i;
	int r = 0, w = 0;
	bool ok = create(opts, more);

	if (ok && at)
		ok = !sh("printf '\\0\\0\\0\\0\\0\\0\\0\\%o' | "
			 "dd of=i.qcow2 bs=1 seek=%d conv=notrunc status=none",
			 low, at);
	ok = ok && img_open(&i, "i.qcow2");
	if (ok) {
		r = blk_qcow2_can_attach(i.q, false, &i.e);
		w = blk_qcow2_can_attach(i.q, true, &i.e);
	}
	ksft_test_result(ok && !r == ro && !w == rw, "%s: read %d, write %d: %s",
			 what, r, w, i.e.msg);
	img_close(&i);
}

static void test_attach(void)
{
	static const char data[] = "-o data_file=d.data";
	static const char raw[] = "-o data_file=d.data,data_file_raw=on";

	test_attachable("", SNAPSHOT, 0, 0, true, true, "snapshots");
	test_attachable("-o compression_type=zstd", PACKED, 0, 0, true, true,
			"zstd");
	test_attachable("-o extended_l2=on", ":", 0, 0, true, true,
			"extended L2");
	test_attachable("-b base.raw -F raw", ":", 0, 0, true, true,
			"a backing file");
	test_attachable(data, ":", 0, 0, true, true, "a data file");
	test_attachable(raw, ":", 0, 0, true, true, "a raw data file");
	test_attachable(data, "printf '\\0\\0\\0\\001\\0\\0\\0\\0\\0\\001\\0\\0' | "
			"dd of=i.qcow2 bs=1 seek=60 conv=notrunc status=none",
			0, 0, true, false, "a data file and snapshots");
	test_attachable("", ":", 72, 1, true, true, "dirty");
	test_attachable("", ":", 72, 2, true, false, "corrupt");
	test_attachable("", ":", 88, 2, false, false, "raw without a data file");
	test_attachable("", ":", 28, 0, true, true, "an empty disk");
	test_attachable(raw, "cp i.qcow2 k.qcow2; printf '\\0\\0\\0\\0\\0\\0\\020\\0\\0\\0\\0\\010' | "
			"dd of=i.qcow2 bs=1 seek=8 conv=notrunc status=none && "
			"printf base.raw | dd of=i.qcow2 bs=1 seek=4096 conv=notrunc status=none",
			0, 0, false, false, "a raw data file and a backing file");
}

static void test_data_file(void)
{
	struct img i;
	bool ok = create("-o data_file=d.data,data_file_raw=on", ":") &&
		img_open(&i, "i.qcow2");

	ksft_test_result(ok && blk_qcow2_data_file(i.q) &&
			 !strcmp(blk_qcow2_data_file(i.q), "d.data") &&
			 blk_qcow2_data_file_raw(i.q), "a raw data file's name");
	img_close(&i);
	ok = !sh("grep -obUa d.data i.qcow2 | head -n 1 | cut -d: -f1 | { read -r o && "
		 "printf '\\0' | dd of=i.qcow2 bs=1 seek=$((o + 2)) conv=notrunc status=none; }");
	ksft_test_result(ok && !img_open(&i, "i.qcow2") &&
			 strstr(i.e.msg, "NUL"), "a NUL in it: %s", i.e.msg);
	img_close(&i);
	ok = create("", ":") && img_open(&i, "i.qcow2");
	ksft_test_result(ok && !blk_qcow2_data_file(i.q) &&
			 !blk_qcow2_data_file_raw(i.q), "no data file");
	img_close(&i);
}

static void test_snapshot_find(void)
{
	struct blk_qcow2_snapshot s = { 0 };
	struct img i;
	bool ok = create("", "qemu-img snapshot -c first i.qcow2 && "
			 "qemu-img resize -q i.qcow2 128M && "
			 "qemu-img snapshot -c 1 i.qcow2") &&
		img_open(&i, "i.qcow2");

	ok = ok && img_ok(&i, blk_qcow2_snapshot_find(i.q, "first", &s, &i.e),
			  "by name") &&
		!strcmp(s.id, "1") && s.disk_size == 64 << 20 && s.l1_size &&
		s.l1_offset && s.date_sec;
	blk_qcow2_snapshot_clear(&s);
	ksft_test_result(ok, "a snapshot by name");
	ok = ok && img_ok(&i, blk_qcow2_snapshot_find(i.q, "1", &s, &i.e),
			  "by id") && !strcmp(s.name, "first");
	blk_qcow2_snapshot_clear(&s);
	ksft_test_result(ok, "an id goes before a name");
	ok = ok && !blk_qcow2_snapshot_find(i.q, "2", &s, &i.e) &&
		!strcmp(s.name, "1") && s.disk_size == 128 << 20;
	blk_qcow2_snapshot_clear(&s);
	ksft_test_result(ok, "another id");
	ksft_test_result(ok && blk_qcow2_snapshot_find(i.q, "3", &s, &i.e) ==
			 -ENOENT && i.e.cls == BLK_ERR_NOT_FOUND && !s.id,
			 "none: %s", i.e.msg);
	img_close(&i);
}

int main(void)
{
	static const char *const opts[] = {
		"", "-o cluster_size=512", "-o extended_l2=on",
		"-o extended_l2=on,cluster_size=16k", "-o refcount_bits=2",
	};

	img_start();
	sh("truncate -s 64M base.raw");
	test_attach();
	test_data_file();
	test_snapshot_find();
	for (size_t k = 0; k < BLK_COUNT(opts); k++) {
		test_scan(opts[k], "qemu-img snapshot -c a i.qcow2");
		test_metadata(opts[k], "qemu-img snapshot -c a i.qcow2");
	}
	test_scan("", SNAPSHOT " && " PACKED);
	test_scan("-o compression_type=zstd", PACKED);
	test_scan("-o data_file=d.data", ":");
	test_scan("-o data_file=d.data,data_file_raw=on", ":");
	test_scan("-b base.raw -F raw", "qemu-img bitmap --add i.qcow2 b0");
	test_metadata("", SNAPSHOT " && qemu-img bitmap --add -g 512 i.qcow2 b0");
	test_metadata("-o data_file=d.data", ":");
	test_shared("");
	test_shared("-o cluster_size=4k");
	test_shared_crash();
	test_luks();
	ksft_finished();
}
