// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writing to disks in images: random writes, zeroes and discards, compared
 * with a copy in memory, then with what QEMU reads.
 */
#include "image.h"
#include "img/image.h"

#define SIZE	(4U << 20)

static uint8_t want[SIZE], below[SIZE], got[SIZE];

/* One change of the disk, and of the copy */
static int one(struct blk_img *m, const char *kind, struct blk_error *e)
{
	static uint8_t buf[300000];
	bool packs = !strstr(kind, "data_file");
	uint64_t off = (uint64_t)rand() % (SIZE / 512) * 512;
	uint64_t len = (1 + (uint64_t)rand() % 400) * 512;
	bool backed = strstr(kind, "-b ");

	if (rand() & 1) {
		off &= ~0xffffULL;
		len = (len + 0xffff) & ~0xffffULL;
	} else if (rand() & 1) {
		off += rand() & 511;
		len += rand() & 511;
	}
	len = BLK_MIN(len, SIZE - off);
	switch (rand() % 8) {
	case 0:
		memset(want + off, 0, len);
		return blk_img_write_zeroes(m, off, len, rand() & 1, e);
	case 1:
		/* only whole clusters; of 64k here, or less */
		if (off & 0xffff || len & 0xffff || off + len > SIZE)
			return 0;
		if (strstr(kind, "0.10") && backed)
			return 0;
		memset(want + off, 0, len);
		return blk_img_discard(m, off, len, false, e);
	case 2:
		if (off & 0xffff || len & 0xffff)
			return 0;
		memcpy(want + off, below + off, len);
		return blk_img_discard(m, off, len, true, e);
	default:
		memset(buf, rand(), len);
		buf[rand() % len] = (uint8_t)rand();
		/* some clusters become smaller and others do not */
		for (uint64_t i = len / 2; i < len && rand() & 1; i++)
			buf[i] = (uint8_t)rand();
		memcpy(want + off, buf, len);
		return packs && rand() & 1 ?
			blk_img_write_compressed(m, buf, len, off, e) :
			blk_img_write(m, buf, len, off, e);
	}
}

static bool put_file(const char *path, const uint8_t *data)
{
	FILE *f = fopen(path, "w");
	bool ok = f && fwrite(data, 1, SIZE, f) == SIZE;

	return f && !fclose(f) && ok;
}

static bool run(struct blk_img *m, const char *kind, struct blk_error *e)
{
	for (int i = 0; i < 150; i++) {
		int ret = one(m, kind, e);

		if (!ret && i % 7 == 0)
			ret = blk_img_flush(m, e);
		if (!ret && i % 5 == 0)
			ret = blk_img_read(m, got, SIZE, 0, e);
		if (ret || (i % 5 == 0 && memcmp(got, want, SIZE))) {
			ksft_print_msg("step %d: %d %s", i, ret, e->msg);
			return false;
		}
	}
	return true;
}

static void test_kind(const char *opts, const char *more)
{
	struct blk_error e = { .err = 0 };
	struct blk_img *m = NULL;
	bool backed = strstr(opts, "-b ");
	bool ok = !sh("rm -f i.qcow2 d.raw; qemu-img create -q -f qcow2 %s i.qcow2 4M && (%s)",
		      opts, more);

	for (size_t i = 0; i < SIZE; i++)
		below[i] = backed ? (uint8_t)(i / 4096 + 1) : 0;
	ok = ok && put_file("base.raw", below) &&
		!sh("qemu-img convert -U -f qcow2 -O raw i.qcow2 now.raw");
	if (ok) {
		FILE *f = fopen("now.raw", "r");

		ok = f && fread(want, 1, SIZE, f) == SIZE;
		fclose(f);
	}
	ok = ok && !blk_img_open("i.qcow2", false, "qcow2",
				 BLK_IMG_WRITE | BLK_IMG_BUFFERED, NULL, &m,
				 &e) && run(m, opts, &e);
	if (blk_img_close(m, &e))
		ok = false;
	ok = ok && put_file("want.raw", want) && img_has_leaks("i.qcow2", 0) &&
		!sh("qemu-img compare -f qcow2 -F raw i.qcow2 want.raw");
	ksft_test_result(ok, "%s; %s: %s", opts, more, e.msg);
}

int main(void)
{
	static const char snap[] = "qemu-io -f qcow2 -c 'write -P 9 0 2M' "
		"-c 'write -c -P 8 3M 64k' i.qcow2 >/dev/null; qemu-img snapshot -c a i.qcow2";

	img_start_fast();
	sh("truncate -s 4M base.raw");
	srand(4711);
	test_kind("", ":");
	test_kind("", snap);
	test_kind("-b base.raw -F raw", ":");
	test_kind("-b base.raw -F raw", snap);
	test_kind("-o cluster_size=4k", snap);
	test_kind("-o cluster_size=512", ":");
	test_kind("-o extended_l2=on -b base.raw -F raw", snap);
	test_kind("-o refcount_bits=1,cluster_size=4k", ":");
	test_kind("-o refcount_bits=2,cluster_size=4k,compression_type=zstd",
		  ":");
	test_kind("-o compat=0.10", snap);
	test_kind("-o compat=0.10 -b base.raw -F raw", ":");
	test_kind("-o data_file=d.raw", ":");
	test_kind("-o data_file=d.raw,data_file_raw=on", ":");
	ksft_finished();
}
