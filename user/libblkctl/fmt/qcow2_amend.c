// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Changing what an image is: version, features, width of its refcounts.
 *
 * Owns the order.  Must not write anything before all of the request has been
 * judged.  Locking: the public function holds q->lock.
 *
 * Each step ends in one write of the header: upgrade, refcounts, features,
 * downgrade.  A crash leaves an image between two steps, valid, perhaps with
 * leaks.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_amend_int.h"
#include "qcow2/snapshot.h"

static int refuse(const struct blk_qcow2 *q, struct blk_error *e,
		  const char *why)
{
	return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			     "'%s' cannot be amended: %s", q->f->path, why);
}

/*
 * What is asked for
 */

static int check_version(const struct blk_qcow2 *q, uint32_t version,
			 const struct blk_qcow2_amend *a, struct blk_error *e)
{
	uint32_t bits = a->refcount_bits ? a->refcount_bits :
		1U << q->h.refcount_order;

	if (version >= 3)
		return 0;
	if (bits != 16)
		return refuse(q, e, "refcount widths other than 16 bits need version 3 (compat=1.1)");
	if (a->lazy_refcounts > 0)
		return refuse(q, e, "lazy refcounts need version 3 (compat=1.1)");
	if (blk_q_has_data_file(q))
		return refuse(q, e, "an external data file needs version 3 (compat=1.1)");
	if (q->h.incompatible_features & ~QCOW2_INCOMPAT_DIRTY)
		return refuse(q, e, "it uses features that version 2 does not have");
	if (blk_q_has_bitmaps(q))
		return refuse(q, e, "its bitmaps need version 3 (compat=1.1): remove them first");
	return 0;
}

static int check_data_file(const struct blk_qcow2 *q,
			   const struct blk_qcow2_amend *a,
			   struct blk_error *e)
{
	if (a->data_file && !blk_q_has_data_file(q))
		return refuse(q, e, "data_file can only be set for images that use an external data file");
	if (a->data_file_raw > 0 && !blk_qcow2_data_file_raw(q))
		return refuse(q, e, "data_file_raw cannot be set on existing images");
	return 0;
}

static int check_state(const struct blk_qcow2 *q, struct blk_error *e)
{
	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT)
		return blk_q_corrupt(q, e, "it is marked as corrupt");
	if (q->stuck)
		return blk_q_io_error(q, e, -EIO, "write the header");
	if (q->scan)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "'%s' is being searched for leaked clusters",
				     q->f->path);
	return 0;
}

static int check(const struct blk_qcow2 *q, const struct blk_qcow2_amend *a,
		 struct blk_error *e)
{
	uint32_t version = a->version ? a->version : q->h.version;
	uint32_t bits = a->refcount_bits;
	int ret = check_state(q, e);

	if (ret < 0)
		return ret;
	if (a->version && a->version != 2 && a->version != 3)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "there is no qcow2 version %u",
				     a->version);
	if (bits & (bits - 1) || bits > 64)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "the width of refcounts must be a power of two and may not exceed 64 bits");
	ret = check_version(q, version, a, e);
	return ret ? ret : check_data_file(q, a, e);
}

/*
 * Version 3: each snapshot says how large its disk is.
 */

struct table {
	struct blk_qcow2 *q;
	uint8_t *buf;
	uint64_t len;
	uint64_t room;
	bool differs;
};

/* The entry as it is, with at least 16 bytes of extra data */
static int convert(void *opaque, const struct blk_snap *s)
{
	struct table *t = opaque;
	uint32_t extra = BLK_MAX(s->extra_len, 16U);
	uint64_t need = blk_align_up((uint64_t)BLK_SNAP_FIXED_BYTES + extra +
				     s->id_len + s->name_len, 8);
	uint8_t *p;

	if (t->len + need > t->room) {
		uint64_t room = 2 * t->room + need;

		p = realloc(t->buf, room);
		if (!p)
			return -ENOMEM;
		t->buf = p;
		t->room = room;
	}
	p = t->buf + t->len;
	memset(p, 0, need);
	blk_put_be64(p, s->l1_offset);
	blk_put_be32(p + 8, s->l1_size);
	blk_put_be16(p + 12, s->id_len);
	blk_put_be16(p + 14, s->name_len);
	blk_put_be32(p + 16, s->date_sec);
	blk_put_be32(p + 20, s->date_nsec);
	blk_put_be64(p + 24, s->vm_clock_nsec);
	blk_put_be32(p + 32, (uint32_t)BLK_MIN(s->vm_state_size, UINT32_MAX));
	blk_put_be32(p + 36, extra);
	p += BLK_SNAP_FIXED_BYTES;
	memcpy(p, s->id - s->extra_len, s->extra_len);
	blk_put_be64(p, s->vm_state_size);
	if (s->disk_size == UINT64_MAX)
		blk_put_be64(p + 8, t->q->h.size);
	memcpy(p + extra, s->id, (size_t)s->id_len + s->name_len);
	t->differs |= s->extra_len < 16;
	t->len += need;
	return 0;
}

static int write_table(struct table *t, uint64_t *off)
{
	struct blk_qcow2 *q = t->q;
	uint64_t len = blk_align_up(t->len, q->cs);
	uint8_t *buf;
	int ret = blk_grow_table_area(q, len >> q->h.cluster_bits, off);

	if (ret < 0)
		return ret;
	if (posix_memalign((void **)&buf, 4096, BLK_MAX(len, 4096U)))
		return -ENOMEM;
	memset(buf, 0, len);
	memcpy(buf, t->buf, t->len);
	ret = blk_file_write(q->f, buf, len, *off);
	if (!ret)
		ret = blk_file_flush(q->f);
	free(buf);
	return ret;
}

int blk_amend_drop(struct blk_qcow2 *q, uint64_t off, uint64_t len)
{
	struct dm_qcow_run run = {
		.offset = off, .length = blk_align_up(len, q->cs),
	};

	return off && len ? blk_release_runs(q, &run, 1) : 0;
}

static int upgrade(struct blk_qcow2 *q, struct blk_error *e)
{
	struct table t = { .q = q };
	struct blk_head_new n;
	uint64_t old = q->h.snapshots_offset, at = old, bytes;
	int ret = blk_walk_snapshot_table(q, convert, &t, &bytes, e);

	blk_head_keep(q, &n);
	n.h.version = 3;
	if (!ret && t.differs)
		ret = write_table(&t, &at);
	n.h.snapshots_offset = at;
	free(t.buf);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "write the snapshot table");
	ret = blk_head_put(q, &n, e);
	if (!ret && t.differs && blk_amend_drop(q, old, bytes) < 0)
		q->leaked = true;
	return ret;
}

/*
 * The rest
 */

static int features(struct blk_qcow2 *q, const struct blk_qcow2_amend *a,
		    struct blk_error *e)
{
	struct blk_head_new n;
	uint64_t compat, raw;

	blk_head_keep(q, &n);
	compat = n.h.compatible_features;
	raw = n.h.autoclear_features;
	if (a->lazy_refcounts > 0)
		n.h.compatible_features |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	else if (!a->lazy_refcounts)
		n.h.compatible_features &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (!a->data_file_raw)
		n.h.autoclear_features &= ~QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	if (a->data_file)
		n.data_file = *a->data_file ? a->data_file : NULL;
	if (compat == n.h.compatible_features && !a->data_file &&
	    raw == n.h.autoclear_features)
		return 0;
	return blk_head_put(q, &n, e);
}

static int find_other_size(void *opaque, const struct blk_snap *s)
{
	const struct blk_qcow2 *q = opaque;

	return s->disk_size != UINT64_MAX && s->disk_size != q->h.size;
}

static int check_snapshot_sizes(struct blk_qcow2 *q, struct blk_error *e)
{
	uint64_t bytes;
	int ret = blk_walk_snapshot_table(q, find_other_size, q, &bytes, e);

	return ret > 0 ? refuse(q, e, "a snapshot has a disk of another size, which version 2 cannot say") :
		ret;
}

static int downgrade(struct blk_qcow2 *q, const struct blk_qcow2_amend *a,
		     struct blk_error *e)
{
	struct blk_head_new n;
	int ret = blk_amend_expand_zeroes(q, a, e);

	if (ret < 0)
		return ret;
	blk_head_keep(q, &n);
	n.h.version = 2;
	n.h.compatible_features = n.h.autoclear_features = 0;
	n.h.incompatible_features = 0;
	return blk_head_put(q, &n, e);
}

static int amend(struct blk_qcow2 *q, const struct blk_qcow2_amend *a,
		 struct blk_error *e)
{
	uint32_t version = a->version ? a->version : q->h.version;
	int ret = 0;

	if (version > q->h.version)
		ret = upgrade(q, e);
	if (!ret && a->refcount_bits)
		ret = blk_amend_refcount_bits(q, a, e);
	if (!ret && q->h.version >= 3)
		ret = features(q, a, e);
	if (!ret && version < q->h.version)
		ret = downgrade(q, a, e);
	return ret;
}

int blk_qcow2_amend(struct blk_qcow2 *q, const struct blk_qcow2_amend *a,
		    struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	ret = check(q, a, e);
	if (!ret && a->version == 2 && q->h.version > 2)
		ret = check_snapshot_sizes(q, e);
	if (!ret)
		ret = blk_alloc_prepare(q, e);
	if (!ret)
		ret = amend(q, a, e);
	blk_alloc_forget(q);
	return ret;
}
