// SPDX-License-Identifier: GPL-2.0-only
/*
 * Look-ups.
 *
 * A table has one list of layers, and a read goes down it until a layer has
 * something.  So that a deep chain costs no more than a short one, the table
 * remembers for clusters of the top image which layer is the first that has
 * anything there: t->skip, a direct-mapped array, a word for a cluster.
 *
 *   63..9  number of the cluster     8..0  layer, t->nr_layers: none has; 0:
 *                                          the slot is empty
 *
 * A word is read and written as one, so there is no lock and nothing to free.
 * It stays true because layers below the top are not written while a table is
 * in use (image.c lets no writer in beside a reader).
 *
 * Locking: RCU for slices.  Extended entries are two words, which seq makes
 * one for readers.
 */
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/slab.h>

#include "lookup.h"
#include "pending.h"
#include "slice.h"
#include "target.h"

#define SKIP_LAYER_BITS	9
#define SKIP_LAYER_MASK	((1U << SKIP_LAYER_BITS) - 1)
#define SKIP_SLOTS_MAX	(512 << 10)	/* 4 MiB */

/* No slice: nothing is mapped there if there is no L2 table. */
static enum qcow_found lookup_l1(struct qcow_image *img, u64 guest,
				 struct qcow_extent *x)
{
	struct qcow_l1 *l1 = rcu_dereference(img->l1);
	u64 span = 1ULL << img->l2_span_bits;

	x->slice = NULL;
	if (READ_ONCE(l1->entry[guest >> img->l2_span_bits]) &
	    QCOW2_OFFSET_MASK)
		return QCOW_FOUND_MISS;
	x->len = min(x->len, span - (guest & (span - 1)));
	return QCOW_FOUND_NONE;
}

/* An entry and its bitmap as they were at one moment. */
static u64 ext_read(struct qcow_slice *s, u32 i, u64 *bitmap)
{
	const u64 *e = qcow_ent(s, i);
	unsigned int seq;
	u64 entry;

	do {
		seq = read_seqcount_begin(&s->seq);
		entry = READ_ONCE(e[0]);
		*bitmap = READ_ONCE(e[1]);
	} while (read_seqcount_retry(&s->seq, seq));
	return qcow_entry_settled(entry);
}

static enum qcow_found ext_type(const struct qcow_image *img, u64 e,
				u64 bitmap, u32 sc)
{
	if (e & QCOW2_L2_COMPRESSED)
		return QCOW_FOUND_COMPRESSED;
	if (bitmap & QCOW2_EXTL2_ALLOC(sc) && qcow_has_cluster(img, e))
		return QCOW_FOUND_HOST;
	return bitmap & QCOW2_EXTL2_ZERO(sc) ? QCOW_FOUND_ZERO :
		QCOW_FOUND_NONE;
}

/* The run of subclusters of one kind, over entries that follow each other. */
static enum qcow_found lookup_ext(struct qcow_slice *s, u64 guest, bool write,
				  struct qcow_extent *x)
{
	struct qcow_image *img = s->img;
	u32 cs = img->cluster_size, scs = 1U << img->sc_bits;
	u32 i = qcow_slice_index(img, guest), n = qcow_slice_entries(img);
	u32 sc = (guest & (cs - 1)) >> img->sc_bits;
	u64 run = scs - (guest & (scs - 1)), bitmap, next;
	u64 e = ext_read(s, i, &bitmap);
	enum qcow_found found = ext_type(img, e, bitmap, sc);

	x->host = e;
	if (found == QCOW_FOUND_COMPRESSED) {
		x->len = min_t(u64, x->len, cs - (guest & (cs - 1)));
		return write ? QCOW_FOUND_OTHER : found;
	}
	if (write && (found != QCOW_FOUND_HOST || !(e & QCOW2_ENTRY_COPIED)))
		return QCOW_FOUND_OTHER;
	x->host = (e & QCOW2_OFFSET_MASK) + (guest & (cs - 1));
	while (run < x->len) {
		if (++sc == QCOW2_SUBCLUSTERS) {
			if (++i == n)
				break;
			sc = 0;
			next = ext_read(s, i, &bitmap);
			if (found == QCOW_FOUND_HOST && next != e + cs)
				break;
			e = next;
		}
		if (ext_type(img, e, bitmap, sc) != found)
			break;
		run += scs;
	}
	x->len = min(x->len, run);
	return found;
}

/* Neither a cluster in place nor a compressed one. */
static enum qcow_found entry_empty_type(const struct qcow_image *img, u64 e)
{
	e = qcow_entry_settled(e);
	if (e & QCOW2_L2_COMPRESSED)
		return QCOW_FOUND_COMPRESSED;
	if (e & QCOW2_L2_ZERO)
		return QCOW_FOUND_ZERO;
	return qcow_has_cluster(img, e) ? QCOW_FOUND_HOST : QCOW_FOUND_NONE;
}

enum qcow_found qcow_lookup(struct qcow_image *img, u64 guest, bool write,
			    struct qcow_extent *x)
{
	struct qcow_slice *s = qcow_slice_find(img, guest);
	u32 cs = img->cluster_size;
	u64 run = cs - (guest & (cs - 1));
	enum qcow_found found;
	u32 i, n;
	u64 e;

	if (unlikely(!s))
		return lookup_l1(img, guest, x);
	x->slice = s;
	if (unlikely(img->ext))
		return lookup_ext(s, guest, write, x);
	i = qcow_slice_index(img, guest);
	n = qcow_slice_entries(img);
	e = qcow_entry_settled(smp_load_acquire(&s->ent[i]));
	if (likely(!(e & (QCOW2_L2_COMPRESSED | QCOW2_L2_ZERO)) &&
		   qcow_has_cluster(img, e))) {
		if (write && !(e & QCOW2_ENTRY_COPIED))
			return QCOW_FOUND_OTHER;
		x->host = (e & QCOW2_OFFSET_MASK) + (guest & (cs - 1));
		while (run < x->len && ++i < n) {
			e += cs;
			if (qcow_entry_settled(READ_ONCE(s->ent[i])) != e)
				break;
			run += cs;
		}
		x->len = min(x->len, run);
		return QCOW_FOUND_HOST;
	}
	if (write)
		return QCOW_FOUND_OTHER;
	found = entry_empty_type(img, e);
	x->host = e;
	while (found != QCOW_FOUND_COMPRESSED && run < x->len && ++i < n &&
	       entry_empty_type(img, READ_ONCE(s->ent[i])) == found)
		run += cs;
	x->len = min(x->len, run);
	return found;
}

/*
 * The layers below
 */

#define NO_MISS	U64_MAX

/* Is all of [from, to) unallocated in the layer?  *@miss: or not in memory. */
static bool layer_is_empty(struct qcow_layer *layer, u64 from, u64 to,
			   u64 *miss)
{
	if (!layer->img || to > layer->size)
		return false;
	while (from < to) {
		struct qcow_extent x = { .len = to - from };

		switch (qcow_lookup(layer->img, from, false, &x)) {
		case QCOW_FOUND_NONE:
			from += x.len;
			break;
		case QCOW_FOUND_MISS:
			*miss = from;
			return false;
		default:
			return false;
		}
	}
	return true;
}

/*
 * The first layer below the top that may have something in a cluster; @from:
 * an earlier answer.  *@miss: where a slice of that layer must be loaded to
 * know more, or NO_MISS; only then the answer is remembered.
 */
static unsigned int skip_find(struct qcow_target *t, u64 nr, unsigned int from,
			      u64 *miss)
{
	u64 *slot = &t->skip[nr & t->skip_mask];
	u64 v = READ_ONCE(*slot), start, end;
	unsigned int l;

	*miss = NO_MISS;
	if (likely(v >> SKIP_LAYER_BITS == nr && v & SKIP_LAYER_MASK))
		return v & SKIP_LAYER_MASK;
	start = nr << t->img->cluster_bits;
	end = min(start + t->img->cluster_size, t->layers[0].size);
	for (l = max(from, 1U); l < t->nr_layers; l++) {
		/* where it has ended, all that follows is zeroes */
		if (start >= t->layers[l].size) {
			l = t->nr_layers;
			break;
		}
		if (!layer_is_empty(&t->layers[l], start, end, miss))
			break;
	}
	if (*miss == NO_MISS)
		WRITE_ONCE(*slot, nr << SKIP_LAYER_BITS | l);
	return l;
}

/* How many of @want bytes have the same first layer. */
static u64 skip_run(struct qcow_target *t, u64 guest, u64 want,
		    unsigned int layer)
{
	u32 cs = t->img->cluster_size;
	u64 nr = guest >> t->img->cluster_bits;
	u64 run = cs - (guest & (cs - 1));

	while (run < want) {
		nr++;
		if (READ_ONCE(t->skip[nr & t->skip_mask]) !=
		    (nr << SKIP_LAYER_BITS | layer))
			break;
		run += cs;
	}
	return min(run, want);
}

static enum qcow_found lookup_below(struct qcow_target *t, u64 guest,
				    unsigned int from, struct qcow_extent *x)
{
	struct qcow_extent y;
	enum qcow_found found;
	unsigned int l;
	u64 miss;

	/* a miss elsewhere in the cluster does not keep this from going on */
	l = skip_find(t, guest >> t->img->cluster_bits, from, &miss);
	x->from = l;
	x->len = skip_run(t, guest, x->len, l);
	for (; l < t->nr_layers; l++) {
		struct qcow_layer *layer = &t->layers[l];

		if (guest >= layer->size)
			break;
		x->len = min(x->len, layer->size - guest);
		x->layer = l;
		if (!layer->img) {
			x->host = guest;
			return QCOW_FOUND_HOST;
		}
		y.len = x->len;
		found = qcow_lookup(layer->img, guest, false, &y);
		x->len = y.len;
		x->host = y.host;
		if (found != QCOW_FOUND_NONE)
			return found;
	}
	return QCOW_FOUND_ZERO;
}

enum qcow_found qcow_lookup_layers(struct qcow_target *t, u64 guest,
				   unsigned int from, struct qcow_extent *x)
{
	enum qcow_found found = qcow_lookup(t->img, guest, false, x);

	x->layer = 0;
	x->from = 0;
	if (likely(found != QCOW_FOUND_NONE))
		return found;
	return t->nr_layers == 1 ? QCOW_FOUND_ZERO :
		lookup_below(t, guest, from, x);
}

bool qcow_probe_below(struct qcow_target *t, u64 guest, unsigned int *from,
		      u64 *miss)
{
	*from = skip_find(t, guest >> t->img->cluster_bits, *from, miss);
	return *miss == NO_MISS;
}

bool qcow_zero_below(struct qcow_target *t, u64 guest)
{
	unsigned int from = 0;
	u64 miss;

	return t->nr_layers == 1 ||
		(qcow_probe_below(t, guest, &from, &miss) &&
		 from == t->nr_layers);
}

bool qcow_zero_known(struct qcow_target *t, u64 guest)
{
	u64 nr = guest >> t->img->cluster_bits;

	return t->nr_layers == 1 ||
		READ_ONCE(t->skip[nr & t->skip_mask]) ==
		(nr << SKIP_LAYER_BITS | t->nr_layers);
}

bool qcow_reads_zero(struct qcow_target *t, u64 guest)
{
	struct qcow_extent x = { .len = 1 };
	enum qcow_found found = qcow_lookup(t->img, guest, false, &x);

	return found == QCOW_FOUND_ZERO ||
		(found == QCOW_FOUND_NONE && qcow_zero_below(t, guest));
}

int qcow_skip_init(struct qcow_target *t)
{
	u64 clusters = (t->layers[0].size >> t->img->cluster_bits) + 1;
	u64 slots;

	if (t->nr_layers == 1)
		return 0;
	slots = min_t(u64, roundup_pow_of_two(clusters), SKIP_SLOTS_MAX);
	t->skip = kvcalloc(slots, sizeof(*t->skip), GFP_KERNEL);
	t->skip_mask = slots - 1;
	return t->skip ? 0 : -ENOMEM;
}

void qcow_skip_forget(struct qcow_target *t)
{
	if (t->skip)
		memset(t->skip, 0, (t->skip_mask + 1) * sizeof(*t->skip));
}
