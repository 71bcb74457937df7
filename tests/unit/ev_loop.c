// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The event loop: timers, descriptors, posts from threads, work; objects that
 * are freed as soon as they are stopped.
 */
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ksft.h"
#include "loop/ev.h"

static struct blk_ev *ev;

static void stop_timer_fn(struct blk_ev_timer *t)
{
	blk_ev_stop(ev);
}

/* Runs a loop of its own until @ms have passed or somebody stops it. */
static void begin(void)
{
	if (blk_ev_new(&ev, NULL))
		ksft_exit_skip("io_uring is not permitted here");
}

static int run_for(unsigned int ms)
{
	struct blk_ev_timer limit = { .fn = stop_timer_fn };
	int ret;

	blk_ev_timer_start(ev, &limit, ms);
	ret = blk_ev_run(ev);
	blk_ev_timer_stop(ev, &limit);
	return ret;
}

static void end(void)
{
	blk_ev_free(ev);
	ev = NULL;
}

/*
 * Timers
 */

struct timed {
	struct blk_ev_timer t;
	int number;
};

static int fired[16], nr_fired;

static void timed_fn(struct blk_ev_timer *t)
{
	struct timed *x = blk_container_of(t, struct timed, t);

	fired[nr_fired++ % 16] = x->number;
	if (x->number == 3)
		blk_ev_stop(ev);
}

static void test_timers(void)
{
	struct timed x[5];
	int i;

	memset(x, 0, sizeof(x));
	begin();
	nr_fired = 0;
	for (i = 0; i < 5; i++) {
		x[i].t.fn = timed_fn;
		x[i].number = i;
	}
	blk_ev_timer_start(ev, &x[3].t, 40);
	blk_ev_timer_start(ev, &x[1].t, 10);
	blk_ev_timer_start(ev, &x[2].t, 20);
	blk_ev_timer_start(ev, &x[0].t, 0);
	blk_ev_timer_start(ev, &x[4].t, 15);
	blk_ev_timer_stop(ev, &x[4].t);
	blk_ev_timer_stop(ev, &x[4].t);
	blk_ev_timer_start(ev, &x[0].t, 5);	/* anew */
	run_for(5000);
	ksft_test_result(nr_fired == 4 && fired[0] == 0 && fired[1] == 1 &&
			 fired[2] == 2 && fired[3] == 3,
			 "timers fire once and in order\n");
	end();
}

/*
 * Descriptors
 */

struct watch {
	struct blk_ev_io io;
	int calls;
	bool again;
};

static void watch_fn(struct blk_ev_io *io, unsigned int events)
{
	struct watch *w = blk_container_of(io, struct watch, io);
	char c;

	w->calls++;
	if (read(io->fd, &c, 1) == 1 && w->again)
		blk_ev_io_arm(ev, io, POLLIN);
	if (w->calls == 3)
		blk_ev_stop(ev);
}

static void test_io(void)
{
	struct watch w = { .io.fn = watch_fn, .again = true };
	int fds[2];

	begin();
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		abort();
	w.io.fd = fds[0];
	ksft_expect_eq(blk_ev_io_arm(ev, &w.io, POLLIN), 0);
	ksft_expect_eq(blk_ev_io_arm(ev, &w.io, POLLIN), 0);
	ksft_expect_eq(write(fds[1], "abc", 3), 3);
	run_for(5000);
	ksft_test_result(w.calls == 3, "armed again, it rings again\n");
	close(fds[0]);
	close(fds[1]);
	end();
}

/* Stopped, closed and freed with data waiting: nothing may be called */
static void test_io_freed(void)
{
	struct watch *w;
	int i, fds[2];

	begin();
	for (i = 0; i < 1000; i++) {
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
			abort();
		w = calloc(1, sizeof(*w));
		w->io.fn = watch_fn;
		w->io.fd = fds[0];
		blk_ev_io_arm(ev, &w->io, POLLIN);
		if (write(fds[1], "a", 1) != 1)
			abort();
		blk_ev_io_stop(ev, &w->io);
		blk_ev_io_stop(ev, &w->io);
		close(fds[0]);
		close(fds[1]);
		free(w);
	}
	ksft_test_result(!run_for(20), "stopped objects are not touched\n");
	end();
}

/* The peer sees the end although the loop had a poll on the descriptor */
static void test_io_closes(void)
{
	struct watch w = { .io.fn = watch_fn };
	struct pollfd p = { .events = POLLIN };
	int fds[2];

	begin();
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds))
		abort();
	w.io.fd = fds[0];
	blk_ev_io_arm(ev, &w.io, POLLIN);
	run_for(5);
	blk_ev_io_stop(ev, &w.io);
	close(fds[0]);
	p.fd = fds[1];
	ksft_test_result(poll(&p, 1, 5000) == 1,
			 "the peer sees a stopped descriptor close\n");
	close(fds[1]);
	end();
}

/*
 * Posts
 */

#define THREADS	4
#define POSTS	5000

static struct numbered {
	struct blk_ev_post p;
	int thread, number;
} posts[THREADS][POSTS];
static int last[THREADS], nr_posts;
static bool disorder;

static void post_fn(struct blk_ev_post *p)
{
	struct numbered *x = blk_container_of(p, struct numbered, p);

	disorder |= last[x->thread] + 1 != x->number;
	last[x->thread] = x->number;
	if (++nr_posts == THREADS * POSTS)
		blk_ev_stop(ev);
}

static void *poster(void *arg)
{
	struct numbered *x = arg;
	int i;

	for (i = 0; i < POSTS; i++)
		blk_ev_post(ev, &x[i].p);
	return NULL;
}

static void test_posts(void)
{
	pthread_t threads[THREADS];
	int i, k;

	begin();
	for (i = 0; i < THREADS; i++) {
		for (k = 0; k < POSTS; k++) {
			posts[i][k].p.fn = post_fn;
			posts[i][k].thread = i;
			posts[i][k].number = k + 1;
		}
		pthread_create(&threads[i], NULL, poster, posts[i]);
	}
	run_for(30000);
	for (i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	ksft_test_result(nr_posts == THREADS * POSTS && !disorder,
			 "posts of four threads arrive, each thread's in order\n");
	end();
}

/*
 * Work
 */

static atomic_int ran;
static int done_count;

static void work_run(struct blk_ev_work *w)
{
	usleep(1000);
	atomic_fetch_add(&ran, 1);
}

static void work_done(struct blk_ev_work *w)
{
	free(w);
	if (++done_count == 50)
		blk_ev_stop(ev);
}

static void test_work(void)
{
	struct blk_ev_work *w;
	int i, started = 0;

	begin();
	for (i = 0; i < 50; i++) {
		w = calloc(1, sizeof(*w));
		w->run = work_run;
		w->done = work_done;
		started += !blk_ev_work_start(ev, w);
	}
	ksft_expect_eq(started, 50);
	ksft_expect_eq(blk_ev_work_count(ev), 50U);
	run_for(30000);
	ksft_test_result(done_count == 50 && atomic_load(&ran) == 50 &&
			 !blk_ev_work_count(ev),
			 "work runs and ends, and may be freed then\n");
	end();
}

int main(void)
{
	ksft_print_header();
	test_timers();
	test_io();
	test_io_freed();
	test_io_closes();
	test_posts();
	test_work();
	ksft_finished();
}
