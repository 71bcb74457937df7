// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Finding internal snapshots.
 *
 * Owns nothing; must not write.  Locking: the public functions take q->lock.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_int.h"
#include "qcow2/snapshot.h"

struct finder {
	struct blk_qcow2 *q;
	const char *tag;
	struct blk_qcow2_snapshot *out;
	struct blk_error *e;
	bool found;
	bool by_id;		/* an id goes before every name */
};

void blk_qcow2_snapshot_clear(struct blk_qcow2_snapshot *s)
{
	free(s->id);
	free(s->name);
	memset(s, 0, sizeof(*s));
}

/* Up to a NUL, as QEMU compares them */
static bool is_tag(const char *tag, const char *s, size_t len)
{
	size_t n = strnlen(s, len);

	return strlen(tag) == n && !memcmp(tag, s, n);
}

static int copy(const struct blk_qcow2 *q, struct blk_qcow2_snapshot *o,
		const struct blk_snap *s, struct blk_error *e)
{
	blk_qcow2_snapshot_clear(o);
	*o = (struct blk_qcow2_snapshot){
		.id = strndup(s->id, s->id_len),
		.name = strndup(s->name, s->name_len),
		.l1_offset = s->l1_offset,
		.l1_size = s->l1_size,
		.disk_size = s->disk_size == UINT64_MAX ? q->h.size :
			s->disk_size,
		.vm_state_size = s->vm_state_size,
		.date_sec = s->date_sec,
		.date_nsec = s->date_nsec,
		.vm_clock_nsec = s->vm_clock_nsec,
		.icount = s->icount,
	};
	return o->id && o->name ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

static int take(struct finder *f, const struct blk_snap *s)
{
	f->found = true;
	return copy(f->q, f->out, s, f->e);
}

static int look(void *opaque, const struct blk_snap *s)
{
	struct finder *f = opaque;

	if (!f->by_id && is_tag(f->tag, s->id, s->id_len)) {
		f->by_id = true;
		return take(f, s);
	}
	if (!f->found && is_tag(f->tag, s->name, s->name_len))
		return take(f, s);
	return 0;
}

static int check_found(struct finder *f)
{
	const struct blk_qcow2_snapshot *s = f->out;
	struct qcow2_header h = f->q->h;
	int64_t size = blk_q_rounded_size(f->q);

	if (size < 0)
		return blk_q_io_error(f->q, f->e, (int)size, "find the size");
	h.size = s->disk_size;
	if (h.size > 1ULL << 61)
		return blk_q_corrupt(f->q, f->e,
				     "a snapshot's disk size is out of range");
	if (s->l1_size < qcow2_l1_needed(&h))
		return blk_q_corrupt(f->q, f->e,
				     "a snapshot's L1 table is too small for its disk size");
	if (s->l1_size && s->l1_offset >= (uint64_t)size)
		return blk_q_corrupt(f->q, f->e,
				     "a snapshot's L1 table is outside the file");
	return 0;
}

int blk_qcow2_snapshot_find(struct blk_qcow2 *q, const char *tag,
			    struct blk_qcow2_snapshot *out,
			    struct blk_error *e)
{
	struct finder f = { .q = q, .tag = tag, .out = out, .e = e };
	uint64_t bytes;
	int ret;

	memset(out, 0, sizeof(*out));
	blk_guard_mutex(&q->lock);
	ret = blk_walk_snapshot_table(q, look, &f, &bytes, e);
	if (!ret && !f.found) {
		ret = blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				    "'%s' has no snapshot with the id or name '%s'",
				    q->f->path, tag);
		blk_error_hint(e, "\"qemu-img snapshot -l\" lists them");
	}
	if (!ret)
		ret = check_found(&f);
	if (ret < 0)
		blk_qcow2_snapshot_clear(out);
	return ret;
}

struct lister {
	struct blk_qcow2 *q;
	struct blk_qcow2_snapshot *s;
	size_t n;
	struct blk_error *e;
};

static int list_one(void *opaque, const struct blk_snap *s)
{
	struct lister *l = opaque;
	struct blk_qcow2_snapshot *p;

	if (!(l->n & (l->n + 1))) {	/* room for a power of two, less one */
		p = realloc(l->s, (2 * l->n + 1) * sizeof(*p));
		if (!p)
			return blk_error_set(l->e, BLK_ERR_FAILED, ENOMEM,
					     "out of memory");
		l->s = p;
	}
	memset(&l->s[l->n], 0, sizeof(*l->s));
	return copy(l->q, &l->s[l->n++], s, l->e);
}

int blk_qcow2_snapshots_list(struct blk_qcow2 *q,
			     struct blk_qcow2_snapshot **out, size_t *n,
			     struct blk_error *e)
{
	struct lister l = { .q = q, .e = e };
	uint64_t bytes;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_walk_snapshot_table(q, list_one, &l, &bytes, e);
	if (ret < 0) {
		blk_qcow2_snapshots_free(l.s, l.n);
		l = (struct lister){ 0 };
	}
	*out = l.s;
	*n = l.n;
	return ret;
}

void blk_qcow2_snapshots_free(struct blk_qcow2_snapshot *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		blk_qcow2_snapshot_clear(&s[i]);
	free(s);
}
