// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Making, applying and deleting internal snapshots of an image that nobody
 * uses.
 *
 * Owns the new tables of a change.  Must not write to tables that the image
 * refers to: see fmt/qcow2_shadow.c.  Locking: the public functions take
 * q->lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fmt/qcow2_snapshot_int.h"

#define MAX_NAME	255U
#define EXTRA_BYTES	24U

static int failed(struct snap_edit *x, int ret, const char *what)
{
	struct blk_qcow2 *q = x->q;

	if (ret >= 0)
		return ret;
	if (ret == -EUCLEAN)
		return blk_q_corrupt(q, x->e,
				     "its tables and refcounts are not as they must be");
	if (ret == -ENOSPC)
		return blk_error_set(x->e, BLK_ERR_FAILED, ENOSPC,
				     "no space left for '%s'", q->f->path);
	if (ret != -EOVERFLOW)
		return blk_q_io_error(q, x->e, ret, what);
	blk_error_set(x->e, BLK_ERR_FAILED, EOVERFLOW,
		      "the refcounts of '%s' have %u bits and cannot count one more reference",
		      q->f->path, 1U << q->h.refcount_order);
	blk_error_hint(x->e, "delete a snapshot, or make them wider: amend -o refcount_bits=64");
	return ret;
}

static int write_be(struct snap_edit *x, const uint64_t *l1, uint64_t n,
		    uint64_t off)
{
	uint64_t bytes = blk_align_up(n * 8, x->q->cs);
	uint64_t *be;
	int ret;

	if (!n)
		return 0;
	if (posix_memalign((void **)&be, 4096, blk_align_up(bytes, 4096)))
		return -ENOMEM;
	memset(be, 0, bytes);
	for (uint64_t i = 0; i < n; i++)
		be[i] = htobe64(l1[i]);
	ret = blk_file_write(x->q->f, be, bytes, off);
	free(be);
	return ret;
}

static uint64_t in_clusters(const struct snap_edit *x, uint64_t bytes)
{
	return blk_align_up(bytes, x->q->cs) >> x->q->h.cluster_bits;
}

/* The new snapshot table goes to @off; the old one is not needed any more. */
static int put_table(struct snap_edit *x, uint64_t off, uint32_t n)
{
	struct blk_qcow2 *q = x->q;
	int ret = 0;

	if (x->table_len)
		ret = blk_file_write(q->f, x->table, x->table_len, off);
	if (!ret && q->h.nb_snapshots)
		ret = blk_shadow_drop(&x->s, q->h.snapshots_offset,
				      x->old_len);
	x->s.h.nb_snapshots = n;
	x->s.h.snapshots_offset = x->table_len ? off : 0;
	return ret;
}

/* The new active L1 goes to @off. */
static int put_l1(struct snap_edit *x, uint64_t off)
{
	struct blk_qcow2 *q = x->q;
	int ret = write_be(x, x->l1, x->l1_n, off);

	if (!ret && q->h.l1_size)
		ret = blk_shadow_drop(&x->s, q->h.l1_table_offset,
				      q->h.l1_size * 8ULL);
	x->s.h.l1_size = (uint32_t)x->l1_n;
	x->s.h.l1_table_offset = x->l1_n ? off : q->h.l1_table_offset;
	return ret;
}

/*
 * Finding
 */

struct lookup {
	struct snap_edit *x;
	const char *tag;
	bool name_first;
	uint64_t pos;
	uint64_t max_id;
	int rank;		/* 2: found where one looks first */
};

static bool is_tag(const char *tag, const char *s, size_t len)
{
	size_t n = strnlen(s, len);

	return strlen(tag) == n && !memcmp(tag, s, n);
}

static int look(void *opaque, const struct blk_snap *s)
{
	struct lookup *l = opaque;
	char id[24] = "";
	int rank = 0;

	memcpy(id, s->id, BLK_MIN(s->id_len, sizeof(id) - 1));
	l->max_id = BLK_MAX(l->max_id, strtoull(id, NULL, 10));
	if (l->tag && is_tag(l->tag, s->id, s->id_len))
		rank = l->name_first ? 1 : 2;
	if (l->tag && is_tag(l->tag, s->name, s->name_len))
		rank = l->name_first ? 2 : BLK_MAX(rank, 1);
	if (rank > l->rank) {
		l->rank = rank;
		l->x->found = *s;	/* but for id and name */
		l->x->at = l->pos;
		l->x->at_len = s->bytes;
	}
	l->pos += s->bytes;
	return 0;
}

static int find(struct snap_edit *x, struct lookup *l)
{
	struct blk_qcow2 *q = x->q;
	int ret = blk_walk_snapshot_table(q, look, l, &x->old_len, x->e);

	if (ret < 0 || !l->tag || l->rank)
		return ret;
	blk_error_set(x->e, BLK_ERR_NOT_FOUND, ENOENT,
		      "'%s' has no snapshot with the id or name '%s'",
		      q->f->path, l->tag);
	blk_error_hint(x->e, "\"blkctl image snapshot -l\" lists them");
	return -ENOENT;
}

/* The table as it is, with room for one more entry */
static int load_table(struct snap_edit *x)
{
	uint64_t room = x->old_len + BLK_SNAP_MAX_BYTES;

	if (posix_memalign((void **)&x->table, 4096, blk_align_up(room, 4096)))
		return -ENOMEM;
	x->table_len = x->old_len;
	return x->old_len ? blk_file_read(x->q->f, x->table, x->old_len,
					  x->q->h.snapshots_offset) : 0;
}

static int compare_u64(const void *a, const void *b)
{
	uint64_t p = *(const uint64_t *)a, r = *(const uint64_t *)b;

	return p < r ? -1 : p > r;
}

/* A table that is named over and over would take forever to be counted. */
static int check_unique(const uint64_t *l1, uint64_t n)
{
	uint64_t *copy blk_auto_free = malloc((n + 1) * 8);

	if (!copy)
		return -ENOMEM;
	for (uint64_t i = 0; i < n; i++)
		copy[i] = l1[i] & QCOW2_OFFSET_MASK;
	qsort(copy, n, 8, compare_u64);
	for (uint64_t i = 1; i < n; i++)
		if (copy[i] && copy[i] == copy[i - 1])
			return -EUCLEAN;
	return 0;
}

static int load_other(struct snap_edit *x)
{
	const struct blk_snap *s = &x->found;
	struct qcow2_header h = x->q->h;
	int ret = 0;

	if (s->disk_size != UINT64_MAX)
		h.size = s->disk_size;
	if (h.size > 1ULL << 61 || s->l1_size < qcow2_l1_needed(&h))
		return -EUCLEAN;
	x->other_n = s->l1_size;
	if (s->l1_size)
		ret = blk_walk_l1(x->q, s->l1_offset, s->l1_size, &x->other,
				  x->e);
	return ret ? ret : check_unique(x->other, x->other_n);
}

/*
 * Begin and end
 */

static int refuse(struct snap_edit *x, const char *why)
{
	return blk_error_set(x->e, BLK_ERR_FAILED, EOPNOTSUPP,
			     "the snapshots of '%s' cannot be changed: %s",
			     x->q->f->path, why);
}

static int begin(struct snap_edit *x)
{
	struct blk_qcow2 *q = x->q;
	int64_t size;
	int ret;

	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT)
		return blk_q_corrupt(q, x->e, "it is marked as corrupt");
	if (blk_q_has_data_file(q))
		return refuse(x, "its data is in an external file");
	if (q->ops || q->scan)
		return blk_error_set(x->e, BLK_ERR_BUSY, EBUSY,
				     "'%s' is attached", q->f->path);
	ret = blk_alloc_prepare(q, x->e);
	size = blk_q_rounded_size(q);
	if (!ret && size < 0)
		return failed(x, (int)size, "find the size");
	x->file_size = (uint64_t)size;
	if (!ret && posix_memalign((void **)&x->l2, 4096,
				   BLK_MAX(q->cs, 4096U)))
		ret = failed(x, -ENOMEM, "load the tables");
	x->l1_n = q->h.l1_size;
	if (!ret && x->l1_n)
		ret = blk_walk_l1(q, q->h.l1_table_offset, q->h.l1_size,
				  &x->l1, x->e);
	return ret;
}

/* @ret: of what was done between begin and here */
static int end(struct snap_edit *x, int ret)
{
	if (!ret)
		ret = failed(x, blk_shadow_publish(&x->s),
			     "write the new tables");
	if (x->s.q)
		blk_shadow_end(&x->s);
	return ret;
}

static void free_all(struct snap_edit *x)
{
	free(x->table);
	free(x->l1);
	free(x->other);
	free(x->l2);
}

/* How many tables of an L1 may have to be written anew, at most */
static int count_owned(struct snap_edit *x, uint64_t most, uint64_t *n)
{
	*n = 0;
	for (uint64_t i = 0; i < x->l1_n; i++) {
		uint64_t off = x->l1[i] & QCOW2_OFFSET_MASK, rc;
		int ret;

		if (!off)
			continue;
		ret = blk_refcount_read(x->q, snap_cluster(x, off), &rc);
		if (ret < 0)
			return ret;
		*n += rc <= most;
	}
	return 0;
}

/*
 * Creating
 */

static int append_entry(struct snap_edit *x, const char *name, uint64_t id,
			uint64_t l1_off)
{
	uint8_t *p = x->table + x->table_len;
	size_t name_len = strlen(name), id_len;
	struct timespec now;
	char text[24];

	snprintf(text, sizeof(text), "%llu", (unsigned long long)id);
	id_len = strlen(text);
	clock_gettime(CLOCK_REALTIME, &now);
	memset(p, 0, BLK_SNAP_FIXED_BYTES + EXTRA_BYTES + id_len + name_len +
	       8);
	blk_put_be64(p, l1_off);
	blk_put_be32(p + 8, (uint32_t)x->l1_n);
	blk_put_be16(p + 12, (uint16_t)id_len);
	blk_put_be16(p + 14, (uint16_t)name_len);
	blk_put_be32(p + 16, (uint32_t)now.tv_sec);
	blk_put_be32(p + 20, (uint32_t)now.tv_nsec);
	blk_put_be32(p + 36, EXTRA_BYTES);
	p += BLK_SNAP_FIXED_BYTES;
	blk_put_be64(p + 8, x->q->h.size);
	blk_put_be64(p + 16, UINT64_MAX);	/* no instruction count */
	memcpy(p + EXTRA_BYTES, text, id_len);
	memcpy(p + EXTRA_BYTES + id_len, name, name_len);
	x->table_len += blk_align_up(BLK_SNAP_FIXED_BYTES + EXTRA_BYTES +
				     id_len + name_len, 8);
	return x->table_len > BLK_SNAP_MAX_TABLE ? -EFBIG : 0;
}

static int create(struct snap_edit *x, const char *name, uint64_t id)
{
	struct blk_qcow2 *q = x->q;
	uint64_t l1 = in_clusters(x, x->l1_n * 8), own, off;
	uint64_t table = in_clusters(x, x->old_len + BLK_SNAP_FIXED_BYTES +
				     EXTRA_BYTES + 24 + strlen(name) + 8);
	int ret = load_table(x);

	/* tables that are shared have no COPIED bits, in a good image */
	if (!ret)
		ret = count_owned(x, 1, &own);
	if (!ret)
		ret = blk_shadow_begin(&x->s, q, 2 * l1 + table, own);
	for (uint64_t i = 0; i < x->l1_n && !ret; i++)
		if (x->l1[i] & QCOW2_OFFSET_MASK)
			ret = blk_snap_l2_share(x, &x->l1[i]);
	off = x->s.area;
	if (!ret)
		ret = put_l1(x, off);
	off += l1 * q->cs;
	if (!ret)
		ret = write_be(x, x->l1, x->l1_n, off);
	if (!ret)
		ret = append_entry(x, name, id, l1 ? off : 0);
	if (!ret)
		ret = put_table(x, x->s.area + 2 * l1 * q->cs,
				q->h.nb_snapshots + 1);
	return end(x, failed(x, ret, "make a snapshot"));
}

int blk_qcow2_snapshot_create(struct blk_qcow2 *q, const char *name,
			      struct blk_error *e)
{
	struct snap_edit x = { .q = q, .e = e };
	struct lookup l = { .x = &x };
	int ret;

	blk_guard_mutex(&q->lock);
	if (!*name || strlen(name) > MAX_NAME)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "the name of a snapshot has 1 to %u bytes",
				     MAX_NAME);
	if (q->h.nb_snapshots >= QCOW2_MAX_SNAPSHOTS)
		return blk_error_set(e, BLK_ERR_FAILED, EFBIG,
				     "'%s' has as many snapshots as it can have",
				     q->f->path);
	ret = begin(&x);
	if (!ret)
		ret = find(&x, &l);
	if (!ret)
		ret = create(&x, name, l.max_id + 1);
	free_all(&x);
	return ret;
}

/*
 * Deleting
 */

static int cut_table(struct snap_edit *x)
{
	int ret = load_table(x);

	if (ret < 0)
		return ret;
	memmove(x->table + x->at, x->table + x->at + x->at_len,
		x->old_len - x->at - x->at_len);
	x->table_len -= x->at_len;
	return 0;
}

static int delete(struct snap_edit *x)
{
	struct blk_qcow2 *q = x->q;
	uint64_t l1 = in_clusters(x, x->l1_n * 8), own = 0;
	int ret = cut_table(x);

	if (!ret)	/* the snapshot's reference goes */
		ret = count_owned(x, 2, &own);
	if (!ret)
		ret = blk_shadow_begin(&x->s, q, l1 +
				       in_clusters(x, x->table_len), own);
	for (uint64_t i = 0; i < x->other_n && !ret; i++)
		if (x->other[i] & QCOW2_OFFSET_MASK)
			ret = blk_snap_l2_drop(x, x->other[i] & QCOW2_OFFSET_MASK);
	if (!ret)
		ret = blk_shadow_drop(&x->s, x->found.l1_offset,
				      x->other_n * 8);
	for (uint64_t i = 0; i < x->l1_n && !ret; i++)
		if (x->l1[i] & QCOW2_OFFSET_MASK)
			ret = blk_snap_l2_refresh(x, &x->l1[i]);
	if (!ret)
		ret = put_l1(x, x->s.area);
	if (!ret)
		ret = put_table(x, x->s.area + l1 * q->cs,
				q->h.nb_snapshots - 1);
	return end(x, failed(x, ret, "delete a snapshot"));
}

int blk_qcow2_snapshot_delete(struct blk_qcow2 *q, const char *tag,
			      struct blk_error *e)
{
	struct snap_edit x = { .q = q, .e = e };
	struct lookup l = { .x = &x, .tag = tag, .name_first = true };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = begin(&x);
	if (!ret)
		ret = find(&x, &l);
	if (!ret)
		ret = failed(&x, load_other(&x), "read the snapshot's tables");
	if (!ret)
		ret = delete(&x);
	free_all(&x);
	return ret;
}

/*
 * Applying
 */

/* Where the active table is the snapshot's, nothing changes. */
static bool is_same(const struct snap_edit *x, uint64_t i)
{
	return i < x->l1_n && i < x->other_n &&
		x->l1[i] == (x->other[i] & QCOW2_OFFSET_MASK);
}

static int switch_tables(struct snap_edit *x, uint64_t *fresh)
{
	int ret = 0;

	for (uint64_t i = 0; i < x->other_n && !ret; i++) {
		uint64_t off = x->other[i] & QCOW2_OFFSET_MASK;

		fresh[i] = off;
		if (off && !is_same(x, i))
			ret = blk_snap_l2_adopt(x, off, &fresh[i]);
	}
	for (uint64_t i = 0; i < x->l1_n && !ret; i++) {
		uint64_t off = x->l1[i] & QCOW2_OFFSET_MASK;

		if (off && !is_same(x, i))
			ret = blk_snap_l2_drop(x, off);
	}
	return ret;
}

static int apply(struct snap_edit *x)
{
	struct blk_qcow2 *q = x->q;
	uint64_t *fresh = calloc(x->other_n + 1, 8);
	int ret = fresh ? 0 : -ENOMEM;

	if (!ret)
		ret = blk_shadow_begin(&x->s, q,
				       in_clusters(x, x->other_n * 8), 0);
	if (!ret)
		ret = switch_tables(x, fresh);
	free(x->l1);
	x->l1 = fresh;
	x->l1_n = x->other_n;
	if (!ret)
		ret = put_l1(x, x->s.area);
	if (x->found.disk_size != UINT64_MAX)
		x->s.h.size = x->found.disk_size;
	return end(x, failed(x, ret, "apply a snapshot"));
}

int blk_qcow2_snapshot_apply(struct blk_qcow2 *q, const char *tag,
			     struct blk_error *e)
{
	struct snap_edit x = { .q = q, .e = e };
	struct lookup l = { .x = &x, .tag = tag };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = begin(&x);
	if (!ret && blk_q_has_bitmaps(q))
		ret = refuse(&x, "its persistent bitmaps would not record what changes");
	if (!ret)
		ret = find(&x, &l);
	if (!ret)
		ret = failed(&x, load_other(&x), "read the snapshot's tables");
	if (!ret)
		ret = apply(&x);
	free_all(&x);
	return ret;
}
