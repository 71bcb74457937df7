// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Repairs of damaged images: power cuts at every write of them.
 *
 * In every state the disk reads as before, and nothing is worse than it was:
 * no refcount more is too low, and there are no more corruptions, unless the
 * image is marked as dirty.  The repair can be done again, and ends clean; by
 * QEMU too, which is tried with some of the states.
 */
#include "fmt/qcow2_audit.h"
#include "img/image.h"
#include "powercut.h"
#include "qcow2/refcount.h"

#define HEADER_TABLE_AT		48
#define HEADER_INCOMPAT_AT	72
#define DISK			(2U << 20)	/* bytes of the disk */

enum damage {
	LEAKS = 1,		/* refcounts too high */
	LOW = 2,		/* ... too low */
	COPIED = 4,
	BLOCK_GONE = 8,		/* no refcount block */
	BLOCK_OUTSIDE = 16,
	BLOCK_IS_DATA = 32,	/* the block's offset is that of an L2 table */
	TABLE_OUTSIDE = 64,
	TABLE_IS_L1 = 128,
	RESERVED = 256,		/* reserved bits in L2 entries */
};

/**
 * struct first - the damaged image
 * @all: -r all, else -r leaks
 * @low: refcounts that are too low
 * @qemu: QEMU can repair it
 */
struct first {
	bool all;
	struct img_check c;
	int low;
	bool qemu;
};

static unsigned int seed;

static unsigned int dice(unsigned int n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 16) % n;
}

/* By the image library; false: it differs, or cannot be read so */
static bool reads_the_same(const char *path)
{
	static uint8_t want[DISK], now[DISK];
	struct blk_img *m = NULL;
	FILE *fp = fopen("want.raw", "r");
	bool ok = fp && fread(want, 1, DISK, fp) == DISK &&
		!blk_img_open(path, false, "qcow2", BLK_IMG_NO_LOCK |
			      BLK_IMG_BUFFERED, NULL, &m, NULL) &&
		blk_img_size(m) == DISK &&
		!blk_img_read(m, now, DISK, 0, NULL) &&
		!memcmp(want, now, DISK);

	if (fp)
		fclose(fp);
	if (m)
		blk_img_close(m, NULL);
	return ok;
}

/* Each eighth time QEMU is asked, and where we do not say yes. */
static bool same_as_before(const char *path)
{
	static unsigned int asked;

	if (asked++ % 8 && reads_the_same(path))
		return true;
	return !sh("qemu-img compare -U -f qcow2 -F raw %s want.raw >/dev/null",
		   path);
}

static int too_low(const char *path)
{
	char text[32] = "-1";
	FILE *fp;

	if (sh("qemu-img check -U -f qcow2 %s 2>&1 | "
	       "grep -c '^ERROR cluster .* refcount=' >low", path) > 1)
		return -1;
	fp = fopen("low", "r");
	if (fp && !fgets(text, sizeof(text), fp))
		text[0] = '\0';
	if (fp)
		fclose(fp);
	return atoi(text);
}

/*
 * Damage
 */

static bool plant_refcounts(struct img *i, unsigned int damage)
{
	uint32_t order = i->h->refcount_order;
	uint64_t n = 1ULL << blk_refcount_block_bits(i->h->cluster_bits, order);
	uint64_t max = BLK_MIN(1U << (1U << BLK_MIN(order, 2U)), 8U) - 1;
	uint64_t table = i->h->refcount_table_offset;
	uint8_t *b = malloc(i->cs);
	bool ok = true;

	for (uint64_t k = 0; k < i->cs / 8 && ok; k++) {
		uint64_t off = img_be64(i, table + k * 8);

		if (!off)
			continue;
		ok = !blk_file_read(i->f, b, i->cs, off);
		for (uint64_t c = 0; c < BLK_MIN(n, 60U); c++) {
			uint64_t refs = blk_refcount_get(b, order, c);

			if (damage & LEAKS && refs < max && !dice(4))
				blk_refcount_set(b, order, c, refs + 1);
			else if (damage & LOW && refs && !dice(4))
				blk_refcount_set(b, order, c, refs - 1);
		}
		ok = ok && !blk_file_write(i->f, b, i->cs, off);
	}
	free(b);
	return ok;
}

/* Every third entry of the first active table */
static void plant_entries(struct img *i, unsigned int damage)
{
	uint64_t step = i->h->incompatible_features & QCOW2_INCOMPAT_EXTL2 ?
		16 : 8;
	uint64_t at = i->h->l1_table_offset, l1 = img_be64(i, at);
	uint64_t l2 = l1 & QCOW2_OFFSET_MASK;

	for (uint64_t o = 0; o < BLK_MIN(i->cs, 1024U); o += step) {
		uint64_t e = img_be64(i, l2 + o);

		if (!(e & QCOW2_OFFSET_MASK) || e & QCOW2_L2_COMPRESSED)
			continue;
		if (damage & COPIED && !dice(3))
			e &= ~QCOW2_ENTRY_COPIED;
		if (damage & RESERVED && !dice(3))
			e |= 1ULL << 58;
		img_put_be64(i, l2 + o, e);
	}
	if (damage & COPIED)
		img_put_be64(i, at, l1 & ~QCOW2_ENTRY_COPIED);
}

static void plant_structures(struct img *i, unsigned int damage)
{
	uint64_t table = i->h->refcount_table_offset;
	uint64_t l1 = i->h->l1_table_offset;

	if (damage & BLOCK_GONE)
		img_put_be64(i, table, 0);
	if (damage & BLOCK_OUTSIDE)
		img_put_be64(i, table, 1ULL << 40);
	if (damage & BLOCK_IS_DATA)
		img_put_be64(i, table, img_be64(i, l1) & QCOW2_OFFSET_MASK);
	if (damage & TABLE_OUTSIDE)
		img_put_be64(i, HEADER_TABLE_AT, 1ULL << 40);
	if (damage & TABLE_IS_L1)
		img_put_be64(i, HEADER_TABLE_AT, blk_align_down(l1, i->cs));
}

static bool make(const char *opts, const char *more, unsigned int damage)
{
	struct img i;
	bool ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 2M && "
		      "qemu-io -f qcow2 -c 'write -P 1 0 200k' -c 'write -P 2 1M 100k' "
		      "-c 'discard 64k 64k' i.qcow2 >/dev/null && (%s) && "
		      "qemu-img convert -U -f qcow2 -O raw i.qcow2 want.raw",
		      opts, more) && img_open(&i, "i.qcow2");

	if (!ok)
		return false;
	seed = 1;
	ok = plant_refcounts(&i, damage);
	if (damage & (COPIED | RESERVED))
		plant_entries(&i, damage);
	plant_structures(&i, damage);
	img_close(&i);
	return ok && !sh("cp i.qcow2 base.qcow2");
}

/*
 * Repair
 */

static bool open_damaged(struct img *i, const char *path)
{
	memset(i, 0, sizeof(*i));
	return img_ok(i, blk_file_open(path, BLK_FILE_WRITE, &i->f, &i->e),
		      "open the file") &&
		img_ok(i, blk_qcow2_open_damaged(i->f, &i->q, &i->e),
		       "open the image");
}

/* As "blkctl image check -r" */
static bool repair(const char *path, bool all, bool log)
{
	struct blk_audit a = { .errors = 0 };
	struct img i;
	bool ok = open_damaged(&i, path);

	if (ok && log)
		i.f->hook = cut_log;
	ok = ok && img_ok(&i, blk_qcow2_audit(i.q, 1, NULL, &a, &i.e), "audit");
	if (ok && (a.leaks || a.errors || (all && a.corruptions)))
		ok = img_ok(&i, blk_qcow2_audit_fix(i.q, &a, all, &i.e), "fix");
	blk_audit_clear(&a);
	ok = ok && img_ok(&i, blk_qcow2_audit(i.q, 1, NULL, &a, &i.e), "audit");
	if (ok && !a.errors && !a.corruptions)
		ok = img_ok(&i, blk_qcow2_audit_clean(i.q, &i.e), "clean");
	blk_audit_clear(&a);
	img_close(&i);
	return ok;
}

static bool is_dirty(const char *path)
{
	struct img i;
	uint8_t head[80] = { 0 };
	bool ok = !blk_file_open(path, 0, &i.f, NULL);

	if (ok && !blk_file_read(i.f, head, sizeof(head), 0))
		ok = blk_get_be32(head + 4) >= 3 &&
			blk_get_be64(head + HEADER_INCOMPAT_AT) &
			QCOW2_INCOMPAT_DIRTY;
	if (i.f)
		blk_file_close(i.f);
	return ok;
}

/*
 * A version 2 image cannot say that it is dirty: there, where a refcount is too
 * high, COPIED and it are for a moment not what they will be.
 */
static bool no_worse(const struct first *f, const char *path,
		     const struct img_check *c)
{
	struct img i;
	long more = 0;

	if (c->corruptions <= f->c.corruptions || is_dirty(path))
		return true;
	if (!open_damaged(&i, path))
		return false;
	if (blk_qcow2_header(i.q)->version < 3)
		more = f->c.leaks;
	img_close(&i);
	return c->corruptions <= f->c.corruptions + more;
}

static bool state_ok(void *opaque, const char *path, size_t k)
{
	const struct first *f = opaque;
	struct img_check c;
	bool same, ok;
	int low;

	if (cut_seen(path, 0, false))
		return true;
	c = img_check(path);
	low = c.corruptions > 0 && f->low < c.corruptions ? too_low(path) : 0;
	same = same_as_before(path);
	ok = same && low >= 0 && low <= f->low && no_worse(f, path, &c);
	if (ok)
		cut_seen(path, 0, true);
	else
		ksft_print_msg("%s, op %zu of %zu: %ld corruptions, %d too low; at first %ld, %d; content %s",
			       path, k, n_ops, c.corruptions, low,
			       f->c.corruptions, f->low, same ? "same" : "CHANGED");
	return ok;
}

static bool is_done(const struct first *f, const char *path)
{
	if (f->all || !f->c.corruptions)
		return img_has_leaks(path, 0) && same_as_before(path);
	return state_ok((void *)f, path, n_ops);
}

static bool qemu_repairs(const char *path)
{
	return !sh("cp %s q.qcow2; qemu-img check -q -r all q.qcow2 "
		   ">/dev/null 2>&1", path) && same_as_before("q.qcow2");
}

static bool recovers(void *opaque, const char *path)
{
	const struct first *f = opaque;

	if (cut_seen(path, 1, true))
		return true;
	if (f->qemu && !dice(3) && !qemu_repairs(path)) {
		ksft_print_msg("QEMU cannot repair it");
		return false;
	}
	return repair(path, f->all, false) && is_done(f, path);
}

static void test_power(const char *opts, const char *more, bool all,
		       unsigned int damage)
{
	struct first f = { .all = all };
	struct cut_judge j = { state_ok, recovers, &f };
	unsigned int states = 0;
	bool ok;

	cut_forget();
	ok = make(opts, more, damage);
	f.c = img_check("base.qcow2");
	f.low = too_low("base.qcow2");
	f.qemu = ok && qemu_repairs("base.qcow2");
	ok = ok && (f.c.corruptions || f.c.leaks || f.c.rc > 0) &&
		repair("i.qcow2", all, true) && is_done(&f, "i.qcow2") &&
		cut_replay(&j, 1, &states);
	ksft_test_result(ok, "%u states of %zu ops, damage %#x (%ld corruptions, %d low, %ld leaks), -r %s: %s; %s",
			 states, n_ops, damage, f.c.corruptions, f.low,
			 f.c.leaks, all ? "all" : "leaks", opts, more);
}

#define SNAPSHOT	"qemu-img snapshot -c a i.qcow2 && " \
			"qemu-io -f qcow2 -c 'write -P 9 64k 64k' i.qcow2 >/dev/null"
#define PACKED		"qemu-io -f qcow2 -c 'write -c -P 7 512k 64k' i.qcow2 >/dev/null"

int main(void)
{
	img_start_fast();
	test_power("", SNAPSHOT, false, LEAKS | LOW);
	test_power("", SNAPSHOT, true, LEAKS | LOW | COPIED);
	test_power("-o compat=0.10", SNAPSHOT, false, LEAKS);
	test_power("-o compat=0.10", SNAPSHOT, true, LEAKS | LOW | COPIED);
	test_power("-o extended_l2=on", PACKED, true, LOW | COPIED);
	test_power("-o cluster_size=4k,refcount_bits=1", ":", true,
		   LEAKS | LOW | BLOCK_GONE);
	test_power("-o cluster_size=512", ":", true, RESERVED);
	test_power("", SNAPSHOT, true, BLOCK_GONE | COPIED);
	test_power("-o cluster_size=4k", PACKED, true, BLOCK_OUTSIDE | COPIED);
	test_power("", ":", true, BLOCK_IS_DATA);
	test_power("", SNAPSHOT, true, TABLE_OUTSIDE);
	test_power("", ":", true, TABLE_IS_L1 | COPIED);
	cut_forget();
	ksft_finished();
}
