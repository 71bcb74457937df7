// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The event loop.
 *
 * Owns: the ring, an eventfd, the queue of posted callbacks, the timer list.
 * Must not: touch a user's object after its stop function has been called, or
 * call back while it walks a list.
 * Threads: everything in the loop's thread, but blk_ev_post(), for which
 * @lock protects the queue and @woken.
 *
 * A descriptor is watched by a one-shot poll request; it is armed again by
 * whoever wants more.  What the kernel holds is a pointer to a blk_ev_op, which
 * lives until its completion has been seen, so that the user's object and
 * descriptor may go at any time.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "loop/ev.h"

#define RING_ENTRIES	256
#define IDLE_MS		60000
#define WORK_STACK	(1024 * 1024)

struct blk_ev_op {
	struct blk_ev_io *io;		/* NULL: nobody waits any more */
};

struct blk_ev {
	struct io_uring ring;
	bool stop;
	unsigned int works;
	struct blk_ev_timer *timers;	/* sorted by @at */
	struct blk_ev_io wake;
	pthread_attr_t attr;

	pthread_mutex_t lock;
	bool woken;			/* the eventfd has been written */
	struct blk_ev_post *head;
	struct blk_ev_post **tail;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/*
 * Descriptors
 */

static struct io_uring_sqe *get_sqe(struct blk_ev *ev)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ev->ring);

	if (sqe)
		return sqe;
	io_uring_submit(&ev->ring);
	return io_uring_get_sqe(&ev->ring);
}

int blk_ev_io_arm(struct blk_ev *ev, struct blk_ev_io *io,
		  unsigned int events)
{
	struct io_uring_sqe *sqe;
	struct blk_ev_op *op;

	if (io->op)
		return 0;
	op = malloc(sizeof(*op));
	if (!op)
		return -ENOMEM;
	sqe = get_sqe(ev);
	if (!sqe) {
		free(op);
		return -ENOMEM;
	}
	op->io = io;
	io->op = op;
	io_uring_prep_poll_add(sqe, io->fd, events);
	io_uring_sqe_set_data(sqe, op);
	return 0;
}

void blk_ev_io_stop(struct blk_ev *ev, struct blk_ev_io *io)
{
	struct io_uring_sqe *sqe;
	struct blk_ev_op *op = io->op;

	if (!op)
		return;
	io->op = NULL;
	op->io = NULL;
	/* Submitted now: the poll holds the file that is about to be closed */
	sqe = get_sqe(ev);
	if (sqe) {
		io_uring_prep_poll_remove(sqe, (uintptr_t)op);
		io_uring_sqe_set_data(sqe, NULL);
	}
	io_uring_submit(&ev->ring);
}

static void complete(struct blk_ev_op *op, int res)
{
	struct blk_ev_io *io;

	if (!op)		/* the answer to a removal */
		return;
	io = op->io;
	free(op);
	if (!io)
		return;
	io->op = NULL;
	io->fn(io, res < 0 ? POLLERR : (unsigned int)res);
}

/*
 * Timers
 */

void blk_ev_timer_start(struct blk_ev *ev, struct blk_ev_timer *t,
			unsigned int ms)
{
	struct blk_ev_timer **p;

	blk_ev_timer_stop(ev, t);
	t->at = now_ns() + ms * 1000000ULL;
	for (p = &ev->timers; *p && (*p)->at <= t->at; p = &(*p)->next)
		;
	t->next = *p;
	*p = t;
	t->armed = true;
}

void blk_ev_timer_stop(struct blk_ev *ev, struct blk_ev_timer *t)
{
	struct blk_ev_timer **p;

	if (!t->armed)
		return;
	for (p = &ev->timers; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			break;
		}
	}
	t->armed = false;
}

static void run_timers(struct blk_ev *ev)
{
	uint64_t now = now_ns();
	struct blk_ev_timer *t;

	while ((t = ev->timers) && t->at <= now) {
		ev->timers = t->next;
		t->armed = false;
		t->fn(t);
	}
}

static struct __kernel_timespec next_timeout(const struct blk_ev *ev)
{
	uint64_t ns = IDLE_MS * 1000000ULL, now = now_ns();

	if (ev->timers && ev->timers->at < now + ns)
		ns = ev->timers->at > now ? ev->timers->at - now : 0;
	return (struct __kernel_timespec) {
		.tv_sec = (long long)(ns / 1000000000ULL),
		.tv_nsec = (long long)(ns % 1000000000ULL),
	};
}

/*
 * Posted callbacks
 */

void blk_ev_post(struct blk_ev *ev, struct blk_ev_post *p)
{
	uint64_t one = 1;

	pthread_mutex_lock(&ev->lock);
	p->next = NULL;
	*ev->tail = p;
	ev->tail = &p->next;
	/* Under the lock: the loop may be freed as soon as it has seen @p */
	if (!ev->woken)
		ev->woken = write(ev->wake.fd, &one, sizeof(one)) > 0;
	pthread_mutex_unlock(&ev->lock);
}

static void run_posted(struct blk_ev *ev)
{
	struct blk_ev_post *p, *next;

	pthread_mutex_lock(&ev->lock);
	p = ev->head;
	ev->head = NULL;
	ev->tail = &ev->head;
	pthread_mutex_unlock(&ev->lock);
	for (; p; p = next) {
		next = p->next;
		p->fn(p);
	}
}

void blk_ev_drain(struct blk_ev *ev)
{
	run_posted(ev);
}

static void on_wake(struct blk_ev_io *io, unsigned int events)
{
	struct blk_ev *ev = blk_container_of(io, struct blk_ev, wake);
	uint64_t n;

	(void)events;
	pthread_mutex_lock(&ev->lock);
	/* Nothing to read is as good: who posts next must write */
	if (read(io->fd, &n, sizeof(n)) != sizeof(n))
		n = 0;
	ev->woken = false;
	pthread_mutex_unlock(&ev->lock);
}

/*
 * Work
 */

static void work_done(struct blk_ev_post *p)
{
	struct blk_ev_work *w = blk_container_of(p, struct blk_ev_work, post);

	pthread_join(w->thread, NULL);
	w->ev->works--;
	w->done(w);
}

static void *work_main(void *arg)
{
	struct blk_ev_work *w = arg;

	w->run(w);
	blk_ev_post(w->ev, &w->post);
	return NULL;
}

int blk_ev_work_start(struct blk_ev *ev, struct blk_ev_work *w)
{
	int err;

	w->ev = ev;
	w->post.fn = work_done;
	err = pthread_create(&w->thread, &ev->attr, work_main, w);
	if (err)
		return -err;
	ev->works++;
	return 0;
}

unsigned int blk_ev_work_count(const struct blk_ev *ev)
{
	return ev->works;
}

/*
 * The loop
 */

static int ring_error(int err, struct blk_error *e)
{
	blk_error_set(e, err == EPERM || err == ENOSYS ? BLK_ERR_UNAVAILABLE :
		      BLK_ERR_FAILED, err, "io_uring is not usable: %s",
		      strerror(err));
	if (err == EPERM || err == ENOSYS)
		blk_error_hint(e, "look at /proc/sys/kernel/io_uring_disabled and at the system call filter of the container or service");
	return -err;
}

int blk_ev_new(struct blk_ev **out, struct blk_error *e)
{
	struct blk_ev *ev = calloc(1, sizeof(*ev));
	int ret;

	if (!ev)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = io_uring_queue_init(RING_ENTRIES, &ev->ring, IORING_SETUP_CLAMP);
	if (ret < 0) {
		free(ev);
		return ring_error(-ret, e);
	}
	ev->wake.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ev->wake.fd < 0) {
		ret = -errno;
		io_uring_queue_exit(&ev->ring);
		free(ev);
		return blk_error_set(e, BLK_ERR_FAILED, -ret, "eventfd: %s",
				     strerror(-ret));
	}
	ev->wake.fn = on_wake;
	ev->tail = &ev->head;
	pthread_mutex_init(&ev->lock, NULL);
	pthread_attr_init(&ev->attr);
	pthread_attr_setstacksize(&ev->attr, WORK_STACK);
	*out = ev;
	return 0;
}

/* Takes back what the kernel still holds, so that nothing is lost. */
static void cancel_all(struct blk_ev *ev)
{
	struct __kernel_timespec ts = { .tv_sec = 1 };
	struct io_uring_sqe *sqe = get_sqe(ev);
	struct io_uring_cqe *cqe;
	bool last = false;

	if (!sqe)
		return;
	io_uring_prep_cancel(sqe, NULL, IORING_ASYNC_CANCEL_ANY |
			     IORING_ASYNC_CANCEL_ALL);
	io_uring_sqe_set_data(sqe, ev);
	while (!last && io_uring_submit_and_wait_timeout(&ev->ring, &cqe, 1,
							 &ts, NULL) >= 0) {
		while (!io_uring_peek_cqe(&ev->ring, &cqe)) {
			struct blk_ev_op *op = io_uring_cqe_get_data(cqe);

			if ((void *)op == ev) {
				last = true;
			} else if (op) {
				if (op->io)
					op->io->op = NULL;
				free(op);
			}
			io_uring_cqe_seen(&ev->ring, cqe);
		}
	}
}

void blk_ev_free(struct blk_ev *ev)
{
	if (!ev)
		return;
	cancel_all(ev);
	io_uring_queue_exit(&ev->ring);
	close(ev->wake.fd);
	pthread_attr_destroy(&ev->attr);
	pthread_mutex_destroy(&ev->lock);
	free(ev);
}

int blk_ev_run(struct blk_ev *ev)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int ret;

	while (!ev->stop) {
		blk_ev_io_arm(ev, &ev->wake, POLLIN);
		ts = next_timeout(ev);
		ret = io_uring_submit_and_wait_timeout(&ev->ring, &cqe, 1, &ts,
						       NULL);
		if (ret < 0 && ret != -ETIME && ret != -EINTR &&
		    ret != -EAGAIN && ret != -EBUSY)
			return ret;
		while (!io_uring_peek_cqe(&ev->ring, &cqe)) {
			struct blk_ev_op *op = io_uring_cqe_get_data(cqe);
			int res = cqe->res;

			io_uring_cqe_seen(&ev->ring, cqe);
			complete(op, res);
		}
		run_posted(ev);
		run_timers(ev);
	}
	return 0;
}

void blk_ev_stop(struct blk_ev *ev)
{
	ev->stop = true;
}
