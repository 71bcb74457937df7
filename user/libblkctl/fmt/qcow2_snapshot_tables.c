// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * References to L2 tables, while snapshots are made, applied and deleted.
 *
 * An L2 table is referred to by L1 entries, each of which counts once for the
 * table and once for everything that the table refers to.  COPIED is set in the
 * active tables where a refcount is 1; a table in which that changes is written
 * to a new place.
 *
 * Owns snap_edit.l2.  Locking: the caller holds q->lock.
 */
#include <errno.h>

#include "fmt/qcow2_snapshot_int.h"

static bool hits_metadata(struct snap_edit *x, uint64_t off, uint64_t end)
{
	const struct blk_meta_run *m;

	if (off >= x->gap_lo && end <= x->gap_hi)
		return false;
	m = blk_meta_find(&x->q->meta, off);
	if (m && m->off < end)
		return true;
	x->gap_lo = off;
	x->gap_hi = m ? m->off : UINT64_MAX;
	return false;
}

/* Does the entry refer to clusters?  1: [*c, *end); -EUCLEAN: damaged */
static int clusters_of(struct snap_edit *x, const uint8_t *p, uint64_t *c,
		       uint64_t *end)
{
	struct blk_qcow2 *q = x->q;
	uint64_t entry = blk_get_be64(p), off = entry & QCOW2_OFFSET_MASK;
	uint32_t bits = q->h.cluster_bits;
	uint64_t len = q->cs;

	if (qcow2_l2_check(entry, bits, x->file_size, q->h.version) ||
	    (blk_q_has_extl2(q) &&
	     qcow2_extl2_check(entry, blk_get_be64(p + 8), !!off)))
		return -EUCLEAN;
	if (entry & QCOW2_L2_COMPRESSED) {
		off = qcow2_compressed_offset(entry, bits);
		len = qcow2_compressed_length(entry, bits);
		if (len > x->file_size - off)
			return -EUCLEAN;
	} else if (!off) {
		return 0;
	}
	*c = off >> bits;
	*end = ((off + len - 1) >> bits) + 1;
	return hits_metadata(x, *c << bits, *end << bits) ? -EUCLEAN : 1;
}

static int load_l2(struct snap_edit *x, uint64_t off)
{
	x->changed = false;
	return blk_file_read(x->q->f, x->l2, x->q->cs, off);
}

static void set_copied(struct snap_edit *x, uint8_t *p, bool on)
{
	uint64_t entry = blk_get_be64(p);
	uint64_t want = on ? entry | QCOW2_ENTRY_COPIED :
		entry & ~QCOW2_ENTRY_COPIED;

	if (entry & QCOW2_L2_COMPRESSED || entry == want)
		return;
	blk_put_be64(p, want);
	x->changed = true;
}

/*
 * How many of @n entries are clusters of data in the file, one after the other,
 * as most are?  0: look at the first one yourself.
 */
static uint64_t row_of(const struct snap_edit *x, const uint8_t *p, uint64_t n)
{
	uint64_t entry = blk_get_be64(p), off = entry & QCOW2_OFFSET_MASK;
	uint64_t cs = x->q->cs, k = 1;

	if (!off || off & (cs - 1) || off >= x->file_size ||
	    entry & ~(QCOW2_OFFSET_MASK | QCOW2_ENTRY_COPIED))
		return 0;
	n = BLK_MIN(n, (x->file_size - off) / cs);
	while (k < n && blk_get_be64(p + k * 8) == entry + k * cs)
		k++;
	return BLK_MIN(k, n);
}

static int count_row(struct snap_edit *x, uint8_t *p, uint64_t n, int by)
{
	uint64_t entry = blk_get_be64(p), off = entry & QCOW2_OFFSET_MASK;

	if (hits_metadata(x, off, off + n * x->q->cs))
		return -EUCLEAN;
	for (uint64_t i = 0; i < n && entry & QCOW2_ENTRY_COPIED; i++)
		set_copied(x, p + i * 8, false);
	return blk_shadow_add(&x->s, off >> x->q->h.cluster_bits, n, by);
}

/* One more or one less reference of everything in the table, without COPIED */
static int count_table(struct snap_edit *x, int by)
{
	struct blk_qcow2 *q = x->q;
	uint32_t step = blk_q_has_extl2(q) ? 16 : 8;

	for (uint64_t i = 0; i < q->cs; i += step) {
		uint8_t *p = x->l2 + i;
		uint64_t c = 0, end = 0;
		uint64_t row = step == 8 ? row_of(x, p, (q->cs - i) / 8) : 0;
		int ret;

		if (!blk_get_be64(p) && (step == 8 || !blk_get_be64(p + 8)))
			continue;
		if (row) {
			ret = count_row(x, p, row, by);
			i += (row - 1) * 8;
		} else {
			ret = clusters_of(x, p, &c, &end);
			if (ret > 0)
				ret = blk_shadow_add(&x->s, c, end - c, by);
			if (!ret)
				set_copied(x, p, false);
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* COPIED where the refcount is 1 */
static int recompute_copied(struct snap_edit *x)
{
	struct blk_qcow2 *q = x->q;
	uint32_t step = blk_q_has_extl2(q) ? 16 : 8;

	for (uint64_t i = 0; i < q->cs; i += step) {
		uint8_t *p = x->l2 + i;
		uint64_t c, end, rc;
		int ret;

		if (!blk_get_be64(p) && (step == 8 || !blk_get_be64(p + 8)))
			continue;
		ret = clusters_of(x, p, &c, &end);
		if (ret > 0 && !(blk_get_be64(p) & QCOW2_L2_COMPRESSED)) {
			ret = blk_shadow_get(&x->s, c, &rc);
			if (!ret)
				set_copied(x, p, rc == 1);
		}
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The table in memory, at a new place of its own */
static int put_l2(struct snap_edit *x, uint64_t *off)
{
	int ret = blk_shadow_take(&x->s, off);

	return ret ? ret : blk_file_write(x->q->f, x->l2, x->q->cs, *off);
}

int blk_snap_l2_share(struct snap_edit *x, uint64_t *entry)
{
	uint64_t off = *entry & QCOW2_OFFSET_MASK, to = off;
	int ret = load_l2(x, off);

	if (!ret)
		ret = count_table(x, 1);
	if (!ret && x->changed) {
		ret = put_l2(x, &to);
		if (!ret)
			ret = blk_shadow_add(&x->s, snap_cluster(x, off), 1, -1);
	}
	if (!ret)
		ret = blk_shadow_add(&x->s, snap_cluster(x, to), 1, 1);
	*entry = to;
	return ret;
}

int blk_snap_l2_adopt(struct snap_edit *x, uint64_t off, uint64_t *entry)
{
	int ret = load_l2(x, off);

	*entry = off;
	if (!ret)
		ret = count_table(x, 1);
	if (ret < 0)
		return ret;
	if (!x->changed)
		return blk_shadow_add(&x->s, snap_cluster(x, off), 1, 1);
	ret = put_l2(x, entry);
	*entry |= QCOW2_ENTRY_COPIED;
	return ret;
}

int blk_snap_l2_drop(struct snap_edit *x, uint64_t off)
{
	int ret = load_l2(x, off);

	if (!ret)
		ret = count_table(x, -1);
	return ret ? ret : blk_shadow_add(&x->s, snap_cluster(x, off), 1, -1);
}

int blk_snap_l2_refresh(struct snap_edit *x, uint64_t *entry)
{
	uint64_t off = *entry & QCOW2_OFFSET_MASK, to = off, rc;
	int ret = blk_shadow_get(&x->s, snap_cluster(x, off), &rc);

	if (!ret && !rc)
		ret = -EUCLEAN;
	if (ret < 0)
		return ret;
	*entry = off;
	if (rc > 1)
		return 0;
	ret = load_l2(x, off);
	if (!ret)
		ret = recompute_copied(x);
	if (!ret && x->changed) {
		ret = put_l2(x, &to);
		if (!ret)
			ret = blk_shadow_add(&x->s, snap_cluster(x, off), 1, -1);
	}
	*entry = to | QCOW2_ENTRY_COPIED;
	return ret;
}
