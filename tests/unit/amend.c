// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Amending, and another backing file: power cuts at every write.
 */
#include "powercut.h"

struct change {
	const char *opts;
	const char *more;
	uint32_t version;
	uint32_t bits;
	int lazy;
	const char *backing;
	bool old_table;		/* snapshots as before QEMU 0.14 */
};

static int change(struct img *i, const struct change *c)
{
	struct blk_qcow2_amend a = {
		.version = c->version, .refcount_bits = c->bits,
		.lazy_refcounts = c->lazy, .data_file_raw = -1,
	};

	return c->backing ?
		blk_qcow2_set_backing(i->q, c->backing, "raw", &i->e) :
		blk_qcow2_amend(i->q, &a, &i->e);
}

/* The first snapshot, without extra data */
static bool make_old(void)
{
	uint8_t entry[512];
	uint32_t extra, names;
	uint64_t at;
	struct img i;
	bool ok = img_open(&i, "i.qcow2");

	at = ok ? i.h->snapshots_offset : 0;
	ok = ok && at && !blk_file_read(i.f, entry, sizeof(entry), at);
	if (ok) {
		extra = blk_get_be32(entry + 36);
		names = (uint32_t)(blk_get_be16(entry + 12) +
				   blk_get_be16(entry + 14));
		memmove(entry + 40, entry + 40 + extra, names);
		blk_put_be32(entry + 36, 0);
		ok = extra && !blk_file_write(i.f, entry, sizeof(entry), at);
	}
	img_close(&i);
	return ok && !sh("cp i.qcow2 base.qcow2");
}

static bool make(const struct change *c)
{
	return !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 4M && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 1M' -c 'write -z 512k 64k' "
		   "-c 'write -c -P 2 2M 64k' i.qcow2 >/dev/null && (%s) && "
		   "cp i.qcow2 base.qcow2 && "
		   "qemu-img convert -f qcow2 -O raw i.qcow2 want.raw",
		   c->opts, c->more);
}

/* Each disk is what it was, with one backing file or with the other. */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	const struct change *c = opaque;
	struct img_check k_ = img_check(path);
	bool ok = (k_.rc == 0 || k_.rc == 3) && !k_.corruptions &&
		!sh("qemu-img compare -U -f qcow2 -F raw %s want.raw >/dev/null",
		    path);

	if (!ok)
		ksft_print_msg("%s %s: op %zu of %zu: check says %d, %ld corruptions",
			       path, c->opts, k, n_ops, k_.rc, k_.corruptions);
	return ok;
}

static bool recovers(void *opaque, const char *path)
{
	const struct change *c = opaque;
	struct img i;
	/* a scan does not lower a count to 1, which asks for COPIED */
	bool ok = !sh("qemu-img check -q -r leaks %s >/dev/null 2>&1", path) &&
		img_open(&i, path) && img_ok(&i, change(&i, c), "again");

	img_close(&i);
	return ok && img_has_leaks(path, 0) && state_ok(opaque, path, 0);
}

static void test_power(struct change c, size_t each)
{
	struct cut_judge j = { state_ok, recovers, &c };
	unsigned int states = 0;
	struct img i;
	bool ok;

	cut_forget();
	ok = make(&c) && (!c.old_table || make_old()) &&
		img_open(&i, "i.qcow2");
	if (ok) {
		i.f->hook = cut_log;
		ok = img_ok(&i, change(&i, &c), "change");
		img_close(&i);
	}
	ok = ok && img_has_leaks("i.qcow2", 0) && state_ok(&c, "i.qcow2", 0) &&
		cut_replay(&j, each, &states);
	ksft_test_result(ok, "%u states of %zu writes: %s; to version %u, %u bits, %s",
			 states, n_ops, c.opts, c.version, c.bits,
			 c.backing ? c.backing : "");
}

/* A name that the header cluster has no room for changes nothing. */
static void test_room(void)
{
	char name[600];
	struct img i;
	int ret = 0;
	bool ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 -o cluster_size=512 i.qcow2 1M && "
		      "cp i.qcow2 before.qcow2") && img_open(&i, "i.qcow2");

	memset(name, 'x', sizeof(name));
	name[480] = '\0';
	if (ok)
		ret = blk_qcow2_set_backing(i.q, name, "raw", &i.e);
	ksft_test_result(ok && ret == -ENOSPC && !sh("cmp i.qcow2 before.qcow2"),
			 "no room: %s", i.e.msg);
	img_close(&i);
}

int main(void)
{
	static const char snap[] = "qemu-img snapshot -c a i.qcow2; "
		"qemu-io -f qcow2 -c 'write -z 64k 64k' i.qcow2 >/dev/null";
	static const char base[] = "-b b1.raw -F raw";

	img_start_fast();
	sh("dd if=/dev/urandom of=b1.raw bs=1M count=4 status=none; cp b1.raw b2.raw; "
	   "cp b1.raw $(printf %%0200d 0).raw");
	test_power((struct change){ "-o compat=0.10", snap, 3, 0, 1, NULL, false }, 1);
	test_power((struct change){ "-o compat=0.10", snap, 3, 0, 1,
				    NULL, true }, 1);
	test_power((struct change){ "", snap, 2, 0, -1, NULL, false }, 1);
	test_power((struct change){ "-b b1.raw -F raw", snap, 2, 0, -1, NULL, false }, 2);
	test_power((struct change){ "", snap, 0, 64, -1, NULL, false }, 1);
	test_power((struct change){ "-o cluster_size=4k", snap, 0, 8, 1, NULL, false }, 2);
	test_power((struct change){ base, snap, 0, 0, -1, "b2.raw", false }, 1);
	test_power((struct change){ base, ":", 0, 0, -1,
		"00000000000000000000000000000000000000000000000000"
		"00000000000000000000000000000000000000000000000000"
		"00000000000000000000000000000000000000000000000000"
		"00000000000000000000000000000000000000000000000000.raw", false }, 1);
	test_room();
	cut_forget();
	ksft_finished();
}
