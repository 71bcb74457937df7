// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Exports of type "device-mapper".
 *
 * Owns: attachments (kctl/attach.h), and the export's part in their images.
 * Must not: block the loop: attaching, detaching and forgetting run as work.
 * Threads: the loop's; attach_run(), stop_run() and forget_run() in threads of
 * their own, while the export is STARTING or STOPPING, so that nobody else
 * touches its attachment; export_dm_notify() in threads of the attachment.
 *
 * An adopted attachment owns its file and image and lends them to the node
 * (@lends).  Before it goes away the file is duplicated, and afterwards the
 * image is locked and opened anew: so nodes outlive their export in any case,
 * as they do in QEMU.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_dm.h"
#include "graph/json.h"
#include "io/lock.h"
#include "kctl/dm.h"
#include "kernel.h"
#include "log.h"

#define NAME_BYTES 128

struct dm_export {
	struct export x;
	char name[NAME_BYTES];
	uint64_t dev;
	int no_space_timeout;
	struct blk_attachment *att;
	bool lends;
	enum dm_qcow_mode mode;		/* last seen */
	bool host_full;
	bool corrupt;

	struct blk_ev_post post;	/* the attachment's notifications */
	atomic_uint what;		/* BLK_ATTACH_*, not yet looked at */
	unsigned int late;		/* came while STARTING or STOPPING */

	struct blk_ev_work work;	/* one thing at a time */
	struct qmp_request *rq;
	char *label;
	int ret;
	struct blk_error err;
	struct blk_file *own_file;
	struct blk_qcow2 *own_image;
};

static struct dm_export *to_dm(struct export *x)
{
	return blk_container_of(x, struct dm_export, x);
}

static void look(struct dm_export *d, unsigned int what);

/* What came while nobody could look */
static void catch_up(struct dm_export *d)
{
	unsigned int what = d->late;

	d->late = 0;
	if (what)
		look(d, what);
}

/*
 * Adding
 */

static char *make_label(const struct dm_export *d)
{
	const struct blk_node *n = d->x.node;
	json_t *o = json_pack("{s:i, s:s, s:s, s:b, s:s, s:b, s:s, s:b}",
			      "version", 1, "id", d->x.id,
			      "node-name", n->name, "read-only", n->read_only,
			      "file-node-name", n->child->name,
			      "file-implicit", n->child->implicit,
			      "name", d->name, "writable", d->x.writable);
	char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;

	json_decref(o);
	return text;
}

static void attach_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);
	struct blk_node *n = d->x.node;
	struct blk_attach_params p = {
		.name = d->name,
		.label = d->label,
		.file = n->child->file,
		.image = n->image,
		.writable = d->x.writable,
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
	if (d->ret) {
		export_started(&d->x, rq, d->ret, &d->err);
		return;
	}
	d->dev = blk_attach_dev(d->att);
	if (!kernel_get(d->x.s, d->dev, &k, NULL)) {
		d->mode = k.mode;
		d->host_full = k.state & DM_QCOW_STATE_HOST_FULL;
	}
	log_info("export '%s': /dev/mapper/%s is there", d->x.id, d->name);
	export_started(&d->x, rq, 0, NULL);
	catch_up(d);
}

static int check_name(const struct dm_export *d, const char *name,
		      struct blk_error *e)
{
	struct export *x;
	int ret = blk_dm_check_name(name, e);

	if (ret)
		return ret;
	if (strlen(name) >= NAME_BYTES)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "The device name is too long (%d bytes are allowed)",
				     NAME_BYTES - 1);
	for (x = d->x.s->exports; x; x = x->next)
		if (x->type == &export_dm && !strcmp(to_dm(x)->name, name))
			return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
					     "The device name '%s' is in use by export '%s'",
					     name, x->id);
	return 0;
}

static int dm_start(struct export *x, struct qmp_request *rq,
		    struct blk_error *e)
{
	struct dm_export *d = to_dm(x);
	const char *name = blk_json_str(rq->args, "name", "");
	int ret;

	if (!x->node->child)
		return blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				     "Node '%s' has driver '%s': only nodes of driver 'qcow2' can be exported as devices yet",
				     x->node->name, blk_node_driver(x->node));
	if (!x->node->image)
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "The image of node '%s' was lost: remove the node and add it again",
				     x->node->name);
	ret = check_name(d, name, e);
	if (ret)
		return ret;
	strcpy(d->name, name);
	d->no_space_timeout =
		(int)blk_json_int(rq->args, "no-space-timeout", -1);
	d->label = make_label(d);
	if (!d->label)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	if (strlen(d->label) >= DM_QCOW_LABEL_MAX)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "Block export id is too long");
	d->work.run = attach_run;
	d->work.done = attach_done;
	ret = blk_ev_work_start(x->s->ev, &d->work);
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "Could not start a thread: %s",
				     strerror(-ret));
	d->rq = rq;
	return QMP_LATER;
}

/*
 * Removing
 */

/* Keeps the file beyond the attachment */
static void keep_file(struct dm_export *d)
{
	struct blk_file *f = blk_attach_file(d->att);
	int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);

	if (fd >= 0 && blk_file_from_fd(fd, f->path, &d->own_file, NULL))
		d->own_file = NULL;
}

static void drop_kept(struct dm_export *d)
{
	blk_file_close(d->own_file);
	d->own_file = NULL;
}

/* The attachment is gone, and its locks: the node gets an image of its own */
static void reopen_image(struct dm_export *d)
{
	struct blk_error e = { .msg = "no file" };
	struct blk_file *f = d->own_file;

	if (!d->lends)
		return;
	if (f && !blk_lock_image(f->fd, f->path, !d->x.node->read_only, &e) &&
	    !blk_qcow2_open(f, &d->own_image, &e))
		return;
	log_warn("export '%s': its image could not be opened again: %s",
		 d->x.id, e.msg);
	drop_kept(d);
}

static void stop_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);

	if (d->lends)
		keep_file(d);
	memset(&d->err, 0, sizeof(d->err));
	d->ret = blk_detach(d->att, &d->err);
	if (!d->ret)
		reopen_image(d);
	else
		drop_kept(d);
}

static void forget_run(struct blk_ev_work *w)
{
	struct dm_export *d = blk_container_of(w, struct dm_export, work);

	if (d->lends)
		keep_file(d);
	blk_attach_forget(d->att);
	memset(&d->err, 0, sizeof(d->err));
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
		catch_up(d);
		return;
	}
	d->att = NULL;
	if (d->lends)
		blk_node_replace(d->x.node, d->own_file, d->own_image);
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

static int dm_stop(struct export *x, struct qmp_request *rq, bool hard,
		   struct blk_error *e)
{
	struct dm_export *d = to_dm(x);
	int ret;

	/* What the kernel has open can't be taken from it in either mode */
	(void)hard;
	ret = begin_stop(d, stop_run);
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "Could not start a thread: %s",
				     strerror(-ret));
	d->rq = rq;
	return QMP_LATER;
}

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
	free(to_dm(x)->label);
}

static int dm_info(const struct export *x, json_t *o)
{
	const struct dm_export *d =
		blk_container_of(x, const struct dm_export, x);
	char path[sizeof("/dev/mapper/") + NAME_BYTES];

	snprintf(path, sizeof(path), "/dev/mapper/%s", d->name);
	return blk_json_put_str(o, "name", d->name) ||
		blk_json_put_str(o, "device", path) ||
		blk_json_put_bool(o, "writable", x->writable);
}

const struct export_type export_dm = {
	.name = "device-mapper",
	.size = sizeof(struct dm_export),
	.start = dm_start,
	.stop = dm_stop,
	.abandon = dm_abandon,
	.free = dm_free,
	.info = dm_info,
};

/*
 * What happens to a running device
 */

static void gone(struct dm_export *d)
{
	log_warn("export '%s': /dev/mapper/%s was removed by somebody else",
		 d->x.id, d->name);
	d->x.state = EXPORT_STOPPING;
	if (!begin_stop(d, forget_run))
		return;
	d->x.state = EXPORT_RUNNING;
	log_error("export '%s': no thread to clean up", d->x.id);
}

static void tell_state(struct dm_export *d, const struct blk_kdev *k)
{
	bool full = k->state & DM_QCOW_STATE_HOST_FULL;

	if (k->mode != d->mode || full != d->host_full) {
		d->mode = k->mode;
		d->host_full = full;
		log_warn("export '%s': mode %s%s", d->x.id,
			 kernel_mode_name(k->mode),
			 full ? ", the host is full" : "");
		qmp_event(d->x.s, "DEVICE_MAPPER_STATE_CHANGE",
			  json_pack("{s:s, s:s, s:s, s:s, s:b, s:i}",
				    "id", d->x.id,
				    "node-name", d->x.node->name,
				    "name", d->name,
				    "mode", kernel_mode_name(k->mode),
				    "host-full", full,
				    "errno", (int)k->error));
	}
	if (k->state & DM_QCOW_STATE_CORRUPT && !d->corrupt) {
		d->corrupt = true;
		log_error("export '%s': the image is corrupt", d->x.id);
		qmp_event(d->x.s, "BLOCK_IMAGE_CORRUPTED",
			  json_pack("{s:s, s:s, s:s, s:b}", "device", "",
				    "node-name", d->x.node->name,
				    "msg", "The kernel found invalid metadata; its log says more",
				    "fatal", k->mode >=
				    DM_QCOW_MODE_READ_ONLY));
	}
}

static void look(struct dm_export *d, unsigned int what)
{
	struct blk_error e = { .msg = "" };
	struct blk_kdev k;

	if (d->x.state != EXPORT_RUNNING) {
		d->late |= what;
		return;
	}
	if (!kernel_get(d->x.s, d->dev, &k, &e))
		tell_state(d, &k);
	else if (what & BLK_ATTACH_GONE && e.cls == BLK_ERR_NOT_FOUND)
		gone(d);
	else
		log_warn("export '%s': %s", d->x.id, e.msg);
	if (what & BLK_ATTACH_SCANNED)
		log_info("export '%s': the search for leaked clusters has ended",
			 d->x.id);
}

static void notified(struct blk_ev_post *p)
{
	struct dm_export *d = blk_container_of(p, struct dm_export, post);

	look(d, atomic_exchange(&d->what, 0));
}

void export_dm_notify(void *opaque, unsigned int what)
{
	struct dm_export *d = to_dm(opaque);

	if (atomic_fetch_or(&d->what, what))
		return;		/* the callback is on its way */
	d->post.fn = notified;
	blk_ev_post(d->x.s->ev, &d->post);
}

struct export *export_dm_by_dev(struct server *s, uint64_t dev)
{
	struct export *x;

	for (x = s->exports; x; x = x->next)
		if (x->type == &export_dm && to_dm(x)->dev == dev &&
		    x->state != EXPORT_STARTING)
			return x;
	return NULL;
}

void export_dm_kernel_event(struct server *s, uint64_t dev, uint32_t events)
{
	struct export *x = export_dm_by_dev(s, dev);
	unsigned int what = 0;

	if (events & DM_QCOW_EV_GONE)
		what |= BLK_ATTACH_GONE;
	if (events & (DM_QCOW_EV_MODE | DM_QCOW_EV_CORRUPT))
		what |= BLK_ATTACH_MODE;
	if (x && what)
		look(to_dm(x), what);
}

void export_dm_look_at_all(struct server *s)
{
	struct export *x, *next;

	for (x = s->exports; x; x = next) {
		next = x->next;
		if (x->type == &export_dm)
			look(to_dm(x), BLK_ATTACH_GONE | BLK_ATTACH_MODE);
	}
}

/*
 * Adoption
 */

struct export *export_dm_new(struct server *s, uint64_t dev)
{
	char id[48];
	struct export *x;

	snprintf(id, sizeof(id), "#adopted-%u-%u", (unsigned int)(dev >> 32),
		 (unsigned int)dev);
	x = export_new(s, &export_dm, id);
	if (x)
		to_dm(x)->dev = dev;
	return x;
}

/* The label's id if it is good and free, else a name that nobody can take */
static void set_id(struct export *x, const json_t *label)
{
	const char *id = blk_json_str(label, "id", "");
	char *copy;

	if (!blk_id_wellformed(id) || export_find(x->s, id))
		return;
	copy = strdup(id);
	if (!copy)
		return;
	free(x->id);
	x->id = copy;
}

int export_dm_adopted(struct export *x, struct blk_attachment *att,
		      const char *label, struct blk_error *e)
{
	struct dm_export *d = to_dm(x);
	json_t *o = label ? json_loads(label, 0, NULL) : NULL;
	bool writable = blk_attach_writable(att);
	struct blk_file *file = blk_attach_file(att);
	struct blk_node *node;
	int ret;

	if (!o)
		log_warn("/dev/mapper/%s has no label of ours: names are generated",
			 blk_attach_name(att));
	set_id(x, o);
	ret = blk_node_add_adopted(x->s->graph,
				   blk_json_str(o, "node-name", NULL),
				   blk_json_str(o, "file-node-name", NULL),
				   blk_json_bool(o, "file-implicit", true),
				   file, blk_attach_image(att),
				   !file->writable ||
				   blk_json_bool(o, "read-only", !writable),
				   &node, e);
	json_decref(o);
	if (ret)
		return ret;
	ret = export_use_node(x, node, writable, e);
	if (ret) {
		blk_node_replace(node, NULL, NULL);
		blk_node_del(x->s->graph, node->name, NULL);
		return ret;
	}
	d->att = att;
	d->lends = true;
	snprintf(d->name, sizeof(d->name), "%s", blk_attach_name(att));
	x->state = EXPORT_RUNNING;
	kernel_watch(x->s);
	look(d, d->late);
	d->late = 0;
	return 0;
}
