// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The leak scan: which clusters are counted more often than they are referred
 * to, while the image is in use.
 *
 * Owns struct blk_scan.  Judged are the clusters below the end that the image
 * had when the scan began; whatever the allocator touched since is left alone.
 * That makes it safe beside a kernel that changes L2 tables: a cluster that
 * nobody touched can lose references only on its way to release(), which
 * touches it, and can gain none.  An L2 table that the scan will read may be
 * freed under it, but is neither given out nor punched while the scan lives.
 *
 * Must never lower a count to 1 for a cluster whose entry in an active table
 * says "not copied".  Entries in tables of snapshots never say anything else.
 *
 * Locking: touched is under q->lock; seen, plain and extra belong to the
 * thread that runs the scan.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_int.h"

#define MAX_CLUSTERS	(1ULL << 30)	/* 128 MiB for each bitmap */
#define MAX_BEHIND	(1ULL << 20)	/* clusters judged behind the file */
#define PAGE_BITS	12U		/* clusters in a page of extra counts */
#define MAX_PAGES	(1U << 14)	/* 128 MiB of them */

/**
 * struct blk_scan - a scan under way
 * @n: clusters that are judged: [0, n)
 * @touched: bitmap: changed since the beginning, or not known well enough
 * @seen: bitmap: one reference at least
 * @plain: bitmap: a reference that asks for "copied" if it is the only one: of
 *         an active table, and not a compressed cluster's
 * @extra: references after the first, in pages, NULL: none
 * @l1, @l1_n: the active L1 as it was at the beginning, host order
 * @missing: clusters with references and the refcount 0
 * @ran: scan_run has seen everything
 * @was_leaked: q->leaked at the beginning
 */
struct blk_scan {
	uint64_t n;
	uint8_t *touched;
	uint8_t *seen;
	uint8_t *plain;
	uint16_t **extra;
	uint32_t n_pages;
	uint64_t *l1;
	uint32_t l1_n;
	uint8_t *l2;
	uint64_t missing;
	bool ran;
	bool was_leaked;
};

/* What a walk needs: the callbacks of blk_walk_snapshots get one pointer. */
struct walk {
	struct blk_qcow2 *q;
	struct blk_scan *s;
	const volatile bool *stop;
	struct blk_error *e;
	bool active;		/* not of a snapshot */
	bool suspect;		/* a reference to a free cluster was seen */
};

static bool get_bit(const uint8_t *map, uint64_t i)
{
	return map[i >> 3] >> (i & 7) & 1;
}

static void set_bit(uint8_t *map, uint64_t i)
{
	map[i >> 3] |= (uint8_t)(1U << (i & 7));
}

void blk_scan_touch(struct blk_qcow2 *q, uint64_t cluster, uint64_t n)
{
	uint64_t end = cluster + n;

	if (!q->scan)
		return;
	end = BLK_MIN(end, q->scan->n);
	for (uint64_t c = cluster; c < end; c++)
		set_bit(q->scan->touched, c);
}

static void free_scan(struct blk_scan *s)
{
	if (s->extra)
		for (uint64_t i = 0; i < (s->n >> PAGE_BITS) + 1; i++)
			free(s->extra[i]);
	free(s->extra);
	free(s->touched);
	free(s->seen);
	free(s->plain);
	free(s->l1);
	free(s->l2);
	free(s);
}

void blk_scan_free(struct blk_qcow2 *q)
{
	if (!q->scan)
		return;
	q->leaked |= q->scan->was_leaked;
	free_scan(q->scan);
	q->scan = NULL;
}

static uint16_t *extra_page(struct blk_scan *s, uint64_t cluster)
{
	uint16_t **page = &s->extra[cluster >> PAGE_BITS];

	if (!*page && s->n_pages < MAX_PAGES) {
		*page = calloc(1U << PAGE_BITS, sizeof(**page));
		s->n_pages += !!*page;
	}
	return *page;
}

static uint64_t references(const struct blk_scan *s, uint64_t cluster)
{
	const uint16_t *page = s->extra[cluster >> PAGE_BITS];
	uint64_t extra = page ?
		page[cluster & ((1U << PAGE_BITS) - 1)] : 0;

	return get_bit(s->seen, cluster) + extra;
}

/*
 * A cluster that is younger than the scan: it was counted before anything
 * could refer to it, so a count of 0 is suspect.
 */
static int check_new(struct walk *w, uint64_t cluster)
{
	struct blk_qcow2 *q = w->q;
	uint64_t mask = (1ULL << q->rb_bits) - 1;
	struct blk_slot *slot;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_slot_get(q, cluster >> q->rb_bits, &slot);
	if (ret == -ENOENT || (!ret && !blk_refcount_get(slot->buf,
					q->h.refcount_order, cluster & mask)))
		w->suspect = true;
	return ret == -ENOENT ? 0 : ret;
}

static int add_reference(struct walk *w, uint64_t cluster, bool plain)
{
	struct blk_scan *s = w->s;
	uint16_t *page;

	if (cluster >= s->n)
		return check_new(w, cluster);
	if (plain && w->active)
		set_bit(s->plain, cluster);
	if (!get_bit(s->seen, cluster)) {
		set_bit(s->seen, cluster);
		return 0;
	}
	page = extra_page(s, cluster);
	if (page)
		page += cluster & ((1U << PAGE_BITS) - 1);
	if (!page || *page == UINT16_MAX) {
		/* too many to be counted: leave it alone */
		blk_guard_mutex(&w->q->lock);
		set_bit(s->touched, cluster);
		return 0;
	}
	(*page)++;
	return 0;
}

static int add_bytes(struct walk *w, uint64_t off, uint64_t len, bool plain)
{
	uint32_t bits = w->q->h.cluster_bits;
	int ret = 0;

	for (uint64_t c = off >> bits; c <= (off + len - 1) >> bits && !ret; c++)
		ret = add_reference(w, c, plain);
	return ret;
}

static int add_entry(struct walk *w, uint64_t entry, uint64_t file_size)
{
	uint32_t bits = w->q->h.cluster_bits;
	bool elsewhere = blk_q_has_data_file(w->q);
	const char *why = qcow2_l2_check(entry, bits,
					 elsewhere ? UINT64_MAX : file_size,
					 w->q->h.version);
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	uint64_t len;

	if (!why && elsewhere && entry & QCOW2_L2_COMPRESSED)
		why = "a compressed cluster beside an external data file";
	if (why)
		return blk_q_corrupt(w->q, w->e, why);
	if (elsewhere)
		return 0;
	if (!(entry & QCOW2_L2_COMPRESSED))
		return off ? add_reference(w, off >> bits, true) : 0;
	off = qcow2_compressed_offset(entry, bits);
	len = BLK_MIN(qcow2_compressed_length(entry, bits), file_size - off);
	return add_bytes(w, off, len, false);
}

/*
 * An entry referred to a free cluster.  Was it freed meanwhile?  Then the
 * entry is gone from the disk, for that comes before the count is lowered.
 */
static int confirm(struct walk *w, uint64_t at, uint64_t entry,
		   uint64_t file_size)
{
	uint8_t now[8];
	int ret = blk_file_read(w->q->f, now, sizeof(now), at);

	w->suspect = false;
	if (!ret && blk_get_be64(now) == entry)
		ret = add_entry(w, entry, file_size);
	w->s->missing += w->suspect;
	w->suspect = false;
	return ret;
}

static int walk_entries(struct walk *w, uint64_t off)
{
	struct blk_qcow2 *q = w->q;
	uint64_t step = blk_q_has_extl2(q) ? 16 : 8;
	int64_t size = blk_q_rounded_size(q);
	int ret = 0;

	if (size < 0)
		return blk_q_io_error(q, w->e, (int)size, "find the size");
	for (uint64_t i = 0; i < q->cs && !ret; i += step) {
		uint64_t entry = blk_get_be64(w->s->l2 + i);

		if (!entry)
			continue;
		ret = add_entry(w, entry, size);
		if (!ret && w->suspect)
			ret = confirm(w, off + i, entry, size);
	}
	return ret;
}

/* The size is asked for after the table is read: both may be growing. */
static int walk_l2(struct walk *w, uint64_t off)
{
	struct blk_qcow2 *q = w->q;
	int ret = add_reference(w, off >> q->h.cluster_bits, true);

	w->s->missing += w->suspect;
	w->suspect = false;
	if (!ret)
		ret = blk_file_read(q->f, w->s->l2, q->cs, off);
	if (ret < 0)
		return blk_q_io_error(q, w->e, ret, "read an L2 table");
	return walk_entries(w, off);
}

static int walk_l1_entries(struct walk *w, const uint64_t *l1, uint64_t n)
{
	int ret = 0;

	for (uint64_t i = 0; i < n && !ret; i++) {
		uint64_t off = l1[i] & QCOW2_OFFSET_MASK;

		if (*w->stop)
			return blk_error_set(w->e, BLK_ERR_FAILED, ECANCELED,
					     "the leak scan was stopped");
		if (off)
			ret = walk_l2(w, off);
	}
	return ret;
}

static int walk_snapshot_l1(void *opaque, uint64_t off, uint64_t len)
{
	struct walk *w = opaque;
	uint64_t *l1;
	int ret = blk_walk_l1(w->q, off, (uint32_t)(len / 8), &l1, w->e);

	if (ret < 0)
		return ret;
	ret = walk_l1_entries(w, l1, len / 8);
	free(l1);
	return ret;
}

/* Everything but L2 tables, which the walk counts */
static void add_metadata(struct blk_qcow2 *q, struct blk_scan *s)
{
	for (size_t i = 0; i < q->meta.n; i++) {
		const struct blk_meta_run *m = &q->meta.run[i];
		uint64_t c = m->off >> q->h.cluster_bits;
		uint64_t end = (m->off + m->len) >> q->h.cluster_bits;

		if (m->kind != BLK_META_OWN && m->kind != BLK_META_ACTIVE)
			continue;
		for (end = BLK_MIN(end, s->n); c < end; c++) {
			set_bit(s->seen, c);
			set_bit(s->plain, c);
		}
	}
}

/*
 * The tables that the scan will read are not given out, also those that are
 * younger than the list of metadata.
 */
static int protect_l2_tables(struct blk_qcow2 *q, const struct blk_scan *s)
{
	for (uint32_t i = 0; s->l1 && i < s->l1_n; i++) {
		uint64_t off = s->l1[i] & QCOW2_OFFSET_MASK;
		int ret = off ? blk_meta_add(&q->meta, off, q->cs,
					     BLK_META_ACTIVE_L2) : 0;

		if (ret < 0 && ret != -EUCLEAN)	/* on the list already */
			return ret;
	}
	return 0;
}

static int alloc_scan(struct blk_qcow2 *q, struct blk_scan *s)
{
	s->touched = calloc(s->n / 8 + 1, 1);
	s->seen = calloc(s->n / 8 + 1, 1);
	s->plain = calloc(s->n / 8 + 1, 1);
	s->extra = calloc((s->n >> PAGE_BITS) + 1, sizeof(*s->extra));
	if (!s->touched || !s->seen || !s->plain || !s->extra ||
	    posix_memalign((void **)&s->l2, 4096, BLK_MAX(q->cs, 4096U)))
		return -ENOMEM;
	return 0;
}

/* Refcounts may lie about what is far behind the file's end: not judged. */
static int scan_size(struct blk_qcow2 *q, uint64_t *n, struct blk_error *e)
{
	int64_t size = blk_q_rounded_size(q);

	if (size < 0)
		return blk_q_io_error(q, e, (int)size, "find the size");
	*n = BLK_MIN(q->end, ((uint64_t)size >> q->h.cluster_bits) +
		     MAX_BEHIND);
	if (*n <= MAX_CLUSTERS)
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			     "'%s' is too large to be scanned for leaks",
			     q->f->path);
}

int blk_qcow2_scan_begin(struct blk_qcow2 *q, struct blk_error *e)
{
	struct blk_scan *s;
	uint64_t n = 0;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_alloc_prepare(q, e);
	if (!ret)
		ret = scan_size(q, &n, e);
	if (ret < 0)
		return ret;
	blk_scan_free(q);
	s = calloc(1, sizeof(*s));
	if (s) {
		s->n = n;
		s->l1_n = q->h.l1_size;
		ret = alloc_scan(q, s);
	}
	if (!s || ret < 0)
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				    "out of memory");
	else if (s->l1_n)
		ret = blk_walk_l1(q, q->h.l1_table_offset, s->l1_n, &s->l1, e);
	if (!ret && protect_l2_tables(q, s) < 0)
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				    "out of memory");
	if (ret < 0) {
		if (s)
			free_scan(s);
		return ret;
	}
	add_metadata(q, s);
	s->was_leaked = q->leaked;
	q->leaked = false;
	q->scan = s;
	return 0;
}

int blk_qcow2_scan_run(struct blk_qcow2 *q, const volatile bool *stop,
		       struct blk_error *e)
{
	struct walk w = { .q = q, .s = q->scan, .stop = stop, .e = e };
	int ret;

	if (!w.s)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "no leak scan was begun");
	w.active = true;
	ret = walk_l1_entries(&w, w.s->l1, w.s->l1 ? w.s->l1_n : 0);
	w.active = false;
	if (!ret)
		ret = blk_walk_snapshots(q, NULL, walk_snapshot_l1, &w, e);
	if (!ret) {
		w.s->ran = true;
		return 0;
	}
	blk_guard_mutex(&q->lock);
	blk_scan_free(q);	/* nothing more will come of it */
	return ret;
}

/* What the refcount of a cluster should be; *keep: it can't be set to that */
static uint64_t judge(const struct blk_scan *s, uint64_t c, uint64_t rc,
		      bool *keep)
{
	uint64_t refs = references(s, c);

	/* A count of 1 asks for "copied" in an entry that the kernel owns (rule 30). */
	*keep = rc > refs && refs == 1 && get_bit(s->plain, c);
	return *keep ? rc : refs;
}

struct repair {
	uint64_t leaks;
	uint64_t kept;
};

/* Makes room in the list of freed runs; the slot may move. */
static int make_room(struct blk_qcow2 *q, uint64_t idx, struct blk_slot **slot)
{
	int ret;

	if (q->n_freed < BLK_MAX_FREED)
		return 0;
	ret = blk_release_settle(q);
	return ret ? ret : blk_slot_get(q, idx, slot);
}

/* A block of NULL counts nothing. */
static int repair_cluster(struct blk_qcow2 *q, uint64_t c,
			  struct blk_slot **slot, struct repair *r)
{
	struct blk_scan *s = q->scan;
	uint64_t i = c & ((1ULL << q->rb_bits) - 1);
	uint64_t rc = *slot ? blk_refcount_get((*slot)->buf,
					       q->h.refcount_order, i) : 0;
	bool keep;
	uint64_t refs = judge(s, c, rc, &keep);
	int ret;

	s->missing += refs > rc;
	r->kept += keep;
	if (refs >= rc)
		return 0;
	ret = make_room(q, c >> q->rb_bits, slot);
	if (ret < 0)
		return ret;
	blk_slot_set(q, *slot, i, refs);
	r->leaks++;
	if (!refs)
		blk_release_note(q, c);
	return 0;
}

static int repair_block(struct blk_qcow2 *q, uint64_t idx, struct repair *r)
{
	struct blk_scan *s = q->scan;
	uint64_t base = idx << q->rb_bits;
	uint64_t end = BLK_MIN(base + (1ULL << q->rb_bits), s->n);
	struct blk_slot *slot = NULL;
	int ret = blk_slot_get(q, idx, &slot);

	if (ret == -ENOENT)
		ret = 0;
	for (uint64_t c = base; c < end && !ret; c++)
		if (!get_bit(s->touched, c))
			ret = repair_cluster(q, c, &slot, r);
	return ret ? ret : blk_release_settle(q);
}

/* One block at a time, so that grants need not wait for the whole. */
static int repair_all(struct blk_qcow2 *q, struct repair *r)
{
	uint64_t n = q->scan->n;

	for (uint64_t c = 0; c < n; c += 1ULL << q->rb_bits) {
		int ret;

		blk_guard_mutex(&q->lock);
		ret = q->stuck ? -EIO : repair_block(q, c >> q->rb_bits, r);
		if (ret < 0) {
			blk_slots_abort(q, true);
			q->n_freed = 0;
			return ret;
		}
	}
	return 0;
}

int blk_qcow2_scan_end(struct blk_qcow2 *q, uint64_t *leaks,
		       struct blk_error *e)
{
	struct repair r = { 0 };
	uint64_t missing;
	int ret;

	*leaks = 0;
	if (!q->scan || !q->scan->ran)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "no leak scan has run to its end");
	ret = repair_all(q, &r);
	*leaks = r.leaks;
	blk_guard_mutex(&q->lock);
	missing = q->scan->missing;
	if (!ret) {
		q->scan->was_leaked = r.kept || missing;
		q->verified = !missing;
	}
	blk_scan_free(q);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "give back leaked clusters");
	if (missing)
		return blk_q_corrupt(q, e,
				     "clusters are in use that the refcounts call free");
	return 0;
}

void blk_qcow2_scan_cancel(struct blk_qcow2 *q)
{
	blk_guard_mutex(&q->lock);
	blk_scan_free(q);
}
