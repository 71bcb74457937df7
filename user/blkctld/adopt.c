// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Adoption at start.
 *
 * Owns: the list of devices while they are being adopted.
 * Must not: let one broken device keep the daemon from starting.
 * Threads: each device in a thread of its own; what is seen of exports and nodes
 * only in the loop's.
 */
#include <errno.h>
#include <stdlib.h>

#include "adopt.h"
#include "export_dm.h"
#include "kctl/crypt.h"
#include "kernel.h"
#include "log.h"

#define PATIENCE_MS	15000

struct adopt {
	struct server *s;
	void (*done)(struct server *s);
	struct blk_ev_timer timer;
	unsigned int left;
	struct blk_ev_work sweep;
};

struct one {
	struct adopt *all;
	struct blk_ev_work work;
	struct export *x;
	struct blk_kdev dev;
	int ret;
	struct blk_error err;
};

/* Once; the object lives on while devices are missing, or swept */
static void finish(struct adopt *a)
{
	blk_ev_timer_stop(a->s->ev, &a->timer);
	if (a->done)
		a->done(a->s);
	a->done = NULL;
	if (!a->left)
		free(a);
}

/* What dead daemons left holds images: it goes before the first client comes */
static void sweep_run(struct blk_ev_work *w)
{
	(void)w;
	blk_crypt_sweep();
}

static void sweep_done(struct blk_ev_work *w)
{
	struct adopt *a = blk_container_of(w, struct adopt, sweep);
	struct server *s = a->s;

	a->left = 0;
	finish(a);
	server_check_stopped(s);
}

static void sweep(struct adopt *a)
{
	a->left = 1;
	a->sweep.run = sweep_run;
	a->sweep.done = sweep_done;
	if (blk_ev_work_start(a->s->ev, &a->sweep)) {
		a->left = 0;
		finish(a);
	}
}

static void on_timeout(struct blk_ev_timer *t)
{
	struct adopt *a = blk_container_of(t, struct adopt, timer);

	log_warn("%u devices are not adopted yet; starting without them",
		 a->left);
	finish(a);
}

static void adopt_run(struct blk_ev_work *w)
{
	struct one *o = blk_container_of(w, struct one, work);

	o->ret = export_dm_adopt(o->x, &o->err);
}

static void adopt_done(struct blk_ev_work *w)
{
	struct one *o = blk_container_of(w, struct one, work);
	struct adopt *a = o->all;
	struct server *s = a->s;

	if (!o->ret)
		o->ret = export_dm_adopted(o->x, &o->err);
	if (o->ret) {
		log_error("/dev/mapper/%s can't be adopted: %s%s%s",
			  o->dev.name, o->err.msg,
			  o->err.hint[0] ? "; " : "", o->err.hint);
		export_free(o->x);
	} else {
		log_info("export '%s': /dev/mapper/%s is adopted", o->x->id,
			 o->dev.name);
	}
	free(o);
	if (!--a->left)
		sweep(a);
	server_check_stopped(s);
}

static void adopt_one(struct adopt *a, const struct blk_kdev *dev)
{
	struct one *o = calloc(1, sizeof(*o));
	int ret = -ENOMEM;

	if (o) {
		o->all = a;
		o->dev = *dev;
		o->x = export_dm_new(a->s, dev->dev);
		o->work.run = adopt_run;
		o->work.done = adopt_done;
		if (o->x)
			ret = blk_ev_work_start(a->s->ev, &o->work);
		if (!ret) {
			a->left++;
			return;
		}
		if (o->x)
			export_free(o->x);
		free(o);
	}
	log_error("/dev/mapper/%s can't be adopted: no memory or no thread",
		  dev->name);
}

void adopt_all(struct server *s, void (*done)(struct server *s))
{
	struct blk_error e = { .msg = "" };
	struct adopt *a = calloc(1, sizeof(*a));
	struct blk_kdev *list = NULL;
	size_t i, n = 0;

	if (kernel_list(&list, &n, &e))
		log_warn("devices can't be listed: %s%s%s", e.msg,
			 e.hint[0] ? "; " : "", e.hint);
	if (!a) {
		free(list);
		done(s);
		return;
	}
	a->s = s;
	a->done = done;
	for (i = 0; i < n; i++)
		adopt_one(a, &list[i]);
	free(list);
	a->timer.fn = on_timeout;
	blk_ev_timer_start(s->ev, &a->timer, PATIENCE_MS);
	if (!a->left)
		sweep(a);
}
