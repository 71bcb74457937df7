/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of this export type share.  Nobody else includes it.
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
 * @size: of the device, bytes
 * @snapshot: what it shows, or NULL: the active state
 * @mode, @host_full, @corrupt: what was told last
 * @post, @what: notifications of the attachment, BLK_ATTACH_*
 * @late: those that came while it was STARTING or STOPPING
 * @work, @rq, @ret, @err: the one thing that is being done
 * @label: for the next daemon; while attaching and adopting
 * @layers, @n_layers: what is attached; while attaching
 * @invalidate_bitmaps, @new_size, @shrink: arguments, while it is done
 * @adopted_layers, @n_adopted: what the nodes get; while adopting
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
	uint64_t size;
	char *snapshot;
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
	struct blk_attach_layer *layers;
	size_t n_layers;
	bool invalidate_bitmaps;
	uint64_t new_size;
	bool shrink;
	struct blk_adopted *adopted_layers;
	size_t n_adopted;
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
 * export_dm_chain.c
 */

/* Any thread: the same open file, sharing its locks; NULL: there can be none */
struct blk_file *export_dm_dup_file(const struct blk_file *f);
/* The node's chain as @layers of the export. */
int export_dm_take_layers(struct dm_export *d, struct blk_error *e);
/* What the next daemon needs to know; as many names as there is room for. */
char *export_dm_make_label(const struct dm_export *d);
/* Any thread: @adopted_layers of the attachment's. */
int export_dm_dup_layers(struct dm_export *d, struct blk_error *e);
/* Closes those of them that no node has got. */
void export_dm_free_layers(struct dm_export *d);
/* Nodes for the adopted layers, by the names of the label. */
int export_dm_add_nodes(struct dm_export *d, const json_t *label,
			struct blk_node **out, struct blk_error *e);

#endif
