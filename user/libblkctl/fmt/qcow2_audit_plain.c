// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * L2 entries that are as nearly all are: nothing, or a cluster of data in the
 * file, with COPIED if its refcount is 1.
 *
 * Owns the inner loop of a check.  Must not judge: an entry that differs in any
 * way is left to fmt/qcow2_audit_tables.c.  Locking: none, a reader's state is
 * its own.
 *
 * Clusters that follow each other in the file are taken up to 64 at once, as
 * many as bits of a word say whether refcounts are 1.
 */
#include "fmt/qcow2_audit_int.h"

#define AT_ONCE	64U

static bool is_nothing(const uint8_t *p, bool ext)
{
	return !blk_get_be64(p) && (!ext || !blk_get_be64(p + 8));
}

/* How many clusters from @c have a refcount of 1, or another one: 1 to 64 */
static uint64_t count_alike(const struct audit *a, uint64_t c, bool one)
{
	const uint64_t *w = &a->single[c / 64];
	uint64_t differ = w[0] >> (c % 64);

	if (c % 64)
		differ |= w[1] << (64 - c % 64);
	if (one)
		differ = ~differ;
	return differ ? (uint64_t)__builtin_ctzll(differ) : AT_ONCE;
}

static bool contradicts(const uint8_t *p)
{
	uint64_t bitmap = blk_get_be64(p + 8);

	return bitmap >> 32 & bitmap;
}

/* How many of @n entries are @entry, the next cluster, and so on */
static uint64_t count_row(const uint8_t *p, uint64_t n, uint64_t entry,
			  uint64_t cs, bool ext)
{
	uint64_t k = 0;

	if (!ext)
		while (k < n && blk_get_be64(p + k * 8) == entry + k * cs)
			k++;
	else
		while (k < n && blk_get_be64(p + k * 16) == entry + k * cs &&
		       !contradicts(p + k * 16))
			k++;
	return k;
}

static int count_refs(struct audit_reader *r, uint64_t c, uint64_t n)
{
	const struct blk_refs_page *p =
		&r->refs->page[c >> BLK_REFS_PAGE_BITS];
	uint64_t i = c & (BLK_REFS_PAGE - 1);

	if (n > 1 || !p->mem || p->order ||
	    r->t->all > (uint32_t)UINT8_MAX - p->u8[i])
		return blk_refs_add_run(r->refs, c, n, r->t->all);
	p->u8[i] = (uint8_t)(p->u8[i] + r->t->all);
	return 0;
}

/* Clusters in a row, from the entry at @p on: 0 if it is not plain */
static uint64_t take_row(struct audit_reader *r, const uint8_t *p, uint64_t n,
			 bool ext)
{
	const struct audit *a = r->a;
	uint64_t entry = blk_get_be64(p), off = entry & QCOW2_OFFSET_MASK;
	uint64_t c = off >> a->q->h.cluster_bits;

	if (!off || off & (a->q->cs - 1) || c >= a->clusters ||
	    entry & ~(QCOW2_OFFSET_MASK | QCOW2_ENTRY_COPIED))
		return 0;
	n = BLK_MIN(n, a->clusters - c);
	n = BLK_MIN(n, AT_ONCE);
	/* of snapshots COPIED says nothing, nor of the header as a table */
	if (r->t->active && r->t->off)
		n = BLK_MIN(n, count_alike(a, c, entry & QCOW2_ENTRY_COPIED));
	n = n ? count_row(p, n, entry, a->q->cs, ext) : 0;
	if (!n)
		return 0;
	r->ret = count_refs(r, c, n);
	r->s.allocated += n * r->t->active;
	if (r->expect && off != r->expect)
		r->s.fragmented += r->t->active;
	r->expect = off + n * a->q->cs;
	return n;
}

uint64_t audit_plain(struct audit_reader *r, const uint8_t *buf, uint64_t i)
{
	const struct blk_qcow2 *q = r->a->q;
	bool ext = blk_q_has_extl2(q);
	uint64_t step = ext ? 16 : 8, n = 1;

	if (!r->a->sure || blk_q_has_data_file(q))
		return i;
	while (i < q->cs && n && !r->ret) {
		n = is_nothing(buf + i, ext) ? 1 :
			take_row(r, buf + i, (q->cs - i) / step, ext);
		i += n * step;
	}
	return i;
}
