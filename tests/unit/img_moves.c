// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Power cuts while what an image reads as moves to another place: commit, safe
 * rebase, preallocation.
 *
 * The disk of the whole chain reads the same in every state, no image has
 * corruptions, and it can be done again.
 */
#include "img/image.h"
#include "powercut.h"

#define CHUNK	(1U << 18)

static uint8_t chunk[CHUNK];

static bool same(const char *path)
{
	bool ok = !sh("qemu-img compare -U -f qcow2 -F raw %s want.raw >/dev/null",
		      path);

	if (!ok)
		ksft_print_msg("%s reads as something else", path);
	return ok;
}

static bool is_sound(const char *path)
{
	struct img_check c = img_check(path);
	bool ok = (c.rc == 0 || c.rc == 3) && !c.corruptions;

	if (!ok)
		ksft_print_msg("%s: check says %d, %ld corruptions", path, c.rc,
			       c.corruptions);
	return ok;
}

static bool no_leaks(const char *path)
{
	return !sh("qemu-img check -q -r leaks %s >/dev/null 2>&1", path) &&
		img_has_leaks(path, 0);
}

static struct blk_img *open_disk(const char *path, unsigned int flags)
{
	struct blk_error e = { .err = 0 };
	struct blk_img *m = NULL;

	if (blk_img_open(path, false, "qcow2", flags | BLK_IMG_BUFFERED, NULL,
			 &m, &e))
		ksft_print_msg("%s: %s", path, e.msg);
	return m;
}

static void log_it(struct blk_img *m, bool log)
{
	if (m && log)
		blk_img_file(m)->hook = cut_log;
}

static bool closed(struct blk_img *m, int ret, const char *what)
{
	struct blk_error e = { .err = 0 };

	if (blk_img_close(m, &e) && !ret)
		ret = -EIO;
	if (ret)
		ksft_print_msg("%s: %d %s", what, ret, e.msg);
	return !ret;
}

/*
 * Commit: first only the base is written, then only the overlay
 */

/* What @view has of its own, into the base */
static int copy_down(struct blk_img *view, struct blk_img *base)
{
	uint64_t size = blk_img_size(view);
	struct blk_extent x;
	int ret = 0;

	for (uint64_t off = 0; off < size && !ret; off += x.len) {
		ret = blk_img_map(view, off, BLK_MIN(size - off, CHUNK), &x,
				  NULL);
		if (ret || x.layer || x.kind == BLK_EXT_HOLE)
			continue;
		if (x.kind == BLK_EXT_ZERO) {
			ret = blk_img_write_zeroes(base, off, x.len, true,
						   NULL);
			continue;
		}
		ret = blk_img_read(view, chunk, x.len, off, NULL);
		if (!ret)
			ret = blk_img_write(base, chunk, x.len, off, NULL);
	}
	return ret ? ret : blk_img_flush(base, NULL);
}

/* @sure: so many ops were done when the base was said to be durable */
static bool write_base(const char *top, const char *base, bool log,
		       size_t *sure)
{
	struct blk_img *view = open_disk(top, BLK_IMG_NO_LOCK);
	struct blk_img *m = open_disk(base, BLK_IMG_WRITE);
	int ret = m && view ? 0 : -EIO;

	log_it(m, log);
	if (!ret)
		ret = copy_down(view, m);
	*sure = n_ops;
	blk_img_close(view, NULL);
	return closed(m, ret, "write the base");
}

static bool empty_top(const char *top, bool log)
{
	static const struct blk_qcow2_compact how;
	struct blk_img *m = open_disk(top, BLK_IMG_WRITE | BLK_IMG_NO_BACKING);
	int ret = m ? 0 : -EIO;
	uint64_t moved;

	log_it(m, log);
	if (!ret)
		ret = blk_img_empty(m, NULL);
	if (!ret)
		blk_qcow2_compact(blk_img_qcow2(m), &how, &moved, NULL);
	return closed(m, ret, "empty the overlay");
}

/* tw.qcow2 is the overlay above w.qcow2, tv.qcow2 the one above v.qcow2. */
static bool base_state(void *opaque, const char *path, size_t k)
{
	char top[32];

	if (cut_seen(path, 0, false))
		return true;
	snprintf(top, sizeof(top), "t%s", path);
	if (!is_sound(path) || !same(top)) {
		ksft_print_msg("the base, op %zu of %zu", k, n_ops);
		return false;
	}
	return cut_seen(path, 0, true) || true;
}

static bool base_recovers(void *opaque, const char *path)
{
	size_t sure;

	return cut_seen(path, 1, true) ||
		(write_base("tv.qcow2", path, false, &sure) &&
		 no_leaks(path) && same(path));
}

/* Only what was flushed is in low.qcow2. */
static bool keep_durable(size_t sure)
{
	size_t end = sure;
	bool ok = !sh("cp base.qcow2 low.qcow2");
	int fd = open("low.qcow2", O_RDWR | O_CLOEXEC);

	while (end && ops[end - 1].op != BLK_FILE_OP_FLUSH)
		end--;
	for (size_t k = 0; k < end && ok; k++)
		ok = apply(fd, &ops[k], 2);
	close(fd);
	return ok;
}

/* One image: sound, and its chain as before */
static bool state_ok(void *opaque, const char *path, size_t k)
{
	if (cut_seen(path, 0, false))
		return true;
	if (!is_sound(path) || !same(path)) {
		ksft_print_msg("op %zu of %zu", k, n_ops);
		return false;
	}
	return cut_seen(path, 0, true) || true;
}

static bool top_recovers(void *opaque, const char *path)
{
	return cut_seen(path, 1, true) ||
		(empty_top(path, false) && no_leaks(path) && same(path));
}

static bool make_chain(const char *opts)
{
	return !sh("rm -f *.qcow2 && qemu-img create -q -f qcow2 %s b.qcow2 2M && "
		   "qemu-io -f qcow2 -c 'write -P 1 0 700k' b.qcow2 >/dev/null && "
		   "qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 %s i.qcow2 2M && "
		   "qemu-io -f qcow2 -c 'write -P 2 100k 150k' "
		   "-c 'write -P 3 1500k 90k' -c 'write -z 512k 64k' i.qcow2 >/dev/null && "
		   "qemu-img convert -f qcow2 -O raw i.qcow2 want.raw",
		   opts, opts);
}

static void test_commit(const char *opts)
{
	struct cut_judge j = { base_state, base_recovers, NULL };
	struct cut_judge t = { state_ok, top_recovers, NULL };
	unsigned int states = 0;
	size_t sure = 0;
	bool ok;

	cut_forget();
	ok = make_chain(opts) &&
		!sh("cp b.qcow2 base.qcow2; cp b.qcow2 w.qcow2; cp b.qcow2 v.qcow2; "
		    "for n in w v; do cp i.qcow2 t$n.qcow2; "
		    "qemu-img rebase -u -f qcow2 -b $n.qcow2 -F qcow2 t$n.qcow2; done") &&
		write_base("i.qcow2", "b.qcow2", true, &sure) &&
		img_has_leaks("b.qcow2", 0) && same("b.qcow2") &&
		cut_replay(&j, 1, &states) && keep_durable(sure);
	cut_forget();
	ok = ok && !sh("qemu-img rebase -u -f qcow2 -b low.qcow2 -F qcow2 i.qcow2; "
		       "cp i.qcow2 base.qcow2") &&
		empty_top("i.qcow2", true) && img_has_leaks("i.qcow2", 0) &&
		cut_replay(&t, 1, &states);
	ksft_test_result(ok, "commit: %u states; %s", states, opts);
}

/*
 * Rebase: the image alone is written, its header last
 */

static int copy_up(struct blk_img *m, struct blk_img *below)
{
	static uint8_t now[CHUNK];
	uint64_t size = blk_img_size(m);
	struct blk_extent x;
	int ret = 0;

	for (uint64_t off = 0; off < size && !ret; off += x.len) {
		ret = blk_img_map_own(m, off, BLK_MIN(size - off, 65536U), &x,
				      NULL);
		if (ret || x.kind != BLK_EXT_HOLE)
			continue;
		ret = blk_img_read(m, chunk, x.len, off, NULL);
		if (!ret)
			ret = blk_img_read(below, now, x.len, off, NULL);
		if (ret || !memcmp(chunk, now, x.len))
			continue;
		ret = chunk[0] || memcmp(chunk, chunk + 1, x.len - 1) ?
			blk_img_write(m, chunk, x.len, off, NULL) :
			blk_img_write_zeroes(m, off, x.len, true, NULL);
	}
	return ret ? ret : blk_img_flush(m, NULL);
}

static bool rebase(const char *path, bool log)
{
	struct blk_img *m = open_disk(path, BLK_IMG_WRITE);
	struct blk_img *below = open_disk("n.qcow2", 0);
	int ret = m && below ? 0 : -EIO;

	log_it(m, log);
	if (!ret)
		ret = copy_up(m, below);
	if (!ret)
		ret = blk_qcow2_set_backing(blk_img_qcow2(m), "n.qcow2",
					    "qcow2", NULL);
	blk_img_close(below, NULL);
	return closed(m, ret, "rebase");
}

static bool rebase_recovers(void *opaque, const char *path)
{
	return cut_seen(path, 1, true) ||
		(rebase(path, false) && no_leaks(path) && same(path));
}

static void test_rebase(const char *opts)
{
	struct cut_judge j = { state_ok, rebase_recovers, NULL };
	unsigned int states = 0;
	bool ok;

	cut_forget();
	ok = make_chain(opts) &&
		!sh("qemu-img create -q -f qcow2 n.qcow2 2M && "
		    "qemu-io -f qcow2 -c 'write -P 1 0 300k' "
		    "-c 'write -P 5 900k 100k' n.qcow2 >/dev/null && "
		    "cp i.qcow2 base.qcow2") &&
		rebase("i.qcow2", true) && img_has_leaks("i.qcow2", 0) &&
		same("i.qcow2") && cut_replay(&j, 1, &states);
	ksft_test_result(ok, "rebase: %u states of %zu ops; %s", states, n_ops,
			 opts);
}

/*
 * Preallocation
 */

static bool preallocate(const char *path, enum blk_prealloc how, bool log)
{
	struct img i;
	bool ok = img_open(&i, path);

	if (ok && log)
		i.f->hook = cut_log;
	ok = ok && img_ok(&i, blk_qcow2_preallocate(i.q, 0, i.h->size, false, how,
						    &i.e), "preallocate") &&
		img_ok(&i, blk_qcow2_trim(i.q, &i.e), "trim");
	img_close(&i);
	return ok;
}

static bool prealloc_recovers(void *opaque, const char *path)
{
	return cut_seen(path, 1, true) ||
		(no_leaks(path) &&
		 preallocate(path, *(enum blk_prealloc *)opaque, false) &&
		 img_has_leaks(path, 0) && same(path));
}

static void test_preallocate(const char *opts, enum blk_prealloc how,
			     const char *more)
{
	struct cut_judge j = { state_ok, prealloc_recovers, &how };
	unsigned int states = 0;
	bool ok;

	cut_forget();
	ok = !sh("rm -f *.qcow2; qemu-img create -q -f qcow2 %s i.qcow2 512k && "
		 "qemu-io -f qcow2 -c 'write -P 1 64k 70k' i.qcow2 >/dev/null && (%s) && "
		 "qemu-img convert -f qcow2 -O raw i.qcow2 want.raw && "
		 "cp i.qcow2 base.qcow2", opts, more) &&
		preallocate("i.qcow2", how, true) &&
		img_has_leaks("i.qcow2", 0) && same("i.qcow2") &&
		cut_replay(&j, 1, &states);
	ksft_test_result(ok, "preallocation %d: %u states of %zu ops; %s %s",
			 how, states, n_ops, opts, more);
}

int main(void)
{
	img_start_fast();
	test_preallocate("", BLK_PREALLOC_METADATA, ":");
	test_preallocate("-o extended_l2=on", BLK_PREALLOC_FULL,
			 "qemu-img snapshot -c a i.qcow2");
	test_rebase("");
	test_commit("");
	cut_forget();
	ksft_finished();
}
