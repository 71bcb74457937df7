/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What export_dm.c and export_dm_watch.c share.  Nobody else includes it.
 */
#ifndef BLKCTLD_EXPORT_DM_INT_H
#define BLKCTLD_EXPORT_DM_INT_H

#include <stdatomic.h>

#include "export_dm.h"

#define DM_EXPORT_NAME_BYTES 128

/**
 * struct dm_export - an export of type "device-mapper"
 * @adopted: @att owns a file and an image
 * @lends: and the node has no others
 * @mode, @host_full, @corrupt: what was told last
 * @post, @what: notifications of the attachment, BLK_ATTACH_*
 * @late: those that came while it was STARTING or STOPPING
 * @work, @rq, @ret, @err: the one thing that is being done
 * @label: for the next daemon; while attaching
 * @own_file, @own_image: what the node gets when it is done
 */
struct dm_export {
	struct export x;
	char name[DM_EXPORT_NAME_BYTES];
	uint64_t dev;
	int no_space_timeout;
	struct blk_attachment *att;
	bool adopted;
	bool lends;
	enum dm_qcow_mode mode;
	bool host_full;
	bool corrupt;

	struct blk_ev_post post;
	atomic_uint what;
	unsigned int late;

	struct blk_ev_work work;
	struct qmp_request *rq;
	int ret;
	struct blk_error err;
	char *label;
	struct blk_file *own_file;
	struct blk_qcow2 *own_image;
};

static inline struct dm_export *to_dm(struct export *x)
{
	return blk_container_of(x, struct dm_export, x);
}

/* The loop's thread: looks at what has changed; not while it is busy */
void export_dm_look(struct dm_export *d, unsigned int what);
/* What came while nobody could look */
void export_dm_catch_up(struct dm_export *d);
/* It is no longer there: begins to clean up */
void export_dm_gone(struct dm_export *d);

/*
 * Any thread: an open file of our own beside the attachment's, sharing its
 * locks; NULL if there can be none.
 */
struct blk_file *export_dm_dup_file(struct dm_export *d);

#endif
