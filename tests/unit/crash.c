// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A power cut at every point of a life from attach to detach.
 *
 * All changes of the image are logged, then played back onto a copy up to each
 * point; between two flushes also out of order and with writes torn at sectors.
 * Every state must pass qemu-img check with at most leaks, hold what was
 * acknowledged, and be free of leaks after the next attach and detach.
 */
#include "powercut.h"

/* A write that was acknowledged before op number @at */
struct ack {
	size_t at;
	uint64_t guest;
	uint8_t byte;
};

static struct ack acks[256];
static size_t n_acks;

static void forget_log(void)
{
	cut_forget();
	n_acks = 0;
}

/* Everything acknowledged before op @k and not written again is there. */
static bool holds_acked(const char *path, size_t k, uint64_t cs)
{
	char cmd[4096];
	int pos = snprintf(cmd, sizeof(cmd), "qemu-io -r -U -f qcow2 ");
	bool any = false;

	for (size_t i = 0; i < n_acks && pos < 3900; i++) {
		if (acks[i].at > k)
			continue;
		any = true;
		pos += snprintf(cmd + pos, sizeof(cmd) - pos,
				"-c 'read -P %u %llu %llu' ", acks[i].byte,
				(unsigned long long)acks[i].guest,
				(unsigned long long)cs);
	}
	return !any || !sh("%s %s >/dev/null 2>&1", cmd, path);
}

/* The next attach finds the mark, if anything could leak, and repairs. */
static bool recovers(void *opaque, const char *path)
{
	struct img i;
	bool was = false;
	bool ok = img_open(&i, path) &&
		!blk_qcow2_pad(i.q, true, &i.e) &&
		!blk_qcow2_mark(i.q, &was, &i.e);

	if (ok && was)
		ok = img_scan(&i) >= 0;
	ok = ok && img_detach(&i);
	return ok && img_has_leaks(path, 0);
}

static bool state_ok(void *opaque, const char *path, size_t k)
{
	uint64_t cs = *(uint64_t *)opaque;
	struct img_check c = img_check(path);

	if ((c.rc != 0 && c.rc != 3) || c.corruptions ||
	    !holds_acked(path, k, cs)) {
		ksft_print_msg("op %zu of %zu: check says %d, %ld corruptions",
			       k, n_ops, c.rc, c.corruptions);
		return false;
	}
	return true;
}

static bool replay(uint64_t cs, size_t step, unsigned int *states)
{
	struct cut_judge j = { state_ok, recovers, &cs };

	return cut_replay(&j, step, states);
}

static void acked(uint64_t guest, uint8_t byte)
{
	for (size_t i = 0; i < n_acks; i++)
		if (acks[i].guest == guest)
			acks[i--] = acks[--n_acks];
	if (byte)
		acks[n_acks++] = (struct ack){ n_ops, guest, byte };
}

static bool write_acked(struct img *i, uint64_t guest, uint8_t byte)
{
	acked(guest, 0);	/* old or new content until it is done */
	if (!img_write(i, guest, byte))
		return false;
	acked(guest, byte);
	return true;
}

/* A short life that touches everything that is written */
static bool live(struct img *i, uint64_t grant, unsigned int grants)
{
	bool ok = true;

	for (unsigned int g = 0; g < grants && ok; g++)
		ok = img_grant(i, grant);
	for (uint64_t k = 0; k < 6 && ok; k++)
		ok = write_acked(i, k * 5 * i->cs, (uint8_t)(k + 1));
	acked(5 * i->cs, 0);
	ok = ok && img_discard(i, 5 * i->cs) && img_grant(i, 4 * i->cs) &&
		write_acked(i, 7 * i->cs, 77);
	return ok;
}

static void test_life(const char *opts, const char *fill, uint64_t grant,
		      unsigned int grants, size_t step)
{
	bool grows = strstr(opts, "refcount_bits=64"), was = false, ok;
	unsigned int states = 0;
	uint64_t cs = 0, table = 0;
	struct img i;

	forget_log();
	ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 64M && "
		 "qemu-io -f qcow2 -c '%s' i.qcow2 >/dev/null && "
		 "cp i.qcow2 base.qcow2",
		 opts, fill) && img_open(&i, "i.qcow2");
	if (ok) {
		cs = i.cs;
		table = i.h->refcount_table_offset;
		i.f->hook = cut_log;
		blk_qcow2_set_ops(i.q, &img_ops, &i);
		ok = !blk_qcow2_pad(i.q, true, &i.e) &&
			!blk_qcow2_mark(i.q, &was, &i.e) &&
			live(&i, grant, grants) &&
			grows == (i.h->refcount_table_offset != table) &&
			img_detach(&i);
	}
	ok = ok && img_has_leaks("i.qcow2", 0) && replay(cs, step, &states);
	ksft_test_result(ok, "%u states of %zu writes: %s", states, n_ops,
			 opts);
}

/* A crash while the repair of a crash runs */
static void test_repair(const char *opts)
{
	unsigned int states = 0;
	struct img i;
	uint64_t cs = 0;
	bool ok, was = false;

	forget_log();
	ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 64M",
		 opts) && img_attach(&i, "i.qcow2", &was) &&
		live(&i, 20 * i.cs, 2);
	img_close(&i);
	for (size_t k = 0; k < n_acks; k++)
		acks[k].at = 0;
	ok = ok && !sh("cp i.qcow2 base.qcow2") && img_open(&i, "i.qcow2");
	if (ok) {
		cs = i.cs;
		i.f->hook = cut_log;
		ok = !blk_qcow2_pad(i.q, true, &i.e) &&
			!blk_qcow2_mark(i.q, &was, &i.e) && was &&
			img_scan(&i) > 0 && img_grant(&i, 3 * i.cs) &&
			img_detach(&i);
	}
	ok = ok && replay(cs, 1, &states);
	ksft_test_result(ok, "%u states of %zu writes of a repair: %s", states,
			 n_ops, opts);
}

int main(void)
{
	img_start_fast();
	sh("truncate -s 64k base.raw");
	test_life("", "length", 1 << 20, 2, 1);
	test_life("-b base.raw -F raw", "length", 200 << 10, 2, 1);
	test_life("-o cluster_size=4k,refcount_bits=1", "length", 300 << 10, 2,
		  1);
	/* the refcount table grows: in many steps, and closely looked at */
	test_life("-o cluster_size=1k,refcount_bits=64", "length", 12 << 20, 3,
		  17);
	test_life("-o cluster_size=512,refcount_bits=64", "write 32M 1920k",
		  60 << 10, 2, 1);
	test_life("-o compat=0.10,cluster_size=4k", "length", 9 << 20, 1, 1);
	test_repair("");
	test_repair("-o cluster_size=512,refcount_bits=2");
	forget_log();
	ksft_finished();
}
