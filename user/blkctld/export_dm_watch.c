// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Devices that run: what they tell, and how the next daemon takes them over.
 *
 * Owns: nothing; events go to all clients.
 * Must not: block the loop.
 * Threads: the loop's; export_dm_notify() in threads of the attachment;
 * export_dm_adopt() in a thread of its own, while the export is STARTING.
 *
 * Notifications and kernel events are doorbells: what is told is the difference
 * between what the kernel says now and what was told last.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "export_dm_int.h"
#include "graph/json.h"
#include "kernel.h"
#include "log.h"

/*
 * What happens to a running device
 */

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

void export_dm_look(struct dm_export *d, unsigned int what)
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
		export_dm_gone(d);
	else
		log_warn("export '%s': %s", d->x.id, e.msg);
	if (what & BLK_ATTACH_SCANNED)
		log_info("export '%s': the search for leaked clusters has ended",
			 d->x.id);
}

void export_dm_catch_up(struct dm_export *d)
{
	unsigned int what = d->late;

	d->late = 0;
	if (what)
		export_dm_look(d, what);
}

static void notified(struct blk_ev_post *p)
{
	struct dm_export *d = blk_container_of(p, struct dm_export, post);

	export_dm_look(d, atomic_exchange(&d->what, 0));
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
		export_dm_look(to_dm(x), what);
}

void export_dm_look_at_all(struct server *s)
{
	struct export *x, *next;

	for (x = s->exports; x; x = next) {
		next = x->next;
		if (x->type == &export_dm)
			export_dm_look(to_dm(x), BLK_ATTACH_GONE | BLK_ATTACH_MODE);
	}
}

/*
 * Adoption
 */

struct export *export_dm_new(struct server *s, uint64_t dev)
{
	char id[48];
	struct export *x;

	/* Nobody can take such a name; a label has a better one */
	snprintf(id, sizeof(id), "#adopted-%u-%u", (unsigned int)(dev >> 32),
		 (unsigned int)dev);
	x = export_new(s, &export_dm, id);
	if (x)
		to_dm(x)->dev = dev;
	return x;
}

int export_dm_adopt(struct export *x, struct blk_error *e)
{
	struct dm_export *d = to_dm(x);
	int ret;

	ret = blk_attach_adopt(d->dev, export_dm_notify, x, &d->att,
			       &d->label, e);
	if (ret)
		return ret;
	d->adopted = true;
	d->lends = blk_attach_writable(d->att);
	d->size = blk_attach_size(d->att);
	return export_dm_dup_layers(d, e);
}

/* The label's id if it is good and free */
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

/* Another reader of the same image has brought the node back already */
static struct blk_node *shared_node(const struct dm_export *d,
				    const json_t *label)
{
	struct blk_node *n = blk_node_find(d->x.s->graph,
					   blk_json_str(label, "node-name",
							""));

	return n && !d->lends && blk_node_is_qcow2(n) && !n->writers &&
		blk_node_file(n) && blk_node_depth(n) == d->n_adopted &&
		blk_file_same(blk_node_file(n), d->adopted_layers[0].file) ?
		n : NULL;
}

static int add_node(struct dm_export *d, const json_t *label,
		    struct blk_error *e)
{
	struct blk_node *n;
	int ret;

	ret = export_dm_add_nodes(d, label, &n, e);
	if (ret)
		return ret;
	ret = export_use_node(&d->x, n, d->lends, e);
	if (!ret)
		return 0;
	if (d->lends)
		blk_node_replace(n, NULL, NULL);
	blk_node_del(d->x.s->graph, n->name, NULL);
	return ret;
}

static int take_snapshot(struct dm_export *d, const json_t *label,
			 struct blk_error *e)
{
	const char *tag = blk_json_str(label, "snapshot", NULL);

	d->snapshot = tag ? strdup(tag) : NULL;
	return d->snapshot || !tag ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

int export_dm_adopted(struct export *x, struct blk_error *e)
{
	struct dm_export *d = to_dm(x);
	json_t *label = d->label ? json_loads(d->label, 0, NULL) : NULL;
	struct blk_node *n = shared_node(d, label);
	int ret;

	if (!label)
		log_warn("/dev/mapper/%s has no label of ours: names are generated",
			 blk_attach_name(d->att));
	set_id(x, label);
	ret = take_snapshot(d, label, e);
	if (!ret)
		ret = n ? export_use_node(x, n, false, e) :
			add_node(d, label, e);
	export_dm_free_layers(d);
	json_decref(label);
	if (ret)
		return ret;
	snprintf(d->name, sizeof(d->name), "%s", blk_attach_name(d->att));
	x->state = EXPORT_RUNNING;
	kernel_watch(x->s);
	export_dm_look(d, 0);
	export_dm_catch_up(d);
	return 0;
}
