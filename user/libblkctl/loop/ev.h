/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event loop: descriptors, timers, callbacks posted from other threads and
 * pieces of blocking work, over one io_uring.
 *
 * All objects are embedded in the user's and owned by him.  Everything but
 * blk_ev_post() is for the loop's own thread; callbacks run there.
 */
#ifndef BLK_LOOP_EV_H
#define BLK_LOOP_EV_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* The object of @type whose @member @ptr points to. */
#define blk_container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - offsetof(type, member)))

struct blk_ev;
struct blk_ev_op;

/**
 * struct blk_ev_io - interest in a descriptor
 * @fd: stays the user's
 * @fn: @events as of poll(2); called once for each blk_ev_io_arm()
 *
 * Not arming again is how a user stops to listen.  After blk_ev_io_stop() the
 * object may be freed and the descriptor closed at once.
 */
struct blk_ev_io {
	int fd;
	void (*fn)(struct blk_ev_io *io, unsigned int events);
	struct blk_ev_op *op;		/* the loop's */
};

/* One shot, at @at nanoseconds of CLOCK_MONOTONIC. */
struct blk_ev_timer {
	void (*fn)(struct blk_ev_timer *t);
	uint64_t at;			/* the loop's */
	struct blk_ev_timer *next;
	bool armed;
};

/* A callback from another thread; needs no memory, so it can't fail. */
struct blk_ev_post {
	void (*fn)(struct blk_ev_post *p);
	struct blk_ev_post *next;	/* the loop's */
};

/**
 * struct blk_ev_work - something that blocks, in a thread of its own
 * @run: in that thread
 * @done: afterwards in the loop's thread; may free the object
 */
struct blk_ev_work {
	void (*run)(struct blk_ev_work *w);
	void (*done)(struct blk_ev_work *w);
	struct blk_ev_post post;	/* the loop's */
	struct blk_ev *ev;
	pthread_t thread;
};

/* Class UNAVAILABLE with a hint where io_uring is forbidden. */
int blk_ev_new(struct blk_ev **out, struct blk_error *e);
/* Only when no work is left; whatever else is armed is forgotten. */
void blk_ev_free(struct blk_ev *ev);

/* Until blk_ev_stop(); 0 or -errno of the ring. */
int blk_ev_run(struct blk_ev *ev);
void blk_ev_stop(struct blk_ev *ev);

/* -ENOMEM; arming twice is the same as once. @events: POLLIN, POLLOUT */
int blk_ev_io_arm(struct blk_ev *ev, struct blk_ev_io *io,
		  unsigned int events);
void blk_ev_io_stop(struct blk_ev *ev, struct blk_ev_io *io);

void blk_ev_timer_start(struct blk_ev *ev, struct blk_ev_timer *t,
			unsigned int ms);
void blk_ev_timer_stop(struct blk_ev *ev, struct blk_ev_timer *t);

/*
 * From any thread.  An object must not be posted again before its callback has
 * begun.  Callbacks run in the order in which they were posted.
 */
void blk_ev_post(struct blk_ev *ev, struct blk_ev_post *p);

/* Calls what has been posted, after blk_ev_run() has returned. */
void blk_ev_drain(struct blk_ev *ev);

/* -EAGAIN when there can be no more threads; then nothing is called. */
int blk_ev_work_start(struct blk_ev *ev, struct blk_ev_work *w);
/* Pieces of work whose done() has not yet been called. */
unsigned int blk_ev_work_count(const struct blk_ev *ev);

#endif
