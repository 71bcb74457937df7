// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The thread behind each attachment: it looks at the device when a doorbell
 * rings, and once in a while because doorbells can be lost, and does what is
 * to be done: grants, freed runs, the leak scan's barrier, news for the user.
 * For a read-only device it only watches.
 *
 * Owns: the thread, the events socket, and the handshake by which the
 * procedures in detach.c make it rest.
 * Must not: issue device-mapper ioctls, log, or allocate memory: writes of
 * the guest wait for it, and so may the memory that an allocation waits for.
 * Threads: this one; the functions at the end are called by the procedures.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "kctl/attachment.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define STACK_BYTES	(256 << 10)
#define AGAIN_MS	1000

void blk_feeder_notify(struct blk_attachment *a, unsigned int what)
{
	if (a->notify)
		a->notify(a->opaque, what);
}

bool blk_feeder_interrupted(struct blk_attachment *a)
{
	struct blk_feeder *f = &a->feeder;
	bool yes;

	if (atomic_load(&f->stop))
		return true;
	pthread_mutex_lock(&f->lock);
	/* a procedure that has paused the thread is not interrupted */
	yes = f->want_pause && !f->paused && f->running;
	pthread_mutex_unlock(&f->lock);
	return yes;
}

/*
 * The thread
 */

static void watch(struct blk_attachment *a, const struct blk_kdev *k)
{
	struct blk_feeder *f = &a->feeder;
	bool corrupt = k->state & DM_QCOW_STATE_CORRUPT;

	if (k->state & DM_QCOW_STATE_LEAKED)
		atomic_store(&a->keep_mark, true);
	if (k->mode != f->mode)
		blk_feeder_notify(a, BLK_ATTACH_MODE);
	if (corrupt && !f->corrupt)
		blk_feeder_notify(a, BLK_ATTACH_CORRUPT);
	f->mode = k->mode;
	f->corrupt = corrupt;
}

/* One look.  Return: milliseconds to rest, or -errno: the session is over. */
static int serve(struct blk_attachment *a)
{
	struct blk_kdev k;
	int ret;

	ret = blk_genl_get(a->genl, a->dev, a->session, &k, NULL);
	if (!ret && !(k.state & DM_QCOW_STATE_SESSION))
		ret = -ESTALE;	/* another device under its number */
	if (blk_grant_is_lost(ret))
		return ret;
	if (ret)
		return AGAIN_MS;
	watch(a, &k);
	if (!a->writable)
		return AGAIN_MS;
	ret = blk_grant_fill(a, &k);
	if (ret >= 0 && blk_grant_should_reap(a, &k)) {
		ret = blk_grant_reap(a);
		if (ret > 0)
			return 0;	/* perhaps more, and space */
	}
	if (blk_grant_is_lost(ret))
		return ret;
	blk_scan_step(a, &k);
	return blk_grant_rest(a, &k);
}

static void rest(struct blk_feeder *f, int ms)
{
	struct pollfd p[2] = {
		{ .fd = f->wake, .events = POLLIN },
		{ .fd = blk_genl_fd(f->events), .events = POLLIN },
	};
	uint64_t count;

	if (poll(p, 2, ms) <= 0)
		return;
	if (p[0].revents && read(f->wake, &count, sizeof(count)) < 0)
		return;
	/* whatever they say: serve() looks at everything */
	if (p[1].revents)
		blk_genl_events_read(f->events, NULL, NULL);
}

/* Rests while somebody wants it to.  Return: false when it is to end. */
static bool may_go_on(struct blk_feeder *f)
{
	pthread_mutex_lock(&f->lock);
	while (f->want_pause && !atomic_load(&f->stop)) {
		f->paused = true;
		pthread_cond_broadcast(&f->cond);
		pthread_cond_wait(&f->cond, &f->lock);
	}
	f->paused = false;
	pthread_mutex_unlock(&f->lock);
	return !atomic_load(&f->stop);
}

static void *feeder_main(void *arg)
{
	struct blk_attachment *a = arg;
	struct blk_feeder *f = &a->feeder;
	int ms = 0;

	prctl(PR_SET_NAME, "blk-feeder");
	/* memory reclaim on our behalf must not wait for our device */
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	while (may_go_on(f)) {
		ms = serve(a);
		if (ms < 0)
			break;
		if (ms)
			rest(f, ms);
	}
	pthread_mutex_lock(&f->lock);
	f->ended = true;
	pthread_cond_broadcast(&f->cond);
	pthread_mutex_unlock(&f->lock);
	/* last: the user may free the attachment after it (from elsewhere) */
	if (ms < 0)
		blk_feeder_notify(a, BLK_ATTACH_GONE);
	return NULL;
}

/*
 * For the procedures
 */

int blk_feeder_init(struct blk_attachment *a, struct blk_error *e)
{
	struct blk_feeder *f = &a->feeder;
	int ret;

	f->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (f->wake < 0)
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "cannot make an eventfd: %s",
				     strerror(errno));
	ret = blk_genl_events_open(&f->events, e);
	if (ret)
		return ret;
	blk_genl_events_only(f->events, a->dev);
	return 0;
}

void blk_feeder_exit(struct blk_attachment *a)
{
	struct blk_feeder *f = &a->feeder;

	blk_genl_close(f->events);
	f->events = NULL;
	if (f->wake >= 0)
		close(f->wake);
	f->wake = -1;
}

int blk_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int err;

	/* signals are for the program's own threads */
	sigfillset(&all);
	pthread_attr_init(&attr);
	/* all of it is locked memory in a daemon that calls mlockall() */
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(thread, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return err;
}

int blk_feeder_start(struct blk_attachment *a, struct blk_error *e)
{
	struct blk_feeder *f = &a->feeder;
	int err;

	f->want_pause = true;
	err = blk_thread_start(&f->thread, feeder_main, a);
	if (err)
		return blk_error_set(e, BLK_ERR_FAILED, err,
				     "cannot start a thread: %s",
				     strerror(err));
	pthread_mutex_lock(&f->lock);
	f->running = true;
	while (!f->paused)
		pthread_cond_wait(&f->cond, &f->lock);
	pthread_mutex_unlock(&f->lock);
	return 0;
}

void blk_feeder_wake(struct blk_attachment *a)
{
	uint64_t one = 1;

	/* it can only be full, and then it is readable */
	if (write(a->feeder.wake, &one, sizeof(one)) < 0)
		return;
}

void blk_feeder_pause(struct blk_attachment *a)
{
	struct blk_feeder *f = &a->feeder;

	if (!f->running)
		return;
	pthread_mutex_lock(&f->lock);
	f->want_pause = true;
	blk_feeder_wake(a);
	while (!f->paused && !f->ended)
		pthread_cond_wait(&f->cond, &f->lock);
	pthread_mutex_unlock(&f->lock);
}

void blk_feeder_go(struct blk_attachment *a)
{
	struct blk_feeder *f = &a->feeder;

	pthread_mutex_lock(&f->lock);
	f->want_pause = false;
	pthread_cond_broadcast(&f->cond);
	pthread_mutex_unlock(&f->lock);
}

void blk_feeder_stop(struct blk_attachment *a)
{
	struct blk_feeder *f = &a->feeder;

	if (!f->running)
		return;
	atomic_store(&f->stop, true);
	blk_feeder_wake(a);
	blk_feeder_go(a);
	pthread_join(f->thread, NULL);
	f->running = false;
	atomic_store(&f->stop, false);
}
