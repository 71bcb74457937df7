// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How far a verb is: a line on the terminal, lines of JSON to a descriptor, and
 * a line for whoever sends SIGUSR1.
 *
 * Threads: image_progress_add() may be called by any.  Who finds that it is
 * time, and wins the exchange of .last, prints.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "image/image.h"

#define EVERY_MS 100

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int image_progress_init(struct image_run *r, struct blk_error *e)
{
	const char *how = r->common->progress;
	struct image_progress *p = &r->progress;
	unsigned long fd;
	char *end;

	/* QEMU's goes to stdout, where programs look for it */
	p->on_stderr = r->cli->json;
	p->wanted = how && !*how && !r->common->quiet;
	if (!how || !*how)
		return 0;
	errno = 0;
	fd = strncmp(how, "json:", 5) ? 0 : strtoul(how + 5, &end, 10);
	if (!fd || errno || *end || fd > INT32_MAX)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is no way to show progress: json:FD",
				     how);
	if (fcntl((int)fd, F_GETFD) < 0)
		return blk_error_set(e, BLK_ERR_USAGE, EBADF,
				     "descriptor %lu of --progress is not open",
				     fd);
	p->fd = (int)fd;
	return 0;
}

/* Hundredths of a percent: printed as integers, which no locale changes */
static unsigned int hundredths(const struct image_progress *p, uint64_t done)
{
	return !p->total || done >= p->total ? 10000 :
		(unsigned int)(10000.0 * (double)done / (double)p->total);
}

static void print(struct image_progress *p, bool asked)
{
	uint64_t done = atomic_load(&p->done);
	unsigned int h = hundredths(p, done);

	if (asked)
		fprintf(stderr, "    (%u.%02u/100%%)\n", h / 100, h % 100);
	if (p->wanted) {
		FILE *f = p->on_stderr ? stderr : stdout;

		fprintf(f, "    (%u.%02u/100%%)\r", h / 100, h % 100);
		fflush(f);
	}
	/* whoever reads it may go away */
	if (p->fd >= 0 &&
	    dprintf(p->fd, "{\"done\": %" PRIu64 ", \"total\": %" PRIu64
		    ", \"percent\": %u.%02u}\n", done, p->total, h / 100,
		    h % 100) < 0)
		p->fd = -1;
}

void image_progress_start(struct image_run *r, uint64_t total)
{
	struct image_progress *p = &r->progress;

	p->total = total;
	atomic_store(&p->done, 0);
	atomic_store(&p->last, now_ms());
	print(p, false);
}

void image_progress_add(struct image_run *r, uint64_t n)
{
	struct image_progress *p = &r->progress;
	int_fast64_t last, now;

	atomic_fetch_add(&p->done, n);
	if (image_progress_asked()) {
		print(p, true);
		return;
	}
	if (!p->wanted && p->fd < 0)
		return;
	last = atomic_load(&p->last);
	now = now_ms();
	if (now - last >= EVERY_MS &&
	    atomic_compare_exchange_strong(&p->last, &last, now))
		print(p, false);
}

void image_progress_end(struct image_run *r)
{
	struct image_progress *p = &r->progress;

	atomic_store(&p->done, p->total);
	print(p, false);
	if (p->wanted)
		fputc('\n', p->on_stderr ? stderr : stdout);
}
