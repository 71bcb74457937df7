// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Exports of type "device-mapper".
 *
 * Owns: attachments (kctl/attach.h), and the export's part in their images.
 * Must not: block the loop: attaching, detaching and forgetting run as work.
 * Threads: the loop's; attach_run(), stop_run() and forget_run() in threads of
 * their own, while the export is STARTING or STOPPING, so that nobody else
 * touches its attachment.
 *
 * An adopted attachment owns its file and image, and drops the locks when it
 * goes.  A writable one lends them to the node (@lends), for there must not be
 * two that think they own the metadata.  Before it goes the file is
 * duplicated, and afterwards the image is locked and opened anew: so nodes
 * outlive their exports in any case, as they do in QEMU.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "export_dm_int.h"
#include "graph/json.h"
#include "io/lock.h"
#include "kctl/dm.h"
#include "kernel.h"
#include "log.h"

/* What was started, or could not be (@ret), answers @rq.  QMP_LATER or -errno. */
static int later(struct dm_export *d, int ret, struct qmp_request *rq,
		 struct blk_error *e)
{
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "Could not start a thread: %s",
				     strerror(-ret));
	d->rq = rq;
	return QMP_LATER;
}

static int start_work(struct dm_export *d, void (*run)(struct blk_ev_work *w),
		      void (*done)(struct blk_ev_work *w),
		      struct qmp_request *rq, struct blk_error *e)
{
	d->work.run = run;
	d->work.done = done;
	return later(d, blk_ev_work_start(d->x.s->ev, &d->work), rq, e);
}

/*
 * Adding
 */

static void attach_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);
	struct blk_attach_params p = {
		.name = d->name,
		.label = d->label,
		.layers = d->layers,
		.n_layers = d->n_layers,
		.writable = d->x.writable,
		.snapshot = d->snapshot,
		.invalidate_bitmaps = d->invalidate_bitmaps,
		.no_space_timeout = d->no_space_timeout,
		.notify = export_dm_notify,
		.opaque = &d->x,
	};

	d->ret = blk_attach(&p, &d->att, &d->err);
}

static void attach_done(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);
	struct qmp_request *rq = d->rq;
	struct blk_kdev k;

	d->rq = NULL;
	free(d->label);
	d->label = NULL;
	free(d->layers);
	d->layers = NULL;
	if (d->ret) {
		export_started(&d->x, rq, d->ret, &d->err);
		return;
	}
	d->dev = blk_attach_dev(d->att);
	d->size = blk_attach_size(d->att);
	if (blk_attach_repaired(d->att))
		log_warn("export '%s': '%s' was not closed by its last writer; its refcounts have been repaired",
			 d->x.id, blk_node_filename(d->x.node));
	if (!kernel_get(d->x.s, d->dev, &k, NULL)) {
		d->mode = k.mode;
		d->host_full = k.state & DM_QCOW_STATE_HOST_FULL;
	}
	log_info("export '%s': /dev/mapper/%s is there", d->x.id, d->name);
	export_started(&d->x, rq, 0, NULL);
	export_dm_catch_up(d);
}

static int check_name(const struct dm_export *d, const char *name,
		      struct blk_error *e)
{
	struct export *x;
	int ret = blk_dm_check_name(name, e);

	if (ret)
		return ret;
	if (strlen(name) >= DM_EXPORT_NAME_BYTES)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "The device name is too long (%d bytes are allowed)",
				     DM_EXPORT_NAME_BYTES - 1);
	for (x = d->x.s->exports; x; x = x->next)
		if (x->type == &export_dm && !strcmp(to_dm(x)->name, name))
			return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
					     "The device name '%s' is in use by export '%s'",
					     name, x->id);
	return 0;
}

static int take_snapshot(struct dm_export *d, const struct qmp_request *rq,
			 struct blk_error *e)
{
	const char *tag = blk_json_str(rq->args, "snapshot", NULL);

	if (!tag)
		return 0;
	if (d->x.writable)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "An internal snapshot can only be exported read-only");
	d->snapshot = strdup(tag);
	return d->snapshot ? 0 : blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					       "out of memory");
}

static int dm_start(struct export *x, struct qmp_request *rq,
		    struct blk_error *e)
{
	struct dm_export *d = to_dm(x);
	const char *name = blk_json_str(rq->args, "name", "");
	int ret;

	if (!blk_node_is_qcow2(x->node))
		return blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				     "Node '%s' has driver '%s': only nodes of driver 'qcow2' can be exported as devices",
				     x->node->name, blk_node_driver(x->node));
	ret = export_dm_take_layers(d, e);
	if (ret)
		return ret;
	ret = take_snapshot(d, rq, e);
	if (ret)
		return ret;
	ret = check_name(d, name, e);
	if (ret)
		return ret;
	strcpy(d->name, name);
	d->no_space_timeout =
		(int)blk_json_int(rq->args, "no-space-timeout", -1);
	d->invalidate_bitmaps = blk_json_bool(rq->args, "invalidate-bitmaps",
					      false);
	d->label = export_dm_make_label(d);
	if (!d->label)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	if (strlen(d->label) >= DM_QCOW_LABEL_MAX)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "Block export id is too long");
	return start_work(d, attach_run, attach_done, rq, e);
}

/*
 * Removing
 */

/* The attachment is gone, and its locks with it */
static void reopen_image(struct dm_export *d)
{
	struct blk_error e = { .msg = "there is no file" };
	struct blk_node *n = d->x.node;
	struct blk_file *f = d->lends ? d->own_file : n->child->file;

	if (!d->adopted)
		return;
	if (f && !blk_lock_image(f->fd, f->path, !n->read_only, &e) &&
	    (!d->lends || !blk_qcow2_open(f, &d->own_image, &e)))
		return;
	log_warn("export '%s': its image could not be %s again: %s", d->x.id,
		 d->lends ? "opened" : "locked", e.msg);
	if (!d->own_file)
		return;
	blk_unlock_image(d->own_file->fd);
	blk_file_close(d->own_file);
	d->own_file = NULL;
}

static void stop_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);

	memset(&d->err, 0, sizeof(d->err));
	if (d->lends)
		d->own_file = export_dm_dup_file(blk_attach_file(d->att));
	d->ret = blk_detach(d->att, &d->err);
	if (!d->ret) {
		reopen_image(d);
		return;
	}
	blk_file_close(d->own_file);
	d->own_file = NULL;
}

static void forget_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);

	memset(&d->err, 0, sizeof(d->err));
	if (d->lends)
		d->own_file = export_dm_dup_file(blk_attach_file(d->att));
	blk_attach_forget(d->att);
	d->ret = 0;
	reopen_image(d);
}

static void stop_done(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);
	struct qmp_request *rq = d->rq;

	d->rq = NULL;
	if (d->ret) {
		if (d->lends)
			blk_node_replace(d->x.node, blk_attach_file(d->att),
					 blk_attach_image(d->att));
		export_stopped(&d->x, rq, d->ret, &d->err);
		export_dm_catch_up(d);
		return;
	}
	d->att = NULL;
	if (d->lends)
		blk_node_replace(d->x.node, d->own_file, d->own_image);
	d->own_file = NULL;
	d->own_image = NULL;
	log_info("export '%s': /dev/mapper/%s is gone", d->x.id, d->name);
	/* Gone, but not quite as it should be: an error with 0 */
	export_stopped(&d->x, rq, 0, d->err.msg[0] ? &d->err : NULL);
}

static int begin_stop(struct dm_export *d, void (*run)(struct blk_ev_work *))
{
	int ret;

	d->work.run = run;
	d->work.done = stop_done;
	if (d->lends)	/* nobody looks at them any more */
		blk_node_replace(d->x.node, NULL, NULL);
	ret = blk_ev_work_start(d->x.s->ev, &d->work);
	if (ret && d->lends)
		blk_node_replace(d->x.node, blk_attach_file(d->att),
				 blk_attach_image(d->att));
	return ret;
}

void export_dm_gone(struct dm_export *d)
{
	log_warn("export '%s': /dev/mapper/%s was removed by somebody else",
		 d->x.id, d->name);
	d->x.state = EXPORT_STOPPING;
	if (!begin_stop(d, forget_run))
		return;
	d->x.state = EXPORT_RUNNING;
	log_error("export '%s': no thread to clean up", d->x.id);
}

static int dm_stop(struct export *x, struct qmp_request *rq, bool hard,
		   struct blk_error *e)
{
	struct dm_export *d = to_dm(x);

	/* What the kernel has open can't be taken from it in either mode */
	(void)hard;
	return later(d, begin_stop(d, stop_run), rq, e);
}

/*
 * Resizing
 */

static void resize_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);

	memset(&d->err, 0, sizeof(d->err));
	d->ret = blk_attach_resize(d->att, d->new_size, d->shrink, &d->err);
}

static void resize_done(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);
	struct blk_node *n = d->x.node;
	struct qmp_request *rq = d->rq;

	d->rq = NULL;
	d->size = blk_attach_size(d->att);
	n->header = *blk_qcow2_header(n->image);
	if (!d->ret)
		log_info("export '%s': /dev/mapper/%s has %llu bytes", d->x.id,
			 d->name, (unsigned long long)d->size);
	export_resized(&d->x, rq, d->ret, &d->err);
	export_dm_catch_up(d);
}

static int dm_resize(struct export *x, struct qmp_request *rq, uint64_t size,
		     bool shrink, struct blk_error *e)
{
	struct dm_export *d = to_dm(x);

	d->new_size = size;
	d->shrink = shrink;
	return start_work(d, resize_run, resize_done, rq, e);
}

/*
 * The ends
 */

static void dm_abandon(struct export *x)
{
	struct dm_export *d = to_dm(x);

	if (d->lends)
		blk_node_replace(x->node, NULL, NULL);
	blk_attach_abandon(d->att);
	d->att = NULL;
}

static void dm_free(struct export *x)
{
	struct dm_export *d = to_dm(x);
	const struct export *o;

	free(d->label);
	free(d->layers);
	free(d->snapshot);
	export_dm_free_layers(d);
	if (d->own_image)
		blk_qcow2_close(d->own_image);
	blk_file_close(d->own_file);
	if (d->att)
		blk_attach_abandon(d->att);
	/* Without devices the module may go, and come back as another */
	for (o = x->s->exports; o; o = o->next)
		if (o->type == &export_dm)
			return;
	kernel_unwatch(x->s);
}

static int dm_info(const struct export *x, json_t *o)
{
	const struct dm_export *d =
		blk_container_of(x, const struct dm_export, x);
	char path[sizeof("/dev/mapper/") + DM_EXPORT_NAME_BYTES];

	snprintf(path, sizeof(path), "/dev/mapper/%s", d->name);
	return blk_json_put_str(o, "name", d->name) ||
		blk_json_put_str(o, "device", path) ||
		blk_json_put_bool(o, "writable", x->writable) ||
		(d->snapshot && blk_json_put_str(o, "snapshot", d->snapshot));
}

int export_dm_put(const struct export *x, json_t *o)
{
	const struct dm_export *d =
		blk_container_of(x, const struct dm_export, x);

	return blk_json_put_uint(o, "size", d->size) ||
		(d->snapshot && blk_json_put_str(o, "snapshot", d->snapshot));
}

struct export *export_dm_by_name(struct server *s, const char *name)
{
	struct export *x;

	for (x = s->exports; x; x = x->next)
		if (x->type == &export_dm && !strcmp(to_dm(x)->name, name))
			return x;
	return NULL;
}

const struct export_type export_dm = {
	.name = "device-mapper",
	.size = sizeof(struct dm_export),
	.start = dm_start,
	.stop = dm_stop,
	.resize = dm_resize,
	.abandon = dm_abandon,
	.free = dm_free,
	.info = dm_info,
};
