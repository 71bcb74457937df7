// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The leak scan of an attachment (docs/design.md, rule 5): after a crash of the last
 * user, or of the daemon, clusters may be allocated that nothing refers to.
 *
 * Owns: the walking thread and the phases.
 * Must not: lower a refcount before the barrier: COMMIT, and every freed run
 * taken and dropped; the format layer removes these from the candidates.
 * Threads: the walk has its own, at the lowest I/O and CPU priority (not
 * SCHED_IDLE: it takes the image's mutex for moments, and a feeder that waits
 * for a thread that is never scheduled would make writes wait).  All other
 * steps are the feeder's, or of a procedure that has paused it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/ioprio.h>

#include "base/stop_int.h"
#include "kctl/attachment.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define LOWEST_NICE	19
#define NORMAL_NICE	0
#define POLL_MS		20

static enum blk_scan_phase phase(const struct blk_attachment *a)
{
	return atomic_load(&a->scan.phase);
}

static void set_phase(struct blk_attachment *a, enum blk_scan_phase p)
{
	atomic_store(&a->scan.phase, p);
}

static void fail(struct blk_attachment *a)
{
	set_phase(a, BLK_SCAN_FAILED);
	atomic_store(&a->keep_mark, true);
}

bool blk_scan_is_open(const struct blk_attachment *a)
{
	return phase(a) != BLK_SCAN_NONE && phase(a) != BLK_SCAN_DONE;
}

int blk_scan_begin(struct blk_attachment *a, struct blk_error *e)
{
	int ret = blk_qcow2_scan_begin(a->image, e);

	if (ret)
		fail(a);
	else
		set_phase(a, BLK_SCAN_DUE);
	return ret;
}

static void set_priority(pid_t tid, int nice, int io_class)
{
	setpriority(PRIO_PROCESS, tid, nice);
	syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, tid,
		IOPRIO_PRIO_VALUE(io_class, 0));
}

static void *scan_main(void *arg)
{
	struct blk_attachment *a = arg;
	pid_t tid = syscall(SYS_gettid);
	int ret;

	prctl(PR_SET_NAME, "blk-scan");
	prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	set_priority(tid, LOWEST_NICE, IOPRIO_CLASS_IDLE);
	atomic_store(&a->scan.tid, tid);
	ret = blk_qcow2_scan_run(a->image, &a->scan.stop, NULL);
	blk_stop_point("scan-walked");
	if (ret)
		fail(a);
	else
		set_phase(a, BLK_SCAN_WALKED);
	blk_feeder_wake(a);
	return NULL;
}

void blk_scan_start(struct blk_attachment *a)
{
	if (phase(a) != BLK_SCAN_DUE)
		return;
	set_phase(a, BLK_SCAN_WALKING);
	if (blk_thread_start(&a->scan.thread, scan_main, a))
		fail(a);
	else
		a->scan.running = true;
}

void blk_scan_stop(struct blk_attachment *a)
{
	if (!a->scan.running)
		return;
	a->scan.stop = true;
	pthread_join(a->scan.thread, NULL);
	a->scan.running = false;
}

/* Behind the barrier: nothing that was freed before it is still on its way. */
static void end(struct blk_attachment *a)
{
	uint64_t leaks;

	blk_stop_point("scan-barrier");
	if (blk_qcow2_scan_end(a->image, &leaks, NULL))
		fail(a);
	else
		set_phase(a, BLK_SCAN_DONE);
	blk_stop_point("scan-ended");
	blk_feeder_notify(a, BLK_ATTACH_SCANNED);
}

void blk_scan_step(struct blk_attachment *a, const struct blk_kdev *k)
{
	int ret;

	if (phase(a) != BLK_SCAN_WALKED && phase(a) != BLK_SCAN_BARRIER)
		return;
	/* it keeps its leaks; a commit that has failed has ended, too */
	if (k->mode >= DM_QCOW_MODE_READ_ONLY) {
		fail(a);
		blk_feeder_notify(a, BLK_ATTACH_SCANNED);
		return;
	}
	if (phase(a) == BLK_SCAN_WALKED) {
		a->scan.cookie = ++a->cookie;
		/*
		 * Where it is just being suspended: later, or
		 * blk_scan_finish() does without.
		 */
		if (!blk_genl_commit(a->genl, a->dev, a->session,
				     a->scan.cookie, NULL))
			set_phase(a, BLK_SCAN_BARRIER);
		return;
	}
	if (k->cookie < a->scan.cookie)
		return;
	while ((ret = blk_grant_reap(a)) > 0)
		if (blk_feeder_interrupted(a))
			return;
	if (!ret)
		end(a);
}

bool blk_scan_cancel(struct blk_attachment *a)
{
	bool was_open = blk_scan_is_open(a) && phase(a) != BLK_SCAN_FAILED;
	bool keep_mark = atomic_load(&a->keep_mark);

	blk_scan_stop(a);
	a->scan.stop = false;
	blk_qcow2_scan_cancel(a->image);
	if (!was_open)
		return false;
	/* that it was stopped is no failure */
	atomic_store(&a->keep_mark, keep_mark);
	set_phase(a, BLK_SCAN_NONE);
	return true;
}

void blk_scan_finish(struct blk_attachment *a)
{
	blk_scan_stop(a);
	if (phase(a) == BLK_SCAN_WALKED || phase(a) == BLK_SCAN_BARRIER)
		end(a);
	else if (blk_scan_is_open(a))
		fail(a);
}

void blk_scan_wait(struct blk_attachment *a, unsigned int ms)
{
	struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };
	pid_t tid = atomic_load(&a->scan.tid);

	/* nobody uses the device any more, and somebody waits for it */
	if (tid && phase(a) == BLK_SCAN_WALKING)
		set_priority(tid, NORMAL_NICE, IOPRIO_CLASS_NONE);
	for (; ms >= POLL_MS && phase(a) == BLK_SCAN_WALKING; ms -= POLL_MS)
		nanosleep(&ts, NULL);
}
