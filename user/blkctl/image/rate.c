// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * No more than so many bytes a second.
 */
#include "image/image.h"

#include <time.h>

#include "base/be.h"

#define STEP_NS 100000000LL	/* an interrupt is noticed that soon */

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int image_rate_start(struct image_rate *l, const char *rate,
		     struct blk_error *e)
{
	atomic_store(&l->moved, 0);
	l->began = now_ns();
	l->rate = 0;
	return rate ? size_parse(rate, &l->rate, e) : 0;
}

int image_rate_wait(struct image_rate *l, uint64_t n, struct blk_error *e)
{
	double moved = (double)(atomic_fetch_add(&l->moved, n) + n);
	int64_t wait;
	int ret;

	while (!(ret = image_interrupted(e)) && l->rate) {
		wait = l->began + (int64_t)(1e9 * moved / (double)l->rate) -
			now_ns();
		if (wait <= 0)
			break;
		wait = BLK_MIN(wait, STEP_NS);
		nanosleep(&(struct timespec){ .tv_nsec = wait }, NULL);
	}
	return ret;
}
