/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What attach.c, adopt.c, detach.c, feeder.c and scan.c share: the inside of
 * an attachment.  Nobody else includes it.
 *
 * Who may talk to the kernel's session and allocate from the image: the
 * feeder thread, or, while it is paused or not running, the thread inside
 * blk_attach(), blk_attach_adopt() or blk_detach().
 */
#ifndef BLK_KCTL_ATTACHMENT_H
#define BLK_KCTL_ATTACHMENT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "kctl/attach.h"
#include "kctl/genl.h"
#include "kctl/loop.h"

#define BLK_DM_NAME_MAX	128
#define BLK_DM_UUID_MAX	129

/**
 * enum blk_scan_phase - the leak scan
 * @BLK_SCAN_NONE: none is due
 * @BLK_SCAN_DUE: begun on the image, its thread is not running yet
 * @BLK_SCAN_WALKING: the thread reads tables
 * @BLK_SCAN_WALKED: it has ended; the barrier is next
 * @BLK_SCAN_BARRIER: a COMMIT is under way
 * @BLK_SCAN_DONE: leaks were given back
 * @BLK_SCAN_FAILED: it could not be finished: the mark stays
 */
enum blk_scan_phase {
	BLK_SCAN_NONE,
	BLK_SCAN_DUE,
	BLK_SCAN_WALKING,
	BLK_SCAN_WALKED,
	BLK_SCAN_BARRIER,
	BLK_SCAN_DONE,
	BLK_SCAN_FAILED,
};

struct blk_scan {
	pthread_t thread;
	bool running;		/* to be joined */
	_Atomic pid_t tid;	/* 0: not known yet */
	volatile bool stop;
	_Atomic enum blk_scan_phase phase;
	uint64_t cookie;	/* of the barrier's COMMIT */
};

/**
 * struct blk_feeder - the thread that serves the kernel's wishes
 * @lock: guards @want_pause, @paused, @ended
 * @ended: the thread serves no more (stopped, or the device has gone)
 * @target, @cap: bytes to keep granted; and what can ever be needed
 * @consumed, @since: of the window in which consumption is measured (bytes, ns)
 * @released: when freed runs were last given back
 * @failed: when an allocation failed, 0: the last one did not
 * @host_full: the kernel was told so
 * @starved: the user was told that writes wait for space
 * @refused: how often free clusters turned out to be in use
 * @runs: room for one message; whoever may talk to the session uses it
 */
struct blk_feeder {
	pthread_t thread;
	bool running;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool want_pause, paused, ended;
	atomic_bool stop;
	int wake;
	struct blk_genl *events;

	uint64_t target, cap;
	uint64_t consumed, since;
	uint64_t released, failed;
	bool host_full, starved;
	unsigned int refused;
	enum dm_qcow_mode mode;
	bool corrupt;
	struct dm_qcow_run runs[DM_QCOW_MAX_RUNS];
};

struct blk_attachment {
	char name[BLK_DM_NAME_MAX];
	char uuid[BLK_DM_UUID_MAX];	/* tells it from a later one */
	uint64_t dev;
	bool writable;
	bool live;		/* has been resumed */
	bool was_marked;
	atomic_bool keep_mark;	/* something may have leaked */
	bool own;		/* @file and @image are ours: adopted */
	struct blk_file *file;
	struct blk_qcow2 *image;
	struct blk_loop loop;	/* .fd < 0: a block device as it is */

	struct blk_genl *genl;
	uint64_t session, seq, cookie;
	unsigned int cluster_bits;

	void (*notify)(void *opaque, unsigned int what);
	void *opaque;
	struct blk_feeder feeder;
	struct blk_scan scan;
};

/* attachment.c */
struct blk_attachment *blk_attachment_new(struct blk_file *file,
					  struct blk_qcow2 *image);
/* Frees memory, sockets and descriptors; the threads are stopped. */
void blk_attachment_free(struct blk_attachment *a);
/* A session has begun. */
void blk_attachment_session(struct blk_attachment *a);
/* Connects the image's allocator with the kernel (claims, loop size). */
void blk_attachment_connect(struct blk_attachment *a);
/* The device as device-mapper numbers it, of the image or its loop device. */
int blk_attachment_below(const struct blk_attachment *a, uint64_t *dev);

/* feeder.c: the thread */
int blk_feeder_init(struct blk_attachment *a, struct blk_error *e);
void blk_feeder_exit(struct blk_attachment *a);
/* Starts the thread, paused; blk_feeder_go() lets it work. */
int blk_feeder_start(struct blk_attachment *a, struct blk_error *e);
void blk_feeder_go(struct blk_attachment *a);
void blk_feeder_pause(struct blk_attachment *a);	/* returns when it rests */
void blk_feeder_stop(struct blk_attachment *a);		/* and joins it */
void blk_feeder_wake(struct blk_attachment *a);
bool blk_feeder_interrupted(struct blk_attachment *a);
void blk_feeder_notify(struct blk_attachment *a, unsigned int what);
/* A thread with a small stack and all signals blocked; a positive errno. */
int blk_thread_start(pthread_t *thread, void *(*fn)(void *), void *arg);

/* grant.c: what the thread does, and the procedures while it rests */

/* Is this errno of the netlink calls the end of our session? */
bool blk_grant_is_lost(int ret);
/* Grants @n <= DM_QCOW_MAX_RUNS runs; the outcome is certain. */
int blk_grant_give(struct blk_attachment *a, const struct dm_qcow_run *runs,
		   size_t n, uint32_t flags, uint64_t *granted,
		   struct blk_error *e);
/* Tops the grants up, as far as the host has space.  @k: a fresh look. */
int blk_grant_fill(struct blk_attachment *a, const struct blk_kdev *k);
/* Drops a reference of each; what fails is a leak, and the mark stays. */
int blk_grant_drop(struct blk_attachment *a, const struct dm_qcow_run *runs,
		   size_t n);
/* Takes one message of freed runs and drops them; > 0: there was something. */
int blk_grant_reap(struct blk_attachment *a);
bool blk_grant_should_reap(const struct blk_attachment *a,
			   const struct blk_kdev *k);
/* How long until the next look, milliseconds. */
int blk_grant_rest(const struct blk_attachment *a, const struct blk_kdev *k);

/**
 * struct blk_run_list - runs that were taken out of the kernel
 */
struct blk_run_list {
	struct dm_qcow_run *v;
	size_t n;
};

/* Appends all that TAKE gives; -errno: what was taken so far is in the list. */
int blk_run_list_take(struct blk_attachment *a, uint32_t what,
		      struct blk_run_list *l, struct blk_error *e);
void blk_run_list_free(struct blk_run_list *l);

/* scan.c */
int blk_scan_begin(struct blk_attachment *a, struct blk_error *e);
void blk_scan_start(struct blk_attachment *a);
void blk_scan_stop(struct blk_attachment *a);
/* The feeder's part: the barrier, and the end.  @k: a fresh look. */
void blk_scan_step(struct blk_attachment *a, const struct blk_kdev *k);
/* The device is suspended or gone, all its runs were dropped. */
void blk_scan_finish(struct blk_attachment *a);
/* Gives a scan that is nearly through the time to end. */
void blk_scan_wait(struct blk_attachment *a, unsigned int ms);
/* Whether leaks may be left. */
bool blk_scan_is_open(const struct blk_attachment *a);

/* detach.c */

/* What the attachment owns itself; @unlock: nobody else needs the locks. */
void blk_attachment_disown(struct blk_attachment *a, bool unlock);
/* Removes the device, with patience for those who only look (udev). */
int blk_attachment_remove(const char *name, struct blk_error *e);

uint64_t blk_now_ns(void);

#endif
