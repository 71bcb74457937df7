// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Checking an image that nobody uses: every reference is counted and compared
 * with the refcounts.
 *
 * Owns struct blk_check.  Must not write, but for COPIED bits when it is told
 * to.  Locking: the caller holds q->lock.
 *
 * A table that snapshots share is read once: it first learns how many L1
 * entries name it, then all that it refers to is counted so many times.  So the
 * work is bounded by the file's tables, whatever the number of snapshots.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_check_int.h"

/* Room for refcount blocks that a repair has to add behind the file's end */
#define SLACK(n)	((n) / 16 + 4096)

static int add(struct blk_check *c, uint64_t cluster, uint64_t by)
{
	int ret = blk_refs_add(&c->refs, cluster, by);

	if (ret == -EOVERFLOW)
		return blk_q_corrupt(c->q, c->e,
				     "a cluster has more references than can be counted");
	if (ret < 0)
		return blk_error_set(c->e, BLK_ERR_FAILED, -ret,
				     "'%s' needs too much memory to be checked",
				     c->q->f->path);
	c->most = BLK_MAX(c->most, blk_refs_get(&c->refs, cluster));
	return 0;
}

static bool is_l2(const struct blk_meta_run *m)
{
	return m->kind == BLK_META_ACTIVE_L2 ||
		m->kind == BLK_META_INACTIVE_L2;
}

/* All metadata but the L2 tables is referred to once. */
static int add_metadata(struct blk_check *c)
{
	uint32_t bits = c->q->h.cluster_bits;
	int ret = 0;

	for (size_t i = 0; i < c->meta->n && !ret; i++) {
		const struct blk_meta_run *m = &c->meta->run[i];
		uint64_t end = (m->off + m->len) >> bits;

		if (is_l2(m))
			continue;
		for (uint64_t k = m->off >> bits; k < end && !ret; k++)
			ret = add(c, k, 1);
	}
	return ret;
}

static int add_l2_tables(struct blk_check *c, const uint64_t *l1, uint64_t n)
{
	int ret = 0;

	for (uint64_t i = 0; i < n && !ret; i++) {
		uint64_t off = l1[i] & QCOW2_OFFSET_MASK;

		if (off)
			ret = add(c, off >> c->q->h.cluster_bits, 1);
	}
	return ret;
}

static int add_snapshot_l1(void *opaque, uint64_t off, uint64_t len)
{
	struct blk_check *c = opaque;
	uint64_t *l1;
	int ret = blk_walk_l1(c->q, off, (uint32_t)(len / 8), &l1, c->e);

	if (ret < 0)
		return ret;
	ret = add_l2_tables(c, l1, len / 8);
	free(l1);
	return ret;
}

static int add_l1_tables(struct blk_check *c)
{
	struct blk_qcow2 *q = c->q;
	int ret = 0;

	if (q->h.l1_size) {
		ret = blk_walk_l1(q, q->h.l1_table_offset, q->h.l1_size,
				  &c->l1, c->e);
		if (!ret)
			ret = add_l2_tables(c, c->l1, q->h.l1_size);
	}
	return ret ? ret : blk_walk_snapshots(q, NULL, add_snapshot_l1, c,
					      c->e);
}

/* Entries go upwards through the file, so that most are in the last gap. */
static bool hits_metadata(struct blk_check *c, uint64_t off, uint64_t end)
{
	const struct blk_meta_run *m;

	if (off >= c->gap_lo && end <= c->gap_hi)
		return false;
	m = blk_meta_find(c->meta, off);
	if (m && m->off < end)
		return true;
	c->gap_lo = off;
	c->gap_hi = m ? m->off : UINT64_MAX;
	return false;
}

static int add_bytes(struct blk_check *c, uint64_t off, uint64_t len,
		     uint64_t by)
{
	uint32_t bits = c->q->h.cluster_bits;
	uint64_t end = off + len;
	int ret = 0;

	if (hits_metadata(c, blk_align_down(off, c->q->cs), end))
		return blk_q_corrupt(c->q, c->e,
				     "a cluster of data is one of metadata, too");
	for (uint64_t k = off >> bits; k <= (end - 1) >> bits && !ret; k++)
		ret = add(c, k, by);
	return ret;
}

static const char *judge(const struct blk_qcow2 *q, uint64_t entry,
			 uint64_t bitmap, uint64_t file_size)
{
	bool elsewhere = blk_q_has_data_file(q);
	const char *why = qcow2_l2_check(entry, q->h.cluster_bits,
					 elsewhere ? UINT64_MAX : file_size,
					 q->h.version);

	if (!why && elsewhere && entry & QCOW2_L2_COMPRESSED)
		why = "a compressed cluster beside an external data file";
	if (!why && blk_q_has_extl2(q))
		why = qcow2_extl2_check(entry, bitmap,
					entry & QCOW2_OFFSET_MASK ||
					(elsewhere &&
					 entry & QCOW2_ENTRY_COPIED));
	return why;
}

static int add_entry(struct blk_check *c, uint64_t entry, uint64_t bitmap,
		     uint64_t by)
{
	struct blk_qcow2 *q = c->q;
	uint32_t bits = q->h.cluster_bits;
	uint64_t size = c->file_end << bits;
	const char *why = judge(q, entry, bitmap, size);
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	uint64_t len = q->cs;

	if (why)
		return blk_q_corrupt(q, c->e, why);
	if (blk_q_has_data_file(q))
		return 0;
	if (entry & QCOW2_L2_COMPRESSED) {
		off = qcow2_compressed_offset(entry, bits);
		len = qcow2_compressed_length(entry, bits);
		if (len > size - off)
			return blk_q_corrupt(q, c->e,
					     "a compressed cluster is outside the file");
	} else if (!off) {
		return 0;
	}
	return add_bytes(c, off, len, by);
}

static int read_l2(struct blk_check *c, uint64_t off)
{
	int ret = blk_file_read(c->q->f, c->l2, c->q->cs, off);

	return ret < 0 ? blk_q_io_error(c->q, c->e, ret, "read an L2 table") :
		0;
}

static int add_l2_entries(struct blk_check *c, uint64_t off)
{
	struct blk_qcow2 *q = c->q;
	bool ext = blk_q_has_extl2(q);
	uint64_t by = blk_refs_get(&c->refs, off >> q->h.cluster_bits);
	int ret = read_l2(c, off);

	for (uint64_t i = 0; i < q->cs && !ret; i += ext ? 16 : 8) {
		uint64_t entry = blk_get_be64(c->l2 + i);
		uint64_t bitmap = ext ? blk_get_be64(c->l2 + i + 8) : 0;

		if (entry || bitmap)
			ret = add_entry(c, entry, bitmap, by);
	}
	return ret;
}

static int collect(struct blk_check *c)
{
	int ret = add_metadata(c);

	if (!ret)
		ret = add_l1_tables(c);
	for (size_t i = 0; i < c->meta->n && !ret; i++)
		if (is_l2(&c->meta->run[i]))
			ret = add_l2_entries(c, c->meta->run[i].off);
	if (!ret && c->most > blk_refcount_max(c->q->h.refcount_order))
		ret = blk_error_set(c->e, BLK_ERR_FAILED, EUCLEAN,
				    "a cluster of '%s' has %llu references, more than its refcounts of %u bits can say",
				    c->q->f->path, (unsigned long long)c->most,
				    1U << c->q->h.refcount_order);
	return ret;
}

int blk_check_collect(struct blk_check *c)
{
	struct blk_qcow2 *q = c->q;
	int64_t size = blk_q_rounded_size(q);
	uint64_t n;
	int ret;

	if (size < 0)
		return blk_q_io_error(q, c->e, (int)size, "find the size");
	c->file_end = (uint64_t)size >> q->h.cluster_bits;
	n = BLK_MAX(c->file_end, blk_meta_end(c->meta) >> q->h.cluster_bits);
	ret = blk_refs_init(&c->refs, n + SLACK(n));
	if (!ret && posix_memalign((void **)&c->l2, 4096,
				   BLK_MAX(q->cs, 4096U)))
		ret = -ENOMEM;
	if (!ret && !q->slot)
		ret = blk_slots_alloc(q);
	if (ret < 0)
		return blk_error_set(c->e, BLK_ERR_FAILED, -ret,
				     "'%s' is too large to be checked: %s",
				     q->f->path, strerror(-ret));
	return collect(c);
}

void blk_check_free(struct blk_check *c)
{
	blk_refs_free(&c->refs);
	free(blk_take(c->l1));
	free(blk_take(c->l2));
}

static void compare_block(struct blk_check *c, uint64_t idx,
			  const struct blk_slot *s)
{
	uint64_t n = 1ULL << c->q->rb_bits;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t refs = blk_refs_get(&c->refs,
					     (idx << c->q->rb_bits) + i);
		uint64_t rc = s ? blk_refcount_get(s->buf,
						   c->q->h.refcount_order, i) :
			0;

		c->too_high += rc > refs;
		c->too_low += rc < refs;
	}
}

int blk_check_compare(struct blk_check *c)
{
	struct blk_qcow2 *q = c->q;
	uint64_t blocks = (c->refs.n >> q->rb_bits) + 1;

	c->too_high = c->too_low = 0;
	for (uint64_t i = 0; i < BLK_MAX(blocks, q->rt_n); i++) {
		struct blk_slot *s = NULL;
		int ret = blk_slot_get(q, i, &s);

		if (ret < 0 && ret != -ENOENT)
			return blk_q_io_error(q, c->e, ret,
					      "read the refcounts");
		if (s || blk_refs_any(&c->refs, i << q->rb_bits,
				      (i + 1) << q->rb_bits))
			compare_block(c, i, s);
	}
	return 0;
}

/* What the entry should be: COPIED says that the refcount is 1. */
static uint64_t right_copied(const struct blk_check *c, uint64_t entry,
			     bool is_data)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	uint64_t rest = entry & ~QCOW2_ENTRY_COPIED;
	bool one;

	if (!off || (is_data && entry & QCOW2_L2_COMPRESSED))
		return entry;
	one = (is_data && blk_q_has_data_file(c->q)) ||
		blk_refs_get(&c->refs, off >> c->q->h.cluster_bits) == 1;
	return one ? rest | QCOW2_ENTRY_COPIED : rest;
}

static int copied_in_l2(struct blk_check *c, uint64_t off, bool fix)
{
	struct blk_qcow2 *q = c->q;
	uint64_t step = blk_q_has_extl2(q) ? 16 : 8;
	uint64_t a = BLK_MIN(q->f->align, q->cs);
	int ret = read_l2(c, off);

	for (uint64_t at = 0; at < q->cs && !ret; at += a) {
		bool dirty = false;

		for (uint64_t i = at; i < at + a; i += step) {
			uint64_t old = blk_get_be64(c->l2 + i);
			uint64_t entry = right_copied(c, old, true);

			c->copied += entry != old;
			dirty |= entry != old;
			blk_put_be64(c->l2 + i, entry);
		}
		if (dirty && fix)
			ret = blk_file_write(q->f, c->l2 + at, a, off + at);
		if (ret < 0)
			blk_q_io_error(q, c->e, ret, "write an L2 table");
	}
	return ret;
}

static int copied_in_l1(struct blk_check *c, bool fix)
{
	struct blk_qcow2 *q = c->q;
	int ret = 0;

	for (uint32_t i = 0; i < q->h.l1_size && !ret; i++) {
		uint64_t entry = right_copied(c, c->l1[i], false);
		uint8_t be[8];

		if (entry == c->l1[i])
			continue;
		c->copied++;
		blk_put_be64(be, entry);
		if (fix)
			ret = blk_file_write(q->f, be, 8,
					     q->h.l1_table_offset + i * 8ULL);
	}
	return ret < 0 ? blk_q_io_error(q, c->e, ret, "write the L1 table") :
		0;
}

int blk_check_copied(struct blk_check *c, bool fix)
{
	int ret = copied_in_l1(c, fix);

	for (size_t i = 0; i < c->meta->n && !ret; i++)
		if (c->meta->run[i].kind == BLK_META_ACTIVE_L2)
			ret = copied_in_l2(c, c->meta->run[i].off, fix);
	if (!ret && fix && c->copied) {
		ret = blk_file_flush(c->q->f);
		if (ret < 0)
			blk_q_io_error(c->q, c->e, ret, "flush");
	}
	return ret;
}
