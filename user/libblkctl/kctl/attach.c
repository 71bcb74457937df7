// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Attaching an image: a table of steps, each with its undoing.
 *
 * Owns: the order of the steps, and that a failure of one leaves nothing of
 * the ones before.  Only the padding of files to whole clusters stays, which
 * reads the same to everybody, and what a dirty image's repair has put right.
 * Must not: resume the device before the in-use mark and the first grant's
 * refcounts are durable.
 * Threads: the caller's.  The feeder is started before the resume, at rest, so
 * that nothing can fail once the device is live.
 *
 * Killed between any two steps: before the resume what is left is a device
 * without a live table, which blk_attach_adopt() removes (or the next attach
 * under its name, if it has no table at all); its grants are leaks that the
 * mark announces, for the mark is made first.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kctl/attachment.h"
#include "kctl/dm.h"

#define UUID_FORMAT "QCOW-%d-%016llx"

/* What one call of blk_attach() works on. */
struct attaching {
	const struct blk_attach_params *p;
	struct blk_attachment *a;
	struct blk_qcow2_snapshot snapshot;
};

/*
 * The steps
 */

/* What a careless "dd of=" leaves in /dev/mapper would hide the device. */
static int check_node(const char *name, struct blk_error *e)
{
	char path[BLK_DM_NAME_MAX + 16];
	struct stat st;

	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	if (lstat(path, &st) || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode)))
		return 0;
	blk_error_set(e, BLK_ERR_BUSY, EEXIST, "%s exists and is no device",
		      path);
	blk_error_hint(e, "remove it");
	return -EEXIST;
}

/* The size of the device: of the image's disk, or of the snapshot's. */
static int find_size(struct attaching *w, struct blk_error *e)
{
	struct blk_attachment *a = w->a;
	int ret;

	a->size = blk_qcow2_header(a->image)->size;
	if (w->p->snapshot) {
		if (a->writable)
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "an internal snapshot can only be attached read-only");
		ret = blk_qcow2_snapshot_find(a->image, w->p->snapshot,
					      &w->snapshot, e);
		if (ret)
			return ret;
		a->size = w->snapshot.disk_size;
	}
	if (a->size >= 512)
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			     "the image has a disk of %llu bytes, too "
			     "small for a device",
			     (unsigned long long)a->size);
}

static int check_up(struct attaching *w, struct blk_error *e)
{
	const struct blk_attach_params *p = w->p;
	struct blk_dm_info info;
	int ret;

	ret = blk_dm_check_name(p->name, e);
	if (!ret)
		ret = blk_layers_check(w->a, e);
	if (!ret)
		ret = find_size(w, e);
	if (ret)
		return ret;
	ret = blk_dm_has_target(DM_QCOW_TARGET_NAME, true, e);
	if (ret <= 0)
		return ret ? ret : -ENOENT;
	/* before anything is touched; created for good further below */
	if (!blk_dm_info(p->name, &info, NULL) && info.live_table)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "a device-mapper device named \"%s\" "
				     "exists already", p->name);
	return check_node(p->name, e);
}

/* An image whose last writer had postponed its refcounts, and crashed. */
static int repair_up(struct attaching *w, struct blk_error *e)
{
	return blk_qcow2_repair(w->a->image, &w->a->repaired, e);
}

static int layers_up(struct attaching *w, struct blk_error *e)
{
	return blk_layers_up(w->a, e);
}

static void layers_down(struct attaching *w)
{
	struct blk_attachment *a = w->a;

	blk_layers_remove(a);
	if (a->writable)
		blk_layers_trim_data(a, a->size);
}

/* Made by a daemon that died before it could load a table? */
static bool is_leftover(const struct blk_dm_info *info)
{
	int pid;

	if (info->live_table || info->inactive_table || info->open_count ||
	    sscanf(info->uuid, BLK_DM_UUID_PREFIX "QCOW-%d-", &pid) != 1)
		return false;
	return pid != getpid();
}

static int device_up(struct attaching *w, struct blk_error *e)
{
	struct blk_attachment *a = w->a;
	struct blk_dm_info info;
	unsigned long long salt;
	char uuid[64];
	int ret;

	if (getrandom(&salt, sizeof(salt), 0) != sizeof(salt))
		salt = blk_now_ns();
	snprintf(uuid, sizeof(uuid), UUID_FORMAT, (int)getpid(), salt);
	ret = blk_dm_create(a->name, uuid, &info, e);
	if (ret == -EBUSY && !blk_dm_info(a->name, &info, NULL) &&
	    is_leftover(&info) && !blk_attachment_remove(a->name, NULL))
		ret = blk_dm_create(a->name, uuid, &info, e);
	if (ret)
		return ret;
	a->dev = info.dev;
	snprintf(a->uuid, sizeof(a->uuid), "%s", info.uuid);
	return 0;
}

static void device_down(struct attaching *w)
{
	blk_attachment_remove(w->a->name, NULL);
}

/* " 2 no_space_timeout 60", malloc'ed */
static int print_features(const struct attaching *w, char **out,
			  struct blk_error *e)
{
	const struct blk_qcow2_snapshot *s = &w->snapshot;
	char timeout[48] = "", snapshot[96] = "";
	int n = 0;

	if (w->p->no_space_timeout >= 0)
		n += 2 * !!snprintf(timeout, sizeof(timeout),
				    " no_space_timeout %d",
				    w->p->no_space_timeout);
	if (w->p->snapshot)
		n += 2 * !!snprintf(snapshot, sizeof(snapshot),
				    " snapshot %llu,%u,%llu",
				    (unsigned long long)s->l1_offset,
				    s->l1_size,
				    (unsigned long long)s->disk_size);
	if (!n)
		*out = strdup("");
	else if (asprintf(out, " %d%s%s", n, timeout, snapshot) < 0)
		*out = NULL;
	return *out ? 0 : blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					"out of memory");
}

static int load_up(struct attaching *w, struct blk_error *e)
{
	char *layers blk_auto_free = NULL, *features blk_auto_free = NULL;
	char *params blk_auto_free = NULL;
	struct blk_attachment *a = w->a;
	int ret;

	ret = blk_layers_table(a, &layers, e);
	if (!ret)
		ret = print_features(w, &features, e);
	if (ret)
		return ret;
	if (asprintf(&params, "%s%s", layers, features) < 0) {
		params = NULL;
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	}
	ret = blk_dm_load(a->name, a->size >> 9, DM_QCOW_TARGET_NAME, params,
			  !a->writable, e);
	return ret == -EBUSY ? blk_layers_busy(a, e) : ret;
}

static int session_up(struct attaching *w, struct blk_error *e)
{
	struct blk_attachment *a = w->a;
	int ret;

	ret = blk_genl_open(&a->genl, e);
	if (!ret)
		ret = blk_genl_adopt(a->genl, a->dev, w->p->label, &a->session,
				     &a->seq, e);
	if (ret)
		return ret;
	blk_attachment_session(a);
	return blk_layers_hold(a, e);
}

static void session_down(struct attaching *w)
{
	blk_genl_close(w->a->genl);
	w->a->genl = NULL;
}

static int mark_up(struct attaching *w, struct blk_error *e)
{
	return blk_qcow2_mark(w->a->image, &w->a->was_marked, e);
}

static void mark_down(struct attaching *w)
{
	if (!w->a->was_marked && !atomic_load(&w->a->keep_mark))
		blk_qcow2_unmark(w->a->image, NULL);
}

/* Not undone: what is said of a bitmap then is true in any case. */
static int bitmaps_up(struct attaching *w, struct blk_error *e)
{
	return blk_qcow2_bitmaps_begin(w->a->image, w->p->invalidate_bitmaps,
				       e);
}

static int claim_up(struct attaching *w, struct blk_error *e)
{
	int ret = blk_attachment_claim(w->a, false, e);

	if (!ret)
		blk_attachment_connect(w->a);
	return ret;
}

static void claim_down(struct attaching *w)
{
	blk_qcow2_set_ops(w->a->image, NULL, NULL);
}

static int feeder_up(struct attaching *w, struct blk_error *e)
{
	return blk_feeder_init(w->a, e);
}

static void feeder_down(struct attaching *w)
{
	blk_feeder_exit(w->a);
}

/* Nothing was consumed: the device has not been live. */
static void grant_down(struct attaching *w)
{
	struct blk_attachment *a = w->a;
	struct blk_run_list l = { 0 };

	blk_run_list_take(a, DM_QCOW_TAKE_GRANTS, &l, NULL);
	blk_grant_drop(a, l.v, l.n);
	blk_run_list_free(&l);
	if (!atomic_load(&a->keep_mark))
		blk_qcow2_trim(a->image, NULL);
}

static int first_grant(struct blk_attachment *a, struct blk_error *e)
{
	struct blk_kdev k;
	int ret;

	ret = blk_genl_get(a->genl, a->dev, a->session, &k, e);
	if (ret)
		return ret;
	ret = blk_grant_fill(a, &k);
	if (ret < 0)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "the kernel refused the first clusters: "
				     "%s", strerror(-ret));
	if (!a->feeder.refused)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EUCLEAN,
		      "the image is corrupt: a cluster that its refcounts "
		      "call free is in use");
	blk_error_hint(e, "qemu-img check says more");
	return -EUCLEAN;
}

/* No space for a grant is no failure: what is mapped can be written. */
static int grant_up(struct attaching *w, struct blk_error *e)
{
	int ret;

	/* a scan that cannot begin leaves the mark, and is tried next time */
	if (w->a->was_marked)
		blk_scan_begin(w->a, NULL);
	ret = first_grant(w->a, e);
	if (ret)
		grant_down(w);
	return ret;
}

static int thread_up(struct attaching *w, struct blk_error *e)
{
	return blk_feeder_start(w->a, e);
}

static void thread_down(struct attaching *w)
{
	blk_feeder_stop(w->a);
}

static int resume_up(struct attaching *w, struct blk_error *e)
{
	int ret = blk_dm_resume(w->a->name, e);

	if (ret && e && !e->hint[0])
		blk_error_hint(e, "dmesg has the reason");
	return ret;
}

static const struct {
	bool for_reader;
	int (*up)(struct attaching *w, struct blk_error *e);
	void (*down)(struct attaching *w);
} steps[] = {
	{ true, check_up, NULL },
	{ false, repair_up, NULL },
	{ true, layers_up, layers_down },
	{ true, device_up, device_down },
	{ true, load_up, NULL },
	{ true, session_up, session_down },
	{ false, mark_up, mark_down },
	{ false, bitmaps_up, NULL },
	{ false, claim_up, claim_down },
	{ true, feeder_up, feeder_down },
	{ false, grant_up, grant_down },
	{ true, thread_up, thread_down },
	{ true, resume_up, NULL },
};

#define NR_STEPS ((int)(sizeof(steps) / sizeof(steps[0])))

static int walk(struct attaching *w, struct blk_error *e)
{
	bool writable = w->a->writable;
	int i, ret = 0;

	for (i = 0; i < NR_STEPS && !ret; i++)
		if (writable || steps[i].for_reader)
			ret = steps[i].up(w, e);
	if (!ret)
		return 0;
	/* the step that failed has left nothing: from the one before it */
	for (i -= 2; i >= 0; i--)
		if ((writable || steps[i].for_reader) && steps[i].down)
			steps[i].down(w);
	return ret;
}

int blk_attach(const struct blk_attach_params *p, struct blk_attachment **out,
	       struct blk_error *e)
{
	struct attaching w = { .p = p };
	int ret;

	*out = NULL;
	w.a = blk_attachment_new();
	if (!w.a)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	snprintf(w.a->name, sizeof(w.a->name), "%s", p->name);
	w.a->writable = p->writable;
	w.a->notify = p->notify;
	w.a->opaque = p->opaque;
	ret = blk_layers_copy(w.a, p, e);
	if (!ret)
		ret = walk(&w, e);
	blk_qcow2_snapshot_clear(&w.snapshot);
	if (ret) {
		blk_attachment_free(w.a);
		return ret;
	}
	w.a->live = true;
	blk_layers_settle(w.a);
	blk_scan_start(w.a);
	blk_feeder_go(w.a);
	*out = w.a;
	return 0;
}
