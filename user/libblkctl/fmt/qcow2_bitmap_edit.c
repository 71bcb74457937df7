// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Adding, removing, clearing and merging persistent bitmaps of an image that
 * nobody uses.
 *
 * Owns the order of a change.  Must not write to anything that the image refers
 * to, but for its header.  Locking: the public function takes q->lock.
 *
 * New bits, tables and a new directory are written to new places, with
 * refcounts that are durable before.  The header extension makes them the
 * image's; then the old ones are freed.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_bitmap_int.h"
#include "fmt/qcow2_header_int.h"

#define MAX_BITMAPS	65535U
#define MAX_DIR		(MAX_BITMAPS * 1024ULL)
#define MAX_BITS_BYTES	(512ULL << 20)
#define MAX_TABLES	(1ULL << 30)	/* fmt/qcow2_walk.c */
#define DEFAULT_MIN	(4U << 10)
#define DEFAULT_MAX	(64U << 10)
#define DIRTY_TRACKING	1

struct runs {
	struct dm_qcow_run *run;
	size_t n, room;
};

/**
 * struct bm_edit - one change
 * @bm, @n: the bitmaps that there shall be
 * @gone, @n_gone: those removed, with their tables
 * @got: what was allocated
 * @next, @next_at: the cluster of @got that is taken next
 * @freed: what is not needed any more
 */
struct bm_edit {
	struct blk_qcow2 *q;
	struct blk_error *e;
	struct blk_bm *bm;
	size_t n;
	struct blk_bm *gone;
	size_t n_gone;
	bool changed;
	struct runs got, freed;
	size_t next;
	uint64_t next_at;
	uint64_t dir, dir_bytes;
};

static int no_memory(struct bm_edit *x)
{
	return blk_error_set(x->e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

static int refuse(struct bm_edit *x, int err, const char *name,
		  const char *why)
{
	return blk_error_set(x->e, BLK_ERR_FAILED, err,
			     "bitmap '%.200s' of '%s': %s", name,
			     x->q->f->path, why);
}

static int add_run(struct runs *r, uint64_t off, uint64_t len)
{
	struct dm_qcow_run *last = r->n ? &r->run[r->n - 1] : NULL;

	if (last && last->offset + last->length == off) {
		last->length += len;
		return 0;
	}
	if (r->n == r->room) {
		size_t room = r->room ? r->room * 2 : 64;
		struct dm_qcow_run *p = realloc(r->run, room * sizeof(*p));

		if (!p)
			return -ENOMEM;
		r->run = p;
		r->room = room;
	}
	r->run[r->n++] = (struct dm_qcow_run){ .offset = off, .length = len };
	return 0;
}

/*
 * The bitmaps in memory
 */

static struct blk_bm *append(struct blk_bm **list, size_t *n)
{
	struct blk_bm *p = *list;

	/* a power of two of them: twice the room */
	if (!(*n & (*n - 1)))
		p = realloc(p, (*n ? *n * 2 : 1) * sizeof(*p));
	if (!p)
		return NULL;
	*list = p;
	p[*n] = (struct blk_bm){ 0 };
	return &p[(*n)++];
}

static int load_one(void *opaque, const struct blk_bitmap *b, uint64_t at)
{
	struct bm_edit *x = opaque;
	struct blk_bm *p = append(&x->bm, &x->n);

	(void)at;
	return p && !blk_bm_init(p, b) ? 0 : no_memory(x);
}

static struct blk_bm *find(struct bm_edit *x, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < x->n; i++)
		if (x->bm[i].name_len == len &&
		    !memcmp(x->bm[i].name, name, len))
			return &x->bm[i];
	return NULL;
}

/* One that can be used: with its table, not inconsistent */
static int get(struct bm_edit *x, const char *name, struct blk_bm **out)
{
	*out = find(x, name);
	if (!*out)
		return blk_error_set(x->e, BLK_ERR_NOT_FOUND, ENOENT,
				     "'%s' has no bitmap '%.200s'",
				     x->q->f->path, name);
	if ((*out)->flags & BLK_BITMAP_IN_USE) {
		refuse(x, EINVAL, name,
		       "it is inconsistent: it was in use when its user ended");
		blk_error_hint(x->e, "it can only be removed");
		return -EINVAL;
	}
	return 0;
}

static int check_granularity(struct bm_edit *x, uint64_t g)
{
	if (g >= 512 && g <= 1ULL << 31 && !(g & (g - 1)))
		return 0;
	return blk_error_set(x->e, BLK_ERR_USAGE, EINVAL,
			     "the granularity is a power of two from 512 to 2G");
}

static int check_limits(struct bm_edit *x, const char *name, uint64_t n)
{
	uint64_t tables = n * 8;

	for (size_t i = 0; i < x->n; i++)
		tables += x->bm[i].n * 8;
	if (!n)
		return refuse(x, EINVAL, name, "the disk has no bytes");
	if (n << x->q->h.cluster_bits > MAX_BITS_BYTES || tables > MAX_TABLES)
		return refuse(x, EFBIG, name,
			      "it would be too large; use a larger granularity");
	if (x->n >= MAX_BITMAPS)
		return refuse(x, EFBIG, name,
			      "the image has as many bitmaps as it can have");
	return 0;
}

static int add(struct bm_edit *x, const char *name, uint64_t g)
{
	struct blk_qcow2 *q = x->q;
	struct blk_bitmap b = {
		.flags = BLK_BITMAP_AUTO, .name = name,
		.name_len = (uint16_t)strlen(name),
	};
	struct blk_bm *p;
	uint64_t n;
	int ret;

	if (!g)	/* as QEMU */
		g = BLK_MAX(BLK_MIN(q->cs, DEFAULT_MAX), DEFAULT_MIN);
	ret = check_granularity(x, g);
	if (ret < 0)
		return ret;
	if (find(x, name))
		return refuse(x, EEXIST, name, "it exists already");
	b.granularity_bits = (uint8_t)__builtin_ctzll(g);
	n = blk_bm_clusters(q, b.granularity_bits);
	ret = check_limits(x, name, n);
	if (ret < 0)
		return ret;
	b.table_size = (uint32_t)n;
	p = append(&x->bm, &x->n);
	if (!p || blk_bm_init(p, &b))
		return no_memory(x);
	return blk_bm_load(q, p, x->e);
}

static int drop(struct bm_edit *x, const char *name)
{
	struct blk_bm *b = find(x, name), *p;
	int ret;

	if (!b)
		return get(x, name, &b);
	ret = blk_bm_load(x->q, b, x->e);
	if (ret < 0)
		return ret;
	p = append(&x->gone, &x->n_gone);
	if (!p)
		return no_memory(x);
	*p = *b;
	blk_bm_clear(p);
	x->n--;
	memmove(b, b + 1, (size_t)(x->bm + x->n - b) * sizeof(*b));
	return 0;
}

static int merge_from(struct bm_edit *x, struct blk_bm *to,
		      struct bm_edit *from, const char *source)
{
	struct blk_bm *f;
	int ret;

	if (from->q->h.size != x->q->h.size)
		return blk_error_set(x->e, BLK_ERR_FAILED, EINVAL,
				     "the disks of '%s' and '%s' have different sizes: their bitmaps cannot be merged",
				     x->q->f->path, from->q->f->path);
	ret = get(from, source, &f);
	if (!ret)
		ret = blk_bm_load(from->q, f, x->e);
	if (!ret && f != to)
		ret = blk_bm_merge(x->q, to, from->q, f, x->e);
	return ret;
}

static void free_list(struct blk_bm *b, size_t n)
{
	for (size_t i = 0; i < n; i++)
		blk_bm_free(&b[i]);
	free(b);
}

static int merge_other(struct bm_edit *x, struct blk_bm *to,
		       struct blk_qcow2 *q, const char *source)
{
	struct bm_edit from = { .q = q, .e = x->e };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_walk_bitmap_dir(q, load_one, &from, x->e);
	if (!ret)
		ret = merge_from(x, to, &from, source);
	free_list(from.bm, from.n);
	return ret;
}

static int apply(struct bm_edit *x, const char *name,
		 const struct blk_qcow2_bitmap_change *c)
{
	struct blk_bm *b;
	int ret;

	x->changed = true;
	if (c->what == BLK_BITMAP_ADD)
		return add(x, name, c->granularity);
	if (c->what == BLK_BITMAP_REMOVE)
		return drop(x, name);
	ret = get(x, name, &b);
	if (ret < 0)
		return ret;
	if (c->what == BLK_BITMAP_ENABLE) {
		b->flags |= BLK_BITMAP_AUTO;
		return 0;
	}
	if (c->what == BLK_BITMAP_DISABLE) {
		b->flags &= ~BLK_BITMAP_AUTO;
		return 0;
	}
	ret = blk_bm_load(x->q, b, x->e);
	if (!ret && c->what == BLK_BITMAP_CLEAR)
		blk_bm_clear(b);
	else if (!ret && c->from && c->from != x->q)
		ret = merge_other(x, b, c->from, c->source);
	else if (!ret)
		ret = merge_from(x, b, x, c->source);
	return ret;
}

/*
 * On disk
 */

static int take(struct bm_edit *x, uint64_t *off)
{
	struct dm_qcow_run *r = &x->got.run[x->next];

	if (x->next >= x->got.n)
		return -EUCLEAN;
	*off = r->offset + x->next_at;
	x->next_at += x->q->cs;
	if (x->next_at == r->length) {
		x->next++;
		x->next_at = 0;
	}
	return 0;
}

/* Bits that have become zeroes need no cluster. */
static uint64_t count_data(struct bm_edit *x)
{
	uint64_t want = 0;

	for (size_t i = 0; i < x->n; i++)
		for (uint64_t k = 0; x->bm[i].data && k < x->bm[i].n; k++) {
			uint8_t **p = &x->bm[i].data[k];

			if (*p && blk_bm_is_zero(*p, x->q->cs)) {
				free(*p);
				*p = NULL;
				x->bm[i].entry[k] = 0;
			}
			want += !!*p;
		}
	return want;
}

static int alloc_data(struct bm_edit *x, uint64_t want)
{
	struct dm_qcow_run run[64];
	int ret = 0;

	while (want && !ret) {
		size_t n = BLK_COUNT(run);

		ret = blk_alloc_runs(x->q, want, run, &n);
		for (size_t i = 0; i < n && !ret; i++) {
			ret = add_run(&x->got, run[i].offset, run[i].length);
			want -= run[i].length >> x->q->h.cluster_bits;
		}
	}
	return ret;
}

static int get_area(struct bm_edit *x, uint64_t bytes, uint64_t *off)
{
	uint64_t len = blk_align_up(bytes, x->q->cs);
	int ret = blk_grow_table_area(x->q, len >> x->q->h.cluster_bits, off);

	return ret ? ret : add_run(&x->got, *off, len);
}

static int put_data(struct bm_edit *x, struct blk_bm *b)
{
	int ret = 0;

	for (uint64_t i = 0; i < b->n && !ret; i++) {
		if (!b->data[i])
			continue;
		ret = take(x, &b->entry[i]);
		if (!ret)
			ret = blk_file_write(x->q->f, b->data[i], x->q->cs,
					     b->entry[i]);
	}
	return ret;
}

/* @what: n bytes, padded to clusters */
static int put_padded(struct bm_edit *x, const void *what, uint64_t n,
		      uint64_t off)
{
	uint64_t len = blk_align_up(n, x->q->cs);
	uint8_t *buf;
	int ret;

	if (posix_memalign((void **)&buf, 4096, blk_align_up(len, 4096)))
		return -ENOMEM;
	memcpy(buf, what, n);
	memset(buf + n, 0, len - n);
	ret = blk_file_write(x->q->f, buf, len, off);
	free(buf);
	return ret;
}

/* The bits and the table of a bitmap whose table was loaded */
static int put_bitmap(struct bm_edit *x, struct blk_bm *b)
{
	uint64_t *be blk_auto_free = NULL;
	uint64_t off = 0;
	int ret = put_data(x, b);

	be = malloc(b->n * 8);
	if (!be)
		ret = -ENOMEM;
	for (uint64_t i = 0; i < b->n && be; i++)
		be[i] = htobe64(b->entry[i]);
	if (!ret)
		ret = get_area(x, b->n * 8, &off);
	if (!ret)
		ret = put_padded(x, be, b->n * 8, off);
	if (!ret && b->table)
		ret = add_run(&x->freed, b->table,
			      blk_align_up(b->n * 8, x->q->cs));
	b->table = off;
	return ret;
}

/* Clusters of the old bits that the new table does not refer to */
static int note_freed(struct bm_edit *x, const struct blk_bm *b)
{
	int ret = 0;

	for (uint64_t i = 0; b->old && i < b->n && !ret; i++) {
		uint64_t off = b->old[i] & QCOW2_OFFSET_MASK;

		if (off && off != (b->entry[i] & QCOW2_OFFSET_MASK))
			ret = add_run(&x->freed, off, x->q->cs);
	}
	return ret;
}

static uint64_t entry_bytes(const struct blk_bm *b)
{
	return blk_align_up(BLK_BITMAP_FIXED_BYTES + b->name_len, 8);
}

static void emit(const struct blk_bm *b, uint8_t *p)
{
	blk_put_be64(p, b->table);
	blk_put_be32(p + 8, (uint32_t)b->n);
	blk_put_be32(p + 12, b->flags);
	p[16] = DIRTY_TRACKING;
	p[17] = b->granularity_bits;
	blk_put_be16(p + 18, b->name_len);
	memcpy(p + BLK_BITMAP_FIXED_BYTES, b->name, b->name_len);
}

static int put_dir(struct bm_edit *x)
{
	uint8_t *dir blk_auto_free = NULL;
	uint64_t at = 0;
	int ret;

	for (size_t i = 0; i < x->n; i++)
		x->dir_bytes += entry_bytes(&x->bm[i]);
	if (x->dir_bytes > MAX_DIR)
		return -EFBIG;
	if (!x->n)
		return 0;
	dir = calloc(1, x->dir_bytes);
	if (!dir)
		return -ENOMEM;
	for (size_t i = 0; i < x->n; i++) {
		emit(&x->bm[i], dir + at);
		at += entry_bytes(&x->bm[i]);
	}
	ret = get_area(x, x->dir_bytes, &x->dir);
	return ret ? ret : put_padded(x, dir, x->dir_bytes, x->dir);
}

static int note_all_freed(struct bm_edit *x)
{
	struct blk_qcow2 *q = x->q;
	int ret = 0;

	for (size_t i = 0; i < x->n && !ret; i++)
		ret = note_freed(x, &x->bm[i]);
	for (size_t i = 0; i < x->n_gone && !ret; i++) {
		ret = note_freed(x, &x->gone[i]);
		if (!ret && x->gone[i].table)
			ret = add_run(&x->freed, x->gone[i].table,
				      blk_align_up(x->gone[i].n * 8, q->cs));
	}
	if (!ret && blk_q_has_bitmaps(q))
		ret = add_run(&x->freed, q->ext.bitmap_dir_offset,
			      blk_align_up(q->ext.bitmap_dir_size, q->cs));
	return ret;
}

/* All that is new, durably */
static int write_new(struct bm_edit *x)
{
	int ret = alloc_data(x, count_data(x));

	for (size_t i = 0; i < x->n && !ret; i++)
		if (x->bm[i].old)
			ret = put_bitmap(x, &x->bm[i]);
	if (!ret)
		ret = put_dir(x);
	if (!ret)
		ret = note_all_freed(x);
	return ret ? ret : blk_file_flush(x->q->f);
}

static int switch_over(struct bm_edit *x)
{
	struct blk_head_new n;
	int ret;

	blk_head_keep(x->q, &n);
	n.n_bitmaps = (uint32_t)x->n;
	n.bitmap_dir_offset = x->dir;
	n.bitmap_dir_size = x->dir_bytes;
	if (x->n)
		n.h.autoclear_features |= QCOW2_AUTOCLEAR_BITMAPS;
	else
		n.h.autoclear_features &= ~QCOW2_AUTOCLEAR_BITMAPS;
	ret = blk_head_put(x->q, &n, x->e);
	if (ret == -ENOSPC)
		return blk_error_set(x->e, BLK_ERR_FAILED, ENOSPC,
				     "the header cluster of '%s' has no room for bitmaps",
				     x->q->f->path);
	if (ret < 0)	/* which of them is it now? */
		x->got.n = x->freed.n = 0;
	return ret;
}

static int failed(struct bm_edit *x, int ret)
{
	if (ret == -ENOSPC)
		return blk_error_set(x->e, BLK_ERR_FAILED, ENOSPC,
				     "no space left for '%s'",
				     x->q->f->path);
	return blk_q_io_error(x->q, x->e, ret, "write the bitmaps");
}

static int write_all(struct bm_edit *x)
{
	struct blk_qcow2 *q = x->q;
	const struct runs *unused;
	int ret, rc;

	q->as_they_are = true;
	ret = write_new(x);
	q->as_they_are = false;
	if (ret < 0)
		failed(x, ret);
	else
		ret = switch_over(x);
	unused = ret ? &x->got : &x->freed;
	q->leaked |= ret && !unused->n;
	/* what is metadata has changed */
	blk_slots_free(q);
	blk_alloc_forget(q);
	rc = blk_alloc_prepare(q, ret ? NULL : x->e);
	if (!rc && unused->n && blk_release_runs(q, unused->run, unused->n))
		q->leaked = true;	/* but it is done */
	return ret ? ret : rc;
}

static int check_name(const char *name, struct blk_error *e)
{
	if (*name && strlen(name) <= BLK_BITMAP_MAX_NAME)
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			     "the name of a bitmap has 1 to %u bytes",
			     BLK_BITMAP_MAX_NAME);
}

static int begin(struct bm_edit *x)
{
	struct blk_qcow2 *q = x->q;
	int ret;

	if (q->h.version < 3)
		return blk_error_set(x->e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' is of version 2 (compat=0.10), which has no bitmaps",
				     q->f->path);
	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT)
		return blk_q_corrupt(q, x->e, "it is marked as corrupt");
	if (q->ops || q->scan)
		return blk_error_set(x->e, BLK_ERR_BUSY, EBUSY,
				     "'%s' is attached", q->f->path);
	ret = blk_alloc_prepare(q, x->e);
	return ret ? ret : blk_walk_bitmap_dir(q, load_one, x, x->e);
}

static int end(struct bm_edit *x, int ret)
{
	if (!ret && x->changed)
		ret = write_all(x);
	free_list(x->bm, x->n);
	free_list(x->gone, x->n_gone);
	free(x->got.run);
	free(x->freed.run);
	return ret;
}

int blk_qcow2_bitmaps_change(struct blk_qcow2 *q, const char *name,
			     const struct blk_qcow2_bitmap_change *c, size_t n,
			     struct blk_error *e)
{
	struct bm_edit x = { .q = q, .e = e };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = check_name(name, e);
	if (!ret)
		ret = begin(&x);
	for (size_t i = 0; i < n && !ret; i++)
		ret = apply(&x, name, &c[i]);
	return end(&x, ret);
}

static int record(struct bm_edit *x, struct blk_bm *b,
		  const struct dm_qcow_run *runs, size_t n)
{
	int ret = blk_bm_load(x->q, b, x->e);

	if (ret < 0)
		return ret;
	x->changed = true;
	for (size_t i = 0; i < n && !ret; i++)
		ret = blk_bm_record(x->q, b, runs[i].offset, runs[i].length);
	return ret ? blk_q_io_error(x->q, x->e, ret, "read a bitmap") : 0;
}

int blk_qcow2_bitmaps_record(struct blk_qcow2 *q,
			     const struct dm_qcow_run *runs, size_t n,
			     struct blk_error *e)
{
	struct bm_edit x = { .q = q, .e = e };
	int ret = 0;

	blk_guard_mutex(&q->lock);
	if (n && blk_q_has_bitmaps(q))
		ret = begin(&x);
	for (size_t i = 0; i < x.n && !ret; i++)
		if ((x.bm[i].flags & (BLK_BITMAP_AUTO | BLK_BITMAP_IN_USE)) ==
		    BLK_BITMAP_AUTO)
			ret = record(&x, &x.bm[i], runs, n);
	return end(&x, ret);
}
