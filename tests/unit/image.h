/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Images for unit tests: made by qemu-img in a directory of their own, judged
 * by qemu-img, and written by a small stand-in for the kernel.
 *
 * The stand-in keeps the order that the kernel keeps: data, flush, L2, flush,
 * L1, flush; and frees only what no table on disk refers to any more.
 */
#ifndef TESTS_UNIT_IMAGE_H
#define TESTS_UNIT_IMAGE_H

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/be.h"
#include "fmt/qcow2.h"
#include "io/lock.h"
#include "ksft.h"
#include "qcow2/ext.h"

#define IMG_UNUSED __attribute__((unused))

static char img_dir[256];

static void img_cleanup(void)
{
	char cmd[300];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", img_dir);
	if (img_dir[0] && chdir("/") == 0 && system(cmd))
		fprintf(stderr, "%s stays behind\n", img_dir);
}

/* printf to a shell command; its exit code */
IMG_UNUSED __attribute__((format(printf, 1, 2)))
static int sh(const char *fmt, ...)
{
	char cmd[2048];
	va_list ap;
	int ret;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	fflush(stdout);
	ret = system(cmd);
	return WIFEXITED(ret) ? WEXITSTATUS(ret) : -1;
}

/* A fresh directory on a file system with direct I/O; skips without qemu-img */
IMG_UNUSED static void img_start(void)
{
	const char *top = getenv("TMPDIR");
	int fd;

	ksft_print_header();
	if (sh("qemu-img --version >/dev/null 2>&1"))
		ksft_exit_skip("qemu-img is not installed");
	snprintf(img_dir, sizeof(img_dir), "%s/dm-qcow-unit.XXXXXX",
		 top ? top : "/var/tmp");
	if (!mkdtemp(img_dir) || chdir(img_dir)) {
		img_dir[0] = '\0';
		ksft_exit_skip("no directory for test images");
	}
	atexit(img_cleanup);
	fd = open("direct", O_CREAT | O_RDWR | O_DIRECT, 0600);
	if (fd < 0)
		ksft_exit_skip("no direct I/O in the temporary directory (set TMPDIR)");
	close(fd);
}

/* For tests of many states: in memory, if it can do direct I/O */
IMG_UNUSED static void img_start_fast(void)
{
	char probe[] = "/dev/shm/dm-qcow-unit.XXXXXX";
	int fd = getenv("TMPDIR") ? -1 : mkostemp(probe, O_DIRECT);

	if (fd >= 0) {
		close(fd);
		unlink(probe);
		setenv("TMPDIR", "/dev/shm", 1);
	}
	img_start();
}

struct img_check {
	int rc;
	long leaks;
	long corruptions;
};

static long img_json_number(const char *text, const char *key)
{
	const char *p = strstr(text, key);

	return p ? strtol(p + strlen(key), NULL, 10) : 0;
}

/* qemu-img check */
IMG_UNUSED static struct img_check img_check(const char *path)
{
	static char text[1 << 16];
	char cmd[512];
	struct img_check c = { .rc = -1 };
	size_t n;
	FILE *fp;
	int ret;

	snprintf(cmd, sizeof(cmd),
		 "qemu-img check -U -f qcow2 --output=json '%s' 2>/dev/null",
		 path);
	fp = popen(cmd, "re");
	if (!fp)
		return c;
	n = fread(text, 1, sizeof(text) - 1, fp);
	text[n] = '\0';
	ret = pclose(fp);
	c.rc = WIFEXITED(ret) ? WEXITSTATUS(ret) : -1;
	c.leaks = img_json_number(text, "\"leaks\":");
	c.corruptions = img_json_number(text, "\"corruptions\":") +
		img_json_number(text, "\"check-errors\":");
	return c;
}

/* No errors, and exactly so many leaks? */
IMG_UNUSED static bool img_has_leaks(const char *path, long leaks)
{
	struct img_check c = img_check(path);
	bool ok = c.rc == (leaks ? 3 : 0) && c.leaks == leaks &&
		!c.corruptions;

	if (!ok)
		ksft_print_msg("%s: check says %d: %ld leaks, %ld corruptions; %ld leaks expected",
			       path, c.rc, c.leaks, c.corruptions, leaks);
	return ok;
}

struct img {
	struct blk_file *f;
	struct blk_qcow2 *q;
	struct blk_error e;
	const struct qcow2_header *h;
	uint64_t cs;
	/* the stand-in for the kernel */
	struct dm_qcow_run *grant;
	size_t n_grants;
	uint64_t *claimed;
	size_t n_claimed;
	uint64_t told_size;
};

/* true if ret is not negative; else says why */
IMG_UNUSED static bool img_ok(struct img *i, int ret, const char *what)
{
	if (ret < 0)
		ksft_print_msg("%s: %d: %s", what, ret, i->e.msg);
	return ret >= 0;
}

IMG_UNUSED static bool img_open(struct img *i, const char *path)
{
	memset(i, 0, sizeof(*i));
	if (!img_ok(i, blk_file_open(path, BLK_FILE_WRITE, &i->f, &i->e),
		    "open the file"))
		return false;
	if (!img_ok(i, blk_qcow2_open(i->f, &i->q, &i->e), "open the image"))
		return false;
	i->h = blk_qcow2_header(i->q);
	i->cs = qcow2_cluster_size(i->h);
	return true;
}

IMG_UNUSED static int img_claim(void *opaque, const struct dm_qcow_run *runs,
				size_t n)
{
	struct img *i = opaque;

	for (size_t k = 0; k < n; k++)
		for (uint64_t o = 0; o < runs[k].length; o += i->cs) {
			i->claimed = realloc(i->claimed,
					     (i->n_claimed + 1) * 8);
			i->claimed[i->n_claimed++] = runs[k].offset + o;
		}
	return 0;
}

IMG_UNUSED static int img_grown(void *opaque, uint64_t size)
{
	struct img *i = opaque;

	i->told_size = size;
	return 0;
}

static const struct blk_qcow2_ops img_ops IMG_UNUSED = {
	.claim = img_claim,
	.grown = img_grown,
};

/* As an attachment does it */
IMG_UNUSED static bool img_attach(struct img *i, const char *path,
				  bool *was_marked)
{
	if (!img_open(i, path))
		return false;
	blk_qcow2_set_ops(i->q, &img_ops, i);
	return img_ok(i, blk_qcow2_can_attach(i->q, true, &i->e),
		      "can_attach") &&
		img_ok(i, blk_qcow2_pad(i->q, true, &i->e), "pad") &&
		img_ok(i, blk_qcow2_mark(i->q, was_marked, &i->e), "mark");
}

/* Without a word, as after a crash */
IMG_UNUSED static void img_close(struct img *i)
{
	blk_qcow2_close(i->q);
	blk_file_close(i->f);
	free(i->grant);
	free(i->claimed);
	memset(i, 0, sizeof(*i));
}

IMG_UNUSED static bool img_grant(struct img *i, uint64_t bytes)
{
	struct dm_qcow_run runs[256];
	size_t n = 256;

	if (!img_ok(i, blk_qcow2_alloc(i->q, bytes, runs, &n, &i->e),
		    "alloc"))
		return false;
	i->grant = realloc(i->grant, (i->n_grants + n) * sizeof(*runs));
	memcpy(i->grant + i->n_grants, runs, n * sizeof(*runs));
	i->n_grants += n;
	return true;
}

IMG_UNUSED static uint64_t img_granted(const struct img *i)
{
	uint64_t sum = 0;

	for (size_t k = 0; k < i->n_grants; k++)
		sum += i->grant[k].length >> i->h->cluster_bits;
	return sum;
}

/* One cluster out of the grants, 0: none left */
IMG_UNUSED static uint64_t img_take(struct img *i)
{
	while (i->n_grants) {
		struct dm_qcow_run *g = &i->grant[i->n_grants - 1];

		if (g->length) {
			g->length -= i->cs;
			return g->offset + g->length;
		}
		i->n_grants--;
	}
	return 0;
}

IMG_UNUSED static uint64_t img_be64(struct img *i, uint64_t off)
{
	uint8_t b[8];

	return blk_file_read(i->f, b, 8, off) ? 0 : blk_get_be64(b);
}

IMG_UNUSED static void img_put_be64(struct img *i, uint64_t off, uint64_t v)
{
	uint8_t b[8];

	blk_put_be64(b, v);
	if (blk_file_write(i->f, b, 8, off) || blk_file_flush(i->f))
		ksft_print_msg("write failed");
}

/* Host offset of the L2 entry of a guest cluster, made if need be */
IMG_UNUSED static uint64_t img_l2_entry(struct img *i, uint64_t guest)
{
	uint32_t span = qcow2_l2_span_bits(i->h);
	uint64_t l1 = i->h->l1_table_offset + (guest >> span) * 8;
	uint64_t entry = img_be64(i, l1);
	uint64_t l2 = entry & QCOW2_OFFSET_MASK;
	uint64_t index = (guest & ((1ULL << span) - 1)) >>
		i->h->cluster_bits;

	if (!l2) {
		void *zero = NULL;

		l2 = img_take(i);
		if (!l2 || posix_memalign(&zero, 4096, BLK_MAX(i->cs, 4096U)))
			return 0;
		memset(zero, 0, i->cs);
		if (blk_file_write(i->f, zero, i->cs, l2) ||
		    blk_file_flush(i->f))
			l2 = 0;
		free(zero);
		if (l2)
			img_put_be64(i, l1, l2 | QCOW2_ENTRY_COPIED);
	}
	return l2 ? l2 + index * 8 : 0;
}

/* Writes one guest cluster full of @byte, as the kernel would. */
IMG_UNUSED static bool img_write(struct img *i, uint64_t guest, uint8_t byte)
{
	uint64_t at = img_l2_entry(i, guest);
	uint64_t host = at ? img_be64(i, at) & QCOW2_OFFSET_MASK : 0;
	bool is_new = !host;
	void *buf = NULL;
	bool ok;

	if (at && !host)
		host = img_take(i);
	if (!host || posix_memalign(&buf, 4096, BLK_MAX(i->cs, 4096U)))
		return false;
	memset(buf, byte, i->cs);
	ok = !blk_file_write(i->f, buf, i->cs, host) && !blk_file_flush(i->f);
	free(buf);
	if (ok && is_new)
		img_put_be64(i, at, host | QCOW2_ENTRY_COPIED);
	return ok;
}

/* Unmaps one guest cluster and gives it to release(). */
IMG_UNUSED static bool img_discard(struct img *i, uint64_t guest)
{
	uint64_t at = img_l2_entry(i, guest);
	struct dm_qcow_run run = { .length = i->cs };

	run.offset = at ? img_be64(i, at) & QCOW2_OFFSET_MASK : 0;
	if (!run.offset)
		return false;
	img_put_be64(i, at, 0);
	return img_ok(i, blk_qcow2_release(i->q, &run, 1, &i->e), "release");
}

/* Gives all grants back, shortens the file and closes the image. */
IMG_UNUSED static bool img_detach(struct img *i)
{
	bool ok;
	size_t n = 0;

	for (size_t k = 0; k < i->n_grants; k++)
		if (i->grant[k].length)
			i->grant[n++] = i->grant[k];
	ok = img_ok(i, blk_qcow2_release(i->q, i->grant, n, &i->e),
		    "release") &&
		img_ok(i, blk_qcow2_trim(i->q, &i->e), "trim") &&
		img_ok(i, blk_qcow2_unmark(i->q, &i->e), "unmark");
	img_close(i);
	return ok;
}

/* A leak scan from begin to end; the clusters it gave back, or -errno */
IMG_UNUSED static long img_scan(struct img *i)
{
	bool stop = false;
	uint64_t leaks = 0;
	int ret = blk_qcow2_scan_begin(i->q, &i->e);

	if (!ret)
		ret = blk_qcow2_scan_run(i->q, &stop, &i->e);
	if (!ret)
		ret = blk_qcow2_scan_end(i->q, &leaks, &i->e);
	img_ok(i, ret, "scan");
	return ret < 0 ? ret : (long)leaks;
}

IMG_UNUSED static uint64_t img_size(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (uint64_t)st.st_size;
}

#endif
