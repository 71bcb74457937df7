// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Changing the active L1 and L2 tables where the kernel does not.
 *
 * Owns struct blk_edit.  Must not change a table in place that a snapshot
 * shares, and must not drop a reference before the table without it is
 * durable.  Locking: the caller holds q->lock.
 *
 * Order: refcounts of new clusters; flush; a new table, or the sectors of an
 * old one; flush; the L1 entry of a new table; flush; refcounts of what is not
 * referred to any more.  A crash leaks, and does nothing else.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_edit_int.h"

static uint32_t entry_bytes(const struct blk_edit *d)
{
	return blk_q_has_extl2(d->q) ? 16 : 8;
}

static int load_l1(struct blk_edit *d)
{
	struct blk_error e = { .err = 0 };
	struct blk_qcow2 *q = d->q;

	d->l1_n = q->h.l1_size;
	return d->l1_n ? blk_walk_l1(q, q->h.l1_table_offset, d->l1_n, &d->l1,
				     &e) : 0;
}

int blk_edit_open(struct blk_edit *d, struct blk_qcow2 *q)
{
	memset(d, 0, sizeof(*d));
	d->q = q;
	d->want = 1;
	d->entries = q->cs / entry_bytes(d);
	d->freed = calloc(BLK_EDIT_FREED + d->entries + 1, sizeof(*d->freed));
	if (!d->freed || posix_memalign((void **)&d->l2, 4096,
					BLK_MAX(q->cs, 4096U)))
		return -ENOMEM;
	return load_l1(d);
}

void blk_edit_close(struct blk_edit *d)
{
	struct dm_qcow_run unused = { .offset = d->at, .length = d->q->cs };
	int ret = 0;

	if (d->is_new)		/* nothing refers to it */
		ret = blk_release_runs(d->q, &unused, 1);
	if (!ret && d->n_pool)
		ret = blk_release_runs(d->q, d->pool, d->n_pool);
	d->q->leaked |= ret < 0;
	free(d->l1);
	free(d->l2);
	free(d->freed);
}

static int refill(struct blk_edit *d)
{
	struct blk_qcow2 *q = d->q;
	size_t n = BLK_EDIT_POOL;
	int ret;

	ret = blk_alloc_runs(q, BLK_MIN(BLK_MAX(d->want, 1U), 256U), d->pool,
			     &n);
	if (ret < 0)
		return ret;
	d->n_pool = n;
	for (size_t i = 0; i < n && !ret; i++)
		ret = blk_grow_claim(q, d->pool[i].offset, d->pool[i].length);
	return ret;
}

int blk_edit_alloc(struct blk_edit *d, uint64_t *off)
{
	struct dm_qcow_run *r;
	int ret = d->n_pool ? 0 : refill(d);

	if (ret < 0)
		return ret;
	r = &d->pool[d->n_pool - 1];
	*off = r->offset;
	r->offset += d->q->cs;
	r->length -= d->q->cs;
	if (!r->length)
		d->n_pool--;
	d->want -= d->want > 0;
	return 0;
}

int blk_edit_load(struct blk_edit *d, uint32_t index, bool create)
{
	struct blk_qcow2 *q = d->q;
	int64_t size = blk_q_rounded_size(q);
	int ret;

	if (size < 0)
		return (int)size;
	d->file_size = (uint64_t)size;
	d->index = index;
	d->at = d->l1[index] & QCOW2_OFFSET_MASK;
	d->lo = d->hi = 0;
	if (d->at)
		return blk_file_read(q->f, d->l2, q->cs, d->at);
	if (!create)
		return 0;
	ret = blk_edit_alloc(d, &d->at);
	if (ret < 0) {
		d->at = 0;
		return ret;
	}
	memset(d->l2, 0, q->cs);
	d->is_new = true;
	return 0;
}

uint64_t blk_edit_entry(const struct blk_edit *d, uint64_t i, uint64_t *bitmap)
{
	const uint8_t *p = d->l2 + i * entry_bytes(d);

	*bitmap = blk_q_has_extl2(d->q) ? blk_get_be64(p + 8) : 0;
	return blk_get_be64(p);
}

int blk_edit_check(const struct blk_edit *d, uint64_t entry, uint64_t bitmap)
{
	const struct blk_qcow2 *q = d->q;
	bool elsewhere = blk_q_has_data_file(q);

	if (qcow2_l2_check(entry, q->h.cluster_bits,
			   elsewhere ? UINT64_MAX : d->file_size,
			   q->h.version) ||
	    (elsewhere && entry & QCOW2_L2_COMPRESSED))
		return -EUCLEAN;
	if (blk_q_has_extl2(q) &&
	    qcow2_extl2_check(entry, bitmap, entry & QCOW2_OFFSET_MASK ||
			      (elsewhere && entry & QCOW2_ENTRY_COPIED)))
		return -EUCLEAN;
	return 0;
}

/*
 * COPIED is believed only together with the refcount: a table that is changed
 * in place although a snapshot has it would destroy the snapshot.
 */
static int own_table(struct blk_edit *d)
{
	struct blk_qcow2 *q = d->q;
	uint64_t rc, off;
	int ret;

	if (d->is_new)
		return 0;
	ret = blk_refcount_read(q, d->at >> q->h.cluster_bits, &rc);
	if (ret < 0)
		return ret;
	if (!rc)
		return -EUCLEAN;
	if (rc == 1 && d->l1[d->index] & QCOW2_ENTRY_COPIED)
		return 0;
	ret = blk_edit_alloc(d, &off);
	if (ret < 0)
		return ret;
	d->at = off;
	d->is_new = true;
	return 0;
}

int blk_edit_set(struct blk_edit *d, uint64_t i, uint64_t entry,
		 uint64_t bitmap)
{
	uint32_t bytes = entry_bytes(d);
	uint8_t *p = d->l2 + i * bytes;
	int ret = own_table(d);

	if (ret < 0)
		return ret;
	blk_put_be64(p, entry);
	if (bytes == 16)
		blk_put_be64(p + 8, bitmap);
	if (d->lo == d->hi) {
		d->lo = i * bytes;
		d->hi = d->lo + bytes;
	}
	d->lo = BLK_MIN(d->lo, i * bytes);
	d->hi = BLK_MAX(d->hi, (i + 1) * bytes);
	return 0;
}

void blk_edit_free(struct blk_edit *d, uint64_t entry)
{
	struct blk_qcow2 *q = d->q;
	struct dm_qcow_run *last = d->n_freed ?
		&d->freed[d->n_freed - 1] : NULL;
	struct dm_qcow_run run = {
		.offset = entry & QCOW2_OFFSET_MASK, .length = q->cs,
	};

	if (blk_q_has_data_file(q))
		return;
	if (entry & QCOW2_L2_COMPRESSED) {
		run.offset = qcow2_compressed_offset(entry, q->h.cluster_bits);
		run.length = qcow2_compressed_length(entry, q->h.cluster_bits);
		run.flags = DM_QCOW_RUN_COMPRESSED;
	} else if (!run.offset) {
		return;
	}
	if (last && !run.flags && !last->flags &&
	    last->offset + last->length == run.offset) {
		last->length += run.length;
		return;
	}
	d->freed[d->n_freed++] = run;
}

static int drop_freed(struct blk_edit *d, bool *bad)
{
	size_t n = d->n_freed;

	d->n_freed = 0;
	return n ? blk_release_judged(d->q, d->freed, n, bad) : 0;
}

static int write_l1(struct blk_edit *d, uint32_t index, uint64_t entry)
{
	struct blk_qcow2 *q = d->q;
	uint8_t be[8];
	int ret;

	blk_put_be64(be, entry);
	ret = blk_file_write(q->f, be, 8, q->h.l1_table_offset + index * 8ULL);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (!ret)
		d->l1[index] = entry;
	return ret;
}

/* Only its reference in the L1 is dropped: what it refers to is in the copy. */
static int drop_old_table(struct blk_qcow2 *q, uint64_t entry)
{
	struct dm_qcow_run run = {
		.offset = entry & QCOW2_OFFSET_MASK, .length = q->cs,
	};
	bool refused = false;
	int ret = run.offset ? blk_release_judged(q, &run, 1, &refused) : 0;

	q->leaked |= refused;
	return ret;
}

int blk_edit_store(struct blk_edit *d)
{
	struct blk_qcow2 *q = d->q;
	uint64_t old = d->l1[d->index];
	bool bad = false;
	int ret;

	if (!d->is_new && d->lo == d->hi)
		return 0;
	ret = blk_q_write_table(q, d->l2, d->at, d->is_new ? 0 : d->lo,
				d->is_new ? q->cs : d->hi);
	if (!ret)
		ret = blk_file_flush(q->f);
	if (!ret && d->is_new)
		ret = write_l1(d, d->index, d->at | QCOW2_ENTRY_COPIED);
	if (!ret && d->is_new)
		ret = drop_old_table(q, old);
	if (!ret)
		ret = drop_freed(d, &bad);
	d->is_new = false;	/* after an error the disk may know it */
	d->lo = d->hi = 0;
	q->leaked |= bad || ret < 0;
	return ret;
}

/*
 * Every reference of the table in memory, and the one to it.  Several tables
 * share the flush of their refcounts.
 */
static int free_table(struct blk_edit *d, bool *bad)
{
	for (uint64_t i = 0; i < d->entries; i++) {
		uint64_t bitmap, entry = blk_edit_entry(d, i, &bitmap);

		if (blk_edit_check(d, entry, bitmap))
			*bad = true;
		else
			blk_edit_free(d, entry);
	}
	d->freed[d->n_freed++] = (struct dm_qcow_run){
		.offset = d->at, .length = d->q->cs,
	};
	return d->n_freed >= BLK_EDIT_FREED ? drop_freed(d, bad) : 0;
}

/* The entries from @from on of a table that stays */
static int cut_in_table(struct blk_edit *d, uint64_t from, bool *bad)
{
	int ret = 0;

	for (uint64_t i = from; i < d->entries && !ret; i++) {
		uint64_t bitmap, entry = blk_edit_entry(d, i, &bitmap);

		if (!entry && !bitmap)
			continue;
		if (blk_edit_check(d, entry, bitmap))
			*bad = true;
		else
			blk_edit_free(d, entry);
		ret = blk_edit_set(d, i, 0, 0);
	}
	return ret ? ret : blk_edit_store(d);
}

/* Zeroes the L1 from entry @from on, durably. */
static int cut_l1(struct blk_edit *d, uint32_t from)
{
	struct blk_qcow2 *q = d->q;
	uint64_t a = BLK_MIN(q->f->align, q->cs);
	uint64_t bytes = blk_align_up(d->l1_n * 8ULL, a);
	uint8_t *be;
	int ret;

	if (posix_memalign((void **)&be, 4096, blk_align_up(bytes, 4096)))
		return -ENOMEM;
	memset(be, 0, bytes);
	for (uint32_t i = 0; i < from; i++)
		blk_put_be64(be + i * 8ULL, d->l1[i]);
	ret = blk_q_write_table(q, be, q->h.l1_table_offset, from * 8ULL,
				d->l1_n * 8ULL);
	free(be);
	return ret ? ret : blk_file_flush(q->f);
}

static int cut_tables(struct blk_edit *d, uint32_t from, bool *bad)
{
	uint32_t first = from;
	int ret;

	while (first < d->l1_n && !(d->l1[first] & QCOW2_OFFSET_MASK))
		first++;
	if (first == d->l1_n)
		return 0;
	ret = cut_l1(d, from);
	for (uint32_t i = first; i < d->l1_n && !ret; i++) {
		ret = blk_edit_load(d, i, false);
		if (!ret && d->at)
			ret = free_table(d, bad);
		d->l1[i] = 0;
	}
	return ret ? ret : drop_freed(d, bad);
}

int blk_edit_cut(struct blk_edit *d, uint64_t guest, bool *bad)
{
	uint32_t span = qcow2_l2_span_bits(&d->q->h);
	uint64_t index = guest >> span;
	uint64_t entry = (guest & ((1ULL << span) - 1)) >>
		d->q->h.cluster_bits;
	int ret;

	if (index >= d->l1_n)
		return 0;
	if (entry) {
		ret = blk_edit_load(d, (uint32_t)index, false);
		if (!ret && d->at)
			ret = cut_in_table(d, entry, bad);
		if (ret < 0)
			return ret;
		index++;
	}
	return cut_tables(d, (uint32_t)index, bad);
}
