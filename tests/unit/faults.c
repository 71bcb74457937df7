// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Errors of the host in the middle of everything: each write, zeroing and
 * flush fails once, or for ever from then on.  Whatever is reported, the image
 * must have no errors, no grant may be given twice, and the next attach must
 * find every leak.
 */
#include "image.h"

struct fault {
	long n;		/* changes so far */
	long at;	/* which one fails */
	bool ever;	/* and all after it */
	int err;
};

static int fail_op(void *opaque, enum blk_file_op op, uint64_t off,
		   uint64_t len, const void *data)
{
	struct fault *f = opaque;
	long n = f->n++;

	return n == f->at || (f->ever && n > f->at) ? f->err : 0;
}

static bool overlap(const struct img *i)
{
	for (size_t k = 0; k < i->n_grants; k++)
		for (size_t j = 0; j < k; j++) {
			const struct dm_qcow_run *a = &i->grant[k];
			const struct dm_qcow_run *b = &i->grant[j];

			if (a->length && b->length &&
			    a->offset < b->offset + b->length &&
			    b->offset < a->offset + a->length)
				return true;
		}
	return false;
}

/* Like img_grant, but errors are expected. */
static void try_grant(struct img *i, uint64_t bytes)
{
	struct dm_qcow_run runs[64];
	size_t n = 64;

	if (blk_qcow2_alloc(i->q, bytes, runs, &n, &i->e))
		return;
	i->grant = realloc(i->grant, (i->n_grants + n) * sizeof(*runs));
	memcpy(i->grant + i->n_grants, runs, n * sizeof(*runs));
	i->n_grants += n;
}

static void try_release(struct img *i, size_t k)
{
	if (k >= i->n_grants || !i->grant[k].length)
		return;
	blk_qcow2_release(i->q, &i->grant[k], 1, &i->e);
	i->grant[k].length = 0;
}

/* Attach, grants, releases, detach; the rest goes on after an error. */
static bool life(struct img *i, struct fault *f, uint64_t grant)
{
	bool was, ok;

	if (!img_open(i, "w.qcow2"))
		return false;
	i->f->hook = fail_op;
	i->f->hook_opaque = f;
	blk_qcow2_set_ops(i->q, &img_ops, i);
	if (blk_qcow2_pad(i->q, true, &i->e) ||
	    blk_qcow2_mark(i->q, &was, &i->e)) {
		img_close(i);
		return true;
	}
	for (int k = 0; k < 3; k++)
		try_grant(i, grant);
	ok = !overlap(i);
	try_release(i, 0);
	try_grant(i, 2 * grant);
	ok = ok && !overlap(i);
	for (size_t k = 0; k < i->n_grants; k++)
		try_release(i, k);
	blk_qcow2_trim(i->q, &i->e);
	blk_qcow2_unmark(i->q, &i->e);
	img_close(i);
	return ok;
}

static bool repaired(void)
{
	struct img i;
	bool was = false;
	bool ok = img_attach(&i, "w.qcow2", &was);

	if (ok && was)
		ok = img_scan(&i) >= 0;
	return ok && img_detach(&i) && img_has_leaks("w.qcow2", 0);
}

static bool one_fault(long at, bool ever, int err, uint64_t grant, long *n)
{
	struct fault f = { .at = at, .ever = ever, .err = err };
	struct img_check c;
	struct img i;
	bool ok = !sh("cp --sparse=always base.qcow2 w.qcow2") &&
		life(&i, &f, grant);

	c = img_check("w.qcow2");
	ok = ok && (c.rc == 0 || c.rc == 3) && !c.corruptions && repaired();
	if (!ok)
		ksft_print_msg("change %ld fails%s: check said %d, %ld corruptions",
			       at, ever ? " and all after it" : "", c.rc,
			       c.corruptions);
	*n = f.n > at ? at + 2 : 0;
	return ok;
}

static void test_faults(const char *opts, const char *fill, uint64_t grant,
			int err)
{
	bool ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s base.qcow2 64M && "
		      "qemu-io -f qcow2 -c '%s' base.qcow2 >/dev/null",
		      opts, fill);
	long k = 0, n = 1, ignored;

	/* until nothing failed, for the life was over before */
	for (; k < n && ok; k++)
		ok = one_fault(k, true, err, grant, &ignored) &&
			one_fault(k, false, err, grant, &n);
	ksft_test_result(ok && k > 10, "%s at each of %ld changes: %s",
			 strerror(-err), k - 1, opts);
}

int main(void)
{
	img_start_fast();
	test_faults("", "length", 1 << 20, -EIO);
	test_faults("", "length", 1 << 20, -ENOSPC);
	test_faults("-o cluster_size=4k,refcount_bits=64", "write 0 2020k",
		    200 << 10, -EIO);
	test_faults("-o cluster_size=512,refcount_bits=64", "write 32M 1920k",
		    40 << 10, -EIO);
	test_faults("-o cluster_size=512,refcount_bits=64", "write 32M 1920k",
		    40 << 10, -ENOSPC);
	ksft_finished();
}
