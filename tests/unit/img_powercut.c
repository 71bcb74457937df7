// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writing to the disk in an image: power cuts at every write of it.
 *
 * Every change of the disk fills sectors with a byte of its own. In every state
 * a sector has what was made durable there, or something newer.
 */
#include "img/image.h"
#include "powercut.h"

#define DISK		(4U << 20)
#define SECTORS		(DISK / SECTOR)
#define CHANGES		24U
#define BASE		0xf0	/* version of what was there before */

/*
 * @covers: which sectors a change changed
 * @byte: what is in them then
 * @durable: after so many ops; SIZE_MAX: never
 */
struct version {
	bool covers[SECTORS];
	uint8_t byte;
	size_t durable;
};

static struct version version[CHANGES];
static uint8_t base[DISK], got[DISK];
static size_t n_versions;

static bool read_disk(const char *path, uint8_t *buf)
{
	FILE *f;
	bool ok = !sh("qemu-img convert -U -f qcow2 -O raw %s disk.raw", path);

	f = ok ? fopen("disk.raw", "r") : NULL;
	ok = f && fread(buf, 1, DISK, f) == DISK;
	if (f)
		fclose(f);
	return ok;
}

/* Is @byte of sector @s what may be there after op @k? */
static bool may_be(size_t s, const uint8_t *now, size_t k)
{
	size_t v = n_versions;
	uint8_t want[SECTOR];

	while (v-- > 0) {
		if (!version[v].covers[s])
			continue;
		memset(want, version[v].byte, SECTOR);
		if (!memcmp(now, want, SECTOR))
			return true;
		if (version[v].durable <= k)
			return false;
	}
	return !memcmp(now, base + s * SECTOR, SECTOR);
}

static bool state_ok(void *opaque, const char *path, size_t k)
{
	struct img_check c = img_check(path);
	bool ok = (c.rc == 0 || c.rc == 3) && !c.corruptions;

	if (!ok) {
		ksft_print_msg("%s, op %zu of %zu: check says %d, %ld corruptions",
			       path, k, n_ops, c.rc, c.corruptions);
		return false;
	}
	ok = read_disk(path, got);
	for (size_t s = 0; s < SECTORS && ok; s++) {
		ok = may_be(s, got + s * SECTOR, k);
		if (!ok)
			ksft_print_msg("%s, op %zu of %zu: sector %zu has %#x",
				       path, k, n_ops, s, got[s * SECTOR]);
	}
	return ok;
}

static bool open_disk(const char *path, struct blk_img **m)
{
	struct blk_error e = { .err = 0 };

	if (!blk_img_open(path, false, "qcow2", BLK_IMG_WRITE |
			  BLK_IMG_BUFFERED, NULL, m, &e))
		return true;
	ksft_print_msg("%s: %s", path, e.msg);
	return false;
}

static bool recovers(void *opaque, const char *path)
{
	static uint8_t buf[70000];
	struct blk_img *m = NULL;
	bool ok = !sh("qemu-img check -q -r leaks %s >/dev/null 2>&1", path) &&
		open_disk(path, &m) &&
		!blk_img_write(m, buf, sizeof(buf), 100, NULL);

	if (blk_img_close(m, NULL))
		ok = false;
	return ok && img_has_leaks(path, 0);
}

/* One change: sectors [from, from + n) */
static int change(struct blk_img *m, uint64_t from, uint64_t n, int kind,
		  struct blk_error *e)
{
	struct version *v = &version[n_versions++];
	static uint8_t buf[DISK];
	uint64_t off = from * SECTOR, len = n * SECTOR;

	*v = (struct version){ .durable = SIZE_MAX };
	v->byte = kind == 'w' || kind == 'c' ? (uint8_t)n_versions : 0;
	memset(v->covers + from, 1, n);
	memset(buf, v->byte, len);
	if (kind == 'c')
		return blk_img_write_compressed(m, buf, len, off, e);
	return kind == 'w' ? blk_img_write(m, buf, len, off, e) :
		blk_img_write_zeroes(m, off, len, kind == 'u', e);
}

static void are_durable(void)
{
	for (size_t v = 0; v < n_versions; v++)
		if (version[v].durable == SIZE_MAX)
			version[v].durable = n_ops;
}

/* @kind: w: write; c: compressed; z: zeroes; u: zeroes that unmap; f: flush; 0: the end */
struct step {
	uint64_t from, n;
	int kind;
};

static const struct step many[] = {
	{ 0, 128, 'w' }, { 3, 7, 'w' }, { 0, 0, 'f' }, { 64, 256, 'w' },
	{ 4096, 40, 'w' }, { 64, 256, 'u' }, { 200, 90, 'w' }, { 0, 0, 'f' },
	{ 4096, 128, 'z' }, { 4100, 3, 'w' }, { 7000, 300, 'w' },
	{ 1, 1, 'w' }, { 0, 0, 'f' }, { 0, 512, 'u' }, { 7000, 128, 'w' },
	{ 128, 128, 'w' }, {}
};

/* With clusters of 4k, sector 4096 is in another table: no flush is asked for. */
static const struct step tables[] = {
	{ 0, 16, 'w' }, { 4096, 8, 'w' }, { 9, 3, 'w' }, { 16, 8, 'w' },
	{ 4104, 5, 'w' }, { 0, 8, 'u' }, { 4096, 8, 'u' }, { 24, 8, 'w' }, {}
};

/* Where packed clusters share what others give up */
static const struct step packed[] = {
	{ 0, 256, 'c' }, { 0, 0, 'f' }, { 256, 128, 'c' }, { 0, 128, 'c' },
	{ 128, 128, 'w' }, { 3072, 256, 'c' }, { 0, 0, 'f' }, { 0, 384, 'u' },
	{ 512, 128, 'c' }, { 0, 0, 'f' }, { 640, 128, 'c' }, { 3, 5, 'w' },
	{ 3072, 256, 'c' }, {}
};

static int changes(struct blk_img *m, const struct step *all,
		   struct blk_error *e)
{
	int ret = 0;

	for (; all->kind && !ret; all++) {
		if (all->kind != 'f') {
			ret = change(m, all->from, all->n, all->kind, e);
			continue;
		}
		ret = blk_img_flush(m, e);
		are_durable();
	}
	return ret;
}

static bool make(const char *opts, const char *more)
{
	return !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 4M && "
		   "qemu-io -f qcow2 -c 'write -P %d 0 1M' -c 'write -c -P 241 1M 64k' "
		   "-c 'write -P 242 2M 10k' i.qcow2 >/dev/null && (%s) && "
		   "cp i.qcow2 base.qcow2", opts, BASE, more) &&
		read_disk("base.qcow2", base);
}

static void test_power(const char *opts, const char *more,
		       const struct step *all, size_t step)
{
	struct cut_judge j = { state_ok, recovers, NULL };
	struct blk_error e = { .err = 0 };
	struct blk_img *m = NULL;
	unsigned int states = 0;
	bool ok;

	cut_forget();
	n_versions = 0;
	ok = make(opts, more) && open_disk("i.qcow2", &m);
	if (ok) {
		blk_img_file(m)->hook = cut_log;
		ok = !changes(m, all, &e);
		if (blk_img_close(m, &e))
			ok = false;
		are_durable();
	}
	ok = ok && img_has_leaks("i.qcow2", 0) &&
		state_ok(NULL, "i.qcow2", n_ops) &&
		cut_replay(&j, step, &states);
	ksft_test_result(ok, "%u states of %zu ops: %s; %s %s", states, n_ops,
			 opts, more, e.msg);
}

int main(void)
{
	static const char snap[] = "qemu-img snapshot -c a i.qcow2";

	img_start_fast();
	sh("dd if=/dev/urandom of=b.raw bs=1M count=4 status=none");
	test_power("", ":", many, 1);
	test_power("", snap, many, 1);
	test_power("-o cluster_size=4k -b b.raw -F raw", snap, many, 4);
	test_power("-o extended_l2=on -b b.raw -F raw", snap, many, 2);
	test_power("-o compat=0.10", snap, many, 2);
	test_power("-o cluster_size=4k", snap, tables, 1);
	test_power("", ":", packed, 1);
	test_power("-o cluster_size=4k", snap, packed, 2);
	test_power("-o cluster_size=4k,refcount_bits=1", ":", packed, 4);
	cut_forget();
	ksft_finished();
}
