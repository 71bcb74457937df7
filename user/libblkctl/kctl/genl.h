/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The generic netlink family "dm_qcow" (linux/dm_qcow.h has the contract).
 * genl.c is the only file that includes netlink/.
 */
#ifndef BLK_KCTL_GENL_H
#define BLK_KCTL_GENL_H

#include <stddef.h>
#include <stdint.h>

#include <linux/dm_qcow.h>

#include "base/error.h"

struct blk_genl;

/**
 * struct blk_kdev - what DM_QCOW_CMD_GET says of a device
 * Fields as the attributes of the same name in linux/dm_qcow.h.
 */
struct blk_kdev {
	uint64_t dev;
	char name[128];
	char label[DM_QCOW_LABEL_MAX];
	enum dm_qcow_mode mode;
	uint32_t state;
	uint32_t error;
	uint32_t cluster_bits;
	uint32_t pending;
	uint64_t generation;
	uint64_t granted;
	uint64_t consumed;
	uint64_t zeroed;
	uint64_t freed;
	uint64_t parked;
	uint64_t seq;
	uint64_t cookie;
	struct dm_qcow_stats stats;
};

/*
 * One socket = one session owner: sessions end when it is closed.  A socket
 * is used by one thread at a time (an internal mutex sees to it).
 * Errors: class UNAVAILABLE when the module is not loaded or the caller is in
 * another network namespace or not privileged, with a hint that says which.
 */
int blk_genl_open(struct blk_genl **out, struct blk_error *e);
void blk_genl_close(struct blk_genl *g);

/*
 * A second socket that is joined to the "events" group, for the event loop.
 * blk_genl_events_read() never blocks: it calls @cb (may be NULL) for each
 * event that is there; -ENOBUFS means events were lost: look at every device.
 */
int blk_genl_events_open(struct blk_genl **out, struct blk_error *e);
/* From now on only @dev's events wake this socket (best effort). */
void blk_genl_events_only(struct blk_genl *g, uint64_t dev);
int blk_genl_fd(const struct blk_genl *g);
int blk_genl_events_read(struct blk_genl *g,
			 void (*cb)(void *opaque, uint64_t dev, uint32_t events),
			 void *opaque);

/* @session 0: look without clearing pending events */
int blk_genl_get(struct blk_genl *g, uint64_t dev, uint64_t session,
		 struct blk_kdev *out, struct blk_error *e);
/* @list: malloc'ed array, the caller frees */
int blk_genl_list(struct blk_genl *g, struct blk_kdev **list, size_t *n,
		  struct blk_error *e);
int blk_genl_adopt(struct blk_genl *g, uint64_t dev, const char *label,
		   uint64_t *session, uint64_t *seq, struct blk_error *e);
/* Splits into messages.  @anew: these replace all that was claimed before. */
int blk_genl_claim(struct blk_genl *g, uint64_t dev, uint64_t session,
		   const struct dm_qcow_run *runs, size_t n, bool anew,
		   struct blk_error *e);
/* one message: n <= DM_QCOW_MAX_RUNS; @granted (may be NULL): after it */
int blk_genl_grant(struct blk_genl *g, uint64_t dev, uint64_t session,
		   uint64_t seq, const struct dm_qcow_run *runs, size_t n,
		   uint32_t flags, uint64_t *granted, struct blk_error *e);
/* one message: room for DM_QCOW_MAX_RUNS in @runs; *n = 0: nothing left */
int blk_genl_take(struct blk_genl *g, uint64_t dev, uint64_t session,
		  uint32_t what, struct dm_qcow_run *runs, size_t *n,
		  struct blk_error *e);
int blk_genl_commit(struct blk_genl *g, uint64_t dev, uint64_t session,
		    uint64_t cookie, struct blk_error *e);
int blk_genl_handover(struct blk_genl *g, uint64_t dev, uint64_t session,
		      uint64_t *generation, struct blk_error *e);
/* @flags: 0, or DM_QCOW_FILE_DATA: the layer's data file */
int blk_genl_hold_file(struct blk_genl *g, uint64_t dev, uint64_t session,
		       uint32_t layer, uint32_t flags, int fd,
		       struct blk_error *e);
/* @fd: a new descriptor, the caller closes it; -ENOENT: none is held */
int blk_genl_get_file(struct blk_genl *g, uint64_t dev, uint64_t session,
		      uint32_t layer, uint32_t flags, int *fd,
		      struct blk_error *e);

#endif
