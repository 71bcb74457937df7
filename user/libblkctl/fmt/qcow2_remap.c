// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Changing what an image maps, entry by entry.
 *
 * Owns a reserve of clusters, clusters that are being packed, and the order:
 * data durable, and refcounts, then tables, then what they do not refer to any
 * more is freed (struct blk_edit).  Locking: all functions take q->lock.
 */
#include "fmt/remap.h"

#include <errno.h>
#include <string.h>

#include "fmt/qcow2_edit_int.h"
#include "qcow2/refcount.h"

#define POOL_CLUSTERS	256U
#define POOL_RUNS	16U
#define PACKED		256U

/* References to a cluster that are not in its refcount yet */
struct packed {
	uint64_t cluster;
	uint64_t refs;
};

/**
 * struct blk_remap - an editor, and clusters in reserve
 * @loaded: @d has a table in memory, or knows that there is none
 * @run, @n_runs, @first: the reserve: runs [first, n_runs)
 * @pack_at: where the last compressed data ends
 * @pack_refs: references to the cluster that is there
 * @packed, @n_packed: what settle() has to count
 */
struct blk_remap {
	struct blk_qcow2 *q;
	struct blk_file *data;
	struct blk_edit d;
	bool loaded;
	struct dm_qcow_run run[POOL_RUNS];
	size_t n_runs;
	size_t first;
	uint64_t pack_at;
	uint64_t pack_refs;
	struct packed packed[PACKED];
	size_t n_packed;
};

static int failed(struct blk_remap *r, int ret, struct blk_error *e)
{
	if (ret == -EUCLEAN)
		return blk_q_corrupt(r->q, e,
				     "its tables are not as they must be");
	if (ret == -ENOSPC)
		return blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				     "no space left for '%s'", r->q->f->path);
	return ret < 0 ? blk_q_io_error(r->q, e, ret, "change the tables") :
		ret;
}

int blk_remap_open(struct blk_qcow2 *q, struct blk_file *data,
		   struct blk_remap **out, struct blk_error *e)
{
	struct blk_remap *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	blk_guard_mutex(&q->lock);
	r->q = q;
	r->data = data;
	ret = q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT ?
		blk_q_corrupt(q, e, "it is marked as corrupt") :
		blk_alloc_prepare(q, e);
	if (!ret)
		ret = failed(r, blk_edit_open(&r->d, q), e);
	if (ret < 0) {
		free(r->d.l1);
		free(r->d.l2);
		free(r->d.freed);
		free(r);
		return ret;
	}
	*out = r;
	return 0;
}

static int count_one(struct blk_qcow2 *q, const struct packed *p)
{
	uint64_t i = p->cluster & ((1ULL << q->rb_bits) - 1);
	struct blk_slot *s;
	int ret = blk_slot_get(q, p->cluster >> q->rb_bits, &s);

	if (ret == -ENOBUFS) {
		ret = blk_slots_commit(q);
		if (!ret)
			ret = blk_slot_get(q, p->cluster >> q->rb_bits, &s);
	}
	if (!ret)
		blk_slot_set(q, s, i, p->refs +
			     blk_refcount_get(s->buf, q->h.refcount_order, i));
	return ret == -ENOENT ? -EUCLEAN : ret;
}

/* An error in the middle may count too much, and never too little. */
static int count_packed(struct blk_remap *r)
{
	struct blk_qcow2 *q = r->q;
	int ret = 0;

	if (!r->n_packed)
		return 0;
	for (size_t i = 0; i < r->n_packed && !ret; i++)
		ret = count_one(q, &r->packed[i]);
	if (ret < 0)
		blk_slots_abort(q, true);
	else
		ret = blk_slots_commit(q);
	if (!ret)
		r->n_packed = 0;
	return ret;
}

static int settle(struct blk_remap *r)
{
	int ret = count_packed(r);

	if (ret || !r->loaded || (!r->d.is_new && r->d.lo == r->d.hi))
		return ret;
	ret = blk_file_flush(r->data);
	return ret ? ret : blk_edit_store(&r->d);
}

int blk_remap_settle(struct blk_remap *r, struct blk_error *e)
{
	blk_guard_mutex(&r->q->lock);
	return failed(r, settle(r), e);
}

static int give_back(struct blk_remap *r, struct blk_error *e)
{
	struct blk_qcow2 *q = r->q;
	int ret;

	blk_guard_mutex(&q->lock);
	ret = failed(r, settle(r), e);
	if (r->n_runs > r->first &&
	    blk_release_runs(q, r->run + r->first, r->n_runs - r->first) < 0)
		q->leaked = true;
	blk_edit_close(&r->d);
	return ret;
}

int blk_remap_close(struct blk_remap *r, struct blk_error *e)
{
	struct blk_qcow2 *q;
	int ret;

	if (!r)
		return 0;
	q = r->q;
	ret = give_back(r, e);
	/* the reserve was behind the end, more often than not */
	if (!ret)
		ret = blk_qcow2_trim(q, e);
	free(r);
	blk_guard_mutex(&q->lock);
	blk_alloc_forget(q);
	return ret;
}

/* The table for @guest; *@i: its entry in there */
static int load(struct blk_remap *r, uint64_t guest, bool create, uint64_t *i)
{
	const struct qcow2_header *h = &r->q->h;
	uint32_t span = qcow2_l2_span_bits(h);
	uint64_t index = guest >> span;
	int ret = 0;

	*i = (guest & ((1ULL << span) - 1)) >> h->cluster_bits;
	if (index >= r->d.l1_n)
		return -EUCLEAN;
	if (r->loaded && r->d.index == index && (r->d.at || !create))
		return 0;
	ret = settle(r);
	r->loaded = false;
	if (!ret)
		ret = blk_edit_load(&r->d, (uint32_t)index, create);
	r->loaded = !ret;
	return ret;
}

int blk_remap_get(struct blk_remap *r, uint64_t guest, uint64_t *entry,
		  uint64_t *bitmap, struct blk_error *e)
{
	uint64_t i;
	int ret;

	blk_guard_mutex(&r->q->lock);
	ret = load(r, guest, false, &i);
	*entry = *bitmap = 0;
	if (!ret && r->d.at) {
		*entry = blk_edit_entry(&r->d, i, bitmap);
		ret = blk_edit_check(&r->d, *entry, *bitmap);
	}
	return failed(r, ret, e);
}

int blk_remap_is_own(struct blk_remap *r, uint64_t entry, struct blk_error *e)
{
	struct blk_qcow2 *q = r->q;
	uint64_t host = entry & QCOW2_OFFSET_MASK, rc;
	int ret;

	if (entry & QCOW2_L2_COMPRESSED)
		return 0;
	if (blk_q_has_data_file(q))
		return host || entry & QCOW2_ENTRY_COPIED;
	if (!host || !(entry & QCOW2_ENTRY_COPIED))
		return 0;
	blk_guard_mutex(&q->lock);
	ret = blk_refcount_read(q, host >> q->h.cluster_bits, &rc);
	if (!ret && !rc)
		ret = -EUCLEAN;
	return ret ? failed(r, ret, e) : rc == 1;
}

static int refill(struct blk_remap *r)
{
	struct blk_qcow2 *q = r->q;
	size_t n = POOL_RUNS;
	int64_t size;
	int ret;

	q->as_they_are = true;	/* whole clusters will be written */
	ret = blk_alloc_runs(q, POOL_CLUSTERS, r->run, &n);
	q->as_they_are = false;
	r->first = 0;
	r->n_runs = ret ? 0 : n;
	size = blk_q_rounded_size(q);
	if (size < 0)
		return (int)size;
	r->d.file_size = (uint64_t)size;	/* what entries may name */
	return ret;
}

static int take_one(struct blk_remap *r, uint64_t *off)
{
	struct dm_qcow_run *run;
	int ret = r->first < r->n_runs ? 0 : refill(r);

	if (ret < 0)
		return ret;
	run = &r->run[r->first];
	*off = run->offset;
	run->offset += r->q->cs;
	run->length -= r->q->cs;
	if (!run->length)
		r->first++;
	return 0;
}

int blk_remap_alloc(struct blk_remap *r, uint64_t *off, struct blk_error *e)
{
	blk_guard_mutex(&r->q->lock);
	return failed(r, take_one(r, off), e);
}

/* One more reference to the cluster at @off, which has some */
static int add_ref(struct blk_remap *r, uint64_t off)
{
	uint64_t cluster = off >> r->q->h.cluster_bits;
	int ret = 0;

	if (r->n_packed && r->packed[r->n_packed - 1].cluster == cluster) {
		r->packed[r->n_packed - 1].refs++;
		return 0;
	}
	if (r->n_packed == PACKED)
		ret = count_packed(r);
	if (!ret)
		r->packed[r->n_packed++] = (struct packed){
			.cluster = cluster, .refs = 1,
		};
	return ret;
}

/* In the cluster that has some already, and perhaps the one behind it */
static int pack(struct blk_remap *r, size_t size, uint64_t *off)
{
	uint64_t cs = r->q->cs, in = r->pack_at & (cs - 1), fresh;
	bool partly = in && r->pack_refs <
		blk_refcount_max(r->q->h.refcount_order);
	int ret = 0;

	if (partly && cs - in >= size) {
		r->pack_refs++;
		ret = add_ref(r, r->pack_at);
	} else {
		ret = take_one(r, &fresh);
		if (ret < 0)
			return ret;
		if (partly && r->pack_at - in + cs == fresh)
			ret = add_ref(r, r->pack_at);
		else
			r->pack_at = fresh;
		r->pack_refs = 1;
	}
	*off = r->pack_at;
	r->pack_at += size;
	return ret;
}

int blk_remap_pack(struct blk_remap *r, size_t size, uint64_t *off,
		   struct blk_error *e)
{
	blk_guard_mutex(&r->q->lock);
	return failed(r, pack(r, size, off), e);
}

/* What loses a reference may become free: nothing more goes there. */
static void stop_packing(struct blk_remap *r, uint64_t entry)
{
	uint32_t bits = r->q->h.cluster_bits;
	uint64_t off = qcow2_compressed_offset(entry, bits);
	uint64_t last = off + qcow2_compressed_length(entry, bits) - 1;

	if (r->pack_at >> bits >= off >> bits &&
	    r->pack_at >> bits <= last >> bits)
		r->pack_at = 0;
}

int blk_remap_set(struct blk_remap *r, uint64_t guest, uint64_t entry,
		  uint64_t bitmap, struct blk_error *e)
{
	uint64_t i, old, old_bitmap;
	int ret;

	blk_guard_mutex(&r->q->lock);
	ret = r->d.n_freed < BLK_EDIT_FREED ? 0 : settle(r);
	if (!ret)
		ret = load(r, guest, true, &i);
	if (ret < 0)
		return failed(r, ret, e);
	old = blk_edit_entry(&r->d, i, &old_bitmap);
	if (old == entry && old_bitmap == bitmap)
		return 0;
	if (old & QCOW2_L2_COMPRESSED)
		stop_packing(r, old);
	ret = blk_edit_set(&r->d, i, entry, bitmap);
	if (!ret && ((old | entry) & QCOW2_L2_COMPRESSED ||
		     (old ^ entry) & QCOW2_OFFSET_MASK))
		blk_edit_free(&r->d, old);
	return failed(r, ret, e);
}

const uint8_t *blk_remap_peek(struct blk_remap *r, uint64_t guest,
			      uint64_t *l1)
{
	uint64_t index = guest >> qcow2_l2_span_bits(&r->q->h);

	blk_guard_mutex(&r->q->lock);
	*l1 = index < r->d.l1_n ? r->d.l1[index] : 0;
	return r->loaded && r->d.index == index && r->d.at ? r->d.l2 : NULL;
}
