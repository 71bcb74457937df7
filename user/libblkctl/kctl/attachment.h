/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of kctl/ that make, serve and end an attachment share: its
 * inside.  Nobody else includes it.
 *
 * Who may talk to the kernel's session and allocate from the image: the
 * feeder thread, or, while it is paused or not running, the thread inside
 * blk_attach(), blk_attach_adopt(), blk_attach_resize() or blk_detach().
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
#include "kctl/crypt.h"
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
 * struct blk_supply - how much of one kind of clusters is kept granted
 * @target: bytes
 * @consumed, @since: of the window in which consumption is measured (bytes, ns)
 */
struct blk_supply {
	uint64_t target;
	uint64_t consumed, since;
};

/**
 * struct blk_feeder - the thread that serves the kernel's wishes
 * @lock: guards @want_pause, @paused, @ended
 * @ended: the thread serves no more (stopped, or the device has gone)
 * @cap: bytes that can ever be needed, 0: not known yet
 * @supply: [1]: clusters that read as zeroes, where these are dear; else all
 *          are [0]
 * @split: they are dear
 * @gave_zeroed: bytes of these that the kernel has had in all
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

	uint64_t cap;
	struct blk_supply supply[2];
	bool split;
	uint64_t gave_zeroed;
	uint64_t released, failed;
	bool host_full, starved;
	unsigned int refused;
	enum dm_qcow_mode mode;
	bool corrupt;
	struct dm_qcow_run runs[DM_QCOW_MAX_RUNS];
};

/**
 * struct blk_layer - one image of the chain
 * @is, @file, ...: as in struct blk_attach_layer
 * @loop, @data_loop: of regular files; .fd < 0: not open (any more); .dev
 *                    stays
 * @crypt: of an encrypted image, over its device
 * @data_size: of a data file that was made longer here: what it was before;
 *             else 0
 */
struct blk_layer {
	struct blk_attach_layer is;
	struct blk_loop loop, data_loop;
	struct blk_crypt crypt;
	uint64_t data_size;
};

struct blk_attachment {
	char name[BLK_DM_NAME_MAX];
	char uuid[BLK_DM_UUID_MAX];	/* tells it from a later one */
	uint64_t dev;
	bool writable;
	bool live;		/* has been resumed */
	bool was_marked;
	atomic_bool keep_mark;	/* something may have leaked */
	bool own;		/* files and images are ours: adopted */
	bool share_locks;	/* blk_attach_share_locks() */
	bool repaired;
	uint64_t size;		/* of the device, bytes */
	struct blk_layer *layers;
	size_t n_layers;
	/* of layer 0 */
	struct blk_file *file;
	struct blk_qcow2 *image;

	struct blk_genl *genl;
	uint64_t session, seq, cookie;
	unsigned int cluster_bits;

	void (*notify)(void *opaque, unsigned int what);
	void *opaque;
	struct blk_feeder feeder;
	struct blk_scan scan;
};

/* attachment.c */
struct blk_attachment *blk_attachment_new(void);
/* Frees memory, sockets and descriptors; the threads are stopped. */
void blk_attachment_free(struct blk_attachment *a);
/* A session has begun. */
void blk_attachment_session(struct blk_attachment *a);
/* Connects the image's allocator with the kernel (claims, loop size). */
void blk_attachment_connect(struct blk_attachment *a);
/*
 * Claims all of the daemon's metadata in the image; @anew: in place of all
 * that was claimed before, where some of it may have moved.
 */
int blk_attachment_claim(struct blk_attachment *a, bool anew,
			 struct blk_error *e);
/* The same without claims: while the device is suspended and handed over. */
void blk_attachment_connect_unclaimed(struct blk_attachment *a);

/* layers.c */

/* Room for so many; all empty. */
int blk_layers_alloc(struct blk_attachment *a, size_t n, struct blk_error *e);
/* Makes @a->layers of the parameters'. */
int blk_layers_copy(struct blk_attachment *a,
		    const struct blk_attach_params *p, struct blk_error *e);
/* What each layer must be like. */
int blk_layers_check(const struct blk_attachment *a, struct blk_error *e);
/* Sizes the files and makes their loop devices, and crypt devices over them. */
int blk_layers_up(struct blk_attachment *a, struct blk_error *e);
/* Closes the loop devices: they go with their last user. */
void blk_layers_down(struct blk_attachment *a);
/* The same when the device is gone, or never came: crypt devices go too. */
void blk_layers_remove(struct blk_attachment *a);
/* What need not stay open once the table is live. */
void blk_layers_settle(struct blk_attachment *a);
/* "2 qcow2 7:0 - raw 8:16", malloc'ed */
int blk_layers_table(const struct blk_attachment *a, char **table,
		     struct blk_error *e);
/* Names who holds a layer's device. */
int blk_layers_busy(const struct blk_attachment *a, struct blk_error *e);
/* Lends the kernel all files. */
int blk_layers_hold(struct blk_attachment *a, struct blk_error *e);
/* Of an adopted device: @a->layers of its table line and the held files. */
int blk_layers_adopt(struct blk_attachment *a, const char *table,
		     struct blk_error *e);
/* Closes what the attachment owns itself; @unlock: as blk_detach() does */
void blk_layers_disown(struct blk_attachment *a, bool unlock);
/* Drops what the host has buffered of block devices, see rule 33. */
void blk_layers_drop_buffers(const struct blk_attachment *a);
/* The external data file of layer 0 becomes large enough for @size. */
int blk_layers_grow_data(struct blk_attachment *a, uint64_t size,
			 struct blk_error *e);
/* And no larger than it was, or than @size needs. */
void blk_layers_trim_data(struct blk_attachment *a, uint64_t size);
/* The disk has become smaller, and so does a data file that shows it raw. */
void blk_layers_cut_data(struct blk_attachment *a, uint64_t size);
/* Bytes of the image below layer 0; 0: there is none */
uint64_t blk_layers_backing_size(const struct blk_attachment *a);

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
/*
 * What becomes of runs that the kernel answered with @why: they are dropped
 * where it is sure that it has none of them, else they leak and the mark stays.
 */
void blk_grant_refused(struct blk_attachment *a, const struct dm_qcow_run *runs,
		       size_t n, int why);
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
/* Ends it in any phase without a result.  Return: it was open. */
bool blk_scan_cancel(struct blk_attachment *a);

/* handover.c: suspending, and back to how it was; detach and resize use it */

/**
 * struct blk_handover - what a suspended device has given back
 * @name: the device's; it may have been renamed
 * @failed: the device had failed before
 * @clean: the metadata was handed over
 */
struct blk_handover {
	struct blk_attachment *a;
	char name[BLK_DM_NAME_MAX];
	struct blk_run_list grants, freed;
	bool failed, clean;
};

/* Suspends a writable device and collects; on failure it goes on. */
int blk_handover_begin(struct blk_handover *h, struct blk_error *e);
/* Gives the grants back, drops what was freed. */
void blk_handover_give_back(struct blk_handover *h);
/* The same, resumes, feeds. */
int blk_handover_undo(struct blk_handover *h, struct blk_error *e);
void blk_handover_free(struct blk_handover *h);

/* detach.c */

/* Removes the device, with patience for those who only look (udev). */
int blk_attachment_remove(const char *name, struct blk_error *e);

uint64_t blk_now_ns(void);

#endif
