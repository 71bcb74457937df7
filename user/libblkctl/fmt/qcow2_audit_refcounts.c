// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The refcounts of an image that is checked: which of them are 1, whether the
 * structures that hold them can be trusted, and what differs from the
 * references.
 *
 * Owns nothing; must not write.  Locking: no other thread runs.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_audit_int.h"

/* Can refcounts be read from that block?  0: there is none */
static int can_read(const struct audit *a, uint64_t idx)
{
	uint64_t v = idx < a->q->rt_n ? a->q->rt[idx] &
		QCOW2_REFTABLE_OFFSET_MASK : 0;

	if (v & (a->q->cs - 1) || v > INT64_MAX - a->q->cs)
		return -EINVAL;
	return v != 0;
}

static int read_block(struct audit *a, uint64_t idx, uint8_t *buf)
{
	uint64_t off = a->q->rt[idx] & QCOW2_REFTABLE_OFFSET_MASK;

	if (off >= (uint64_t)a->file_len) {
		memset(buf, 0, a->q->cs);
		return 0;
	}
	return blk_file_read(a->q->f, buf, a->q->cs, off);
}

int audit_single(const struct audit *a, uint64_t cluster)
{
	if (can_read(a, cluster >> a->q->rb_bits) < 0)
		return -1;
	if (cluster >= a->limit)
		return 0;
	return a->single[cluster / 64] >> (cluster % 64) & 1;
}

static uint64_t blocks(const struct audit *a)
{
	return ((a->limit - 1) >> a->q->rb_bits) + 1;
}

/* Refcounts of 16 bits, which nearly all images have */
static void load_16(uint64_t *single, const uint16_t *rc, uint64_t n)
{
	const uint16_t one = htobe16(1);

	for (uint64_t i = 0; i < n; i += 64) {
		uint64_t k = BLK_MIN(n - i, 64U), word = 0;

		for (uint64_t b = 0; b < k; b++)
			word |= (uint64_t)(rc[i + b] == one) << b;
		single[i / 64] = word;
	}
}

static int load_block(struct audit *a, uint64_t idx, uint8_t *buf)
{
	struct blk_qcow2 *q = a->q;
	uint64_t first = idx << q->rb_bits;
	uint64_t n = BLK_MIN(1ULL << q->rb_bits, a->limit - first);
	int ret = read_block(a, idx, buf);

	if (ret < 0)
		return blk_q_io_error(q, a->e, ret, "read the refcounts");
	if (q->h.refcount_order == 4 && first % 64 == 0) {
		load_16(a->single + first / 64, (const uint16_t *)buf, n);
		return 0;
	}
	for (uint64_t i = 0; i < n; i++)
		if (blk_refcount_get(buf, q->h.refcount_order, i) == 1)
			a->single[(first + i) / 64] |= 1ULL << (first + i) % 64;
	return 0;
}

int audit_load_single(struct audit *a)
{
	uint8_t *buf blk_auto_free = NULL;
	int ret = 0;

	if (posix_memalign((void **)&buf, 4096, BLK_MAX(a->q->cs, 4096U)))
		return -ENOMEM;
	a->sure = true;
	for (uint64_t i = 0; i < BLK_MIN(blocks(a), a->q->rt_n) && !ret; i++) {
		int can = can_read(a, i);

		if (can > 0)
			ret = load_block(a, i, buf);
		else if (can < 0)
			a->sure = false;
	}
	return ret;
}

static void damaged(struct audit *a, uint64_t idx, const char *why)
{
	audit_say(a, BLK_AUDIT_CORRUPTION, 1,
		  a->q->h.refcount_table_offset + idx * 8, 0,
		  "refcount table entry 0x%llx: the block %s",
		  (unsigned long long)a->q->rt[idx], why);
	a->out->rebuild = true;
}

static int count_block(struct audit *a, uint64_t idx)
{
	uint64_t v = a->q->rt[idx];
	uint64_t off = v & QCOW2_REFTABLE_OFFSET_MASK;
	uint64_t c = off >> a->q->h.cluster_bits;
	int ret;

	if (v & ~QCOW2_REFTABLE_OFFSET_MASK)
		damaged(a, idx, "has reserved bits");
	else if (off & (a->q->cs - 1))
		damaged(a, idx, "is not aligned");
	else if (c >= a->clusters)
		damaged(a, idx, "is outside the file");
	else {
		ret = blk_refs_add(&a->refs, c, 1);
		if (ret < 0)
			return ret;
		if (blk_refs_get(&a->refs, c) != 1)
			damaged(a, idx, "is used for something else, too");
	}
	return 0;
}

int audit_blocks(struct audit *a)
{
	int ret = 0;

	a->out->rebuild |= !a->q->rt_n;
	for (uint64_t i = 0; i < a->q->rt_n && !ret; i++)
		if (a->q->rt[i])
			ret = count_block(a, i);
	return ret;
}

/**
 * struct span - clusters in a row with the same thing wrong
 */
struct span {
	uint64_t first, n, rc, refs;
};

static void end_span(struct audit *a, struct span *s)
{
	uint32_t bits = a->q->h.cluster_bits;

	if (s->n)
		audit_say(a, s->rc > s->refs ? BLK_AUDIT_LEAK :
			  BLK_AUDIT_CORRUPTION, s->n, s->first << bits,
			  s->n << bits, "%s %llu%s: refcount %llu, references %llu",
			  s->n > 1 ? "clusters from" : "cluster",
			  (unsigned long long)s->first, s->rc > s->refs ?
			  " leaked" : "", (unsigned long long)s->rc,
			  (unsigned long long)s->refs);
	s->n = 0;
}

static void differs(struct audit *a, struct span *s, uint64_t c, uint64_t rc,
		    uint64_t refs)
{
	if (!s->n || s->first + s->n != c || s->rc != rc || s->refs != refs) {
		end_span(a, s);
		*s = (struct span){ .first = c, .rc = rc, .refs = refs };
	}
	s->n++;
}

/* More references than the refcounts can say: each is counted. */
static uint64_t clamp(struct audit *a, uint64_t c, uint64_t refs)
{
	uint64_t max = blk_refcount_max(a->q->h.refcount_order);

	if (refs <= max)
		return refs;
	audit_say(a, BLK_AUDIT_CORRUPTION, refs - max,
		  c << a->q->h.cluster_bits, a->q->cs,
		  "cluster %llu has %llu references, more than refcounts of %u bits can say",
		  (unsigned long long)c, (unsigned long long)refs,
		  1U << a->q->h.refcount_order);
	return max;
}

static void compare_each(struct audit *a, uint64_t first, const uint8_t *buf,
			 uint64_t c, uint64_t end, struct span *s,
			 uint64_t *last)
{
	uint32_t order = a->q->h.refcount_order;

	for (; c < end; c++) {
		uint64_t refs = clamp(a, c, blk_refs_get(&a->refs, c));
		uint64_t rc = buf ? blk_refcount_get(buf, order, c - first) :
			0;

		if (rc || refs)
			*last = c;
		if (rc != refs)
			differs(a, s, c, rc, refs);
	}
}

/*
 * Are the refcounts of [c, end), which is in a page, what is counted?  Where
 * both are as they mostly are; false: look at each of them.
 */
static bool is_same(const struct audit *a, const uint16_t *rc, uint64_t c,
		    uint64_t end, uint64_t *last)
{
	const uint8_t *refs = blk_refs_small(&a->refs, c);
	unsigned int n = (unsigned int)(end - c), differ = 0;

	if (!refs)
		return false;
	refs += c & (BLK_REFS_PAGE - 1);
	for (unsigned int i = 0; i < n; i++)
		differ |= (unsigned int)rc[i] ^ htobe16(refs[i]);
	if (differ)
		return false;
	while (n && !refs[n - 1])
		n--;
	if (n)
		*last = c + n - 1;
	return true;
}

/* @buf: the refcounts; NULL: all are 0 */
static void compare_block(struct audit *a, uint64_t idx, const uint8_t *buf,
			  uint64_t end, uint64_t *last)
{
	uint64_t first = idx << a->q->rb_bits, to;
	bool is_16 = buf && a->q->h.refcount_order == 4;
	struct span s = { 0 };

	for (uint64_t c = first; c < end; c = to) {
		to = BLK_MIN((c | (BLK_REFS_PAGE - 1)) + 1, end);
		if (!is_16 || !is_same(a, (const uint16_t *)buf + (c - first),
				       c, to, last))
			compare_each(a, first, buf, c, to, &s, last);
	}
	end_span(a, &s);
}

static int compare_one(struct audit *a, uint64_t idx, uint8_t *buf,
		       uint64_t all, uint64_t *last)
{
	uint64_t first = idx << a->q->rb_bits;
	uint64_t end = BLK_MIN(first + (1ULL << a->q->rb_bits), all);
	int can = can_read(a, idx), ret;

	if (can < 0) {
		audit_say(a, BLK_AUDIT_ERROR, end - first,
			  first << a->q->h.cluster_bits,
			  (end - first) << a->q->h.cluster_bits,
			  "refcounts that cannot be read");
		return 0;
	}
	if (!can) {
		if (blk_refs_any(&a->refs, first, end))
			compare_block(a, idx, NULL, end, last);
		return 0;
	}
	ret = read_block(a, idx, buf);
	if (ret < 0)
		return blk_q_io_error(a->q, a->e, ret, "read the refcounts");
	compare_block(a, idx, buf, end, last);
	return 0;
}

int audit_compare(struct audit *a)
{
	uint8_t *buf blk_auto_free = NULL;
	uint64_t all = BLK_MAX(a->clusters, blk_refs_end(&a->refs));
	uint64_t last = 0;
	int ret = 0;

	if (posix_memalign((void **)&buf, 4096, BLK_MAX(a->q->cs, 4096U)))
		return -ENOMEM;
	for (uint64_t i = 0; i << a->q->rb_bits < all && !ret; i++)
		ret = audit_stopped(a) ? -ECANCELED :
			compare_one(a, i, buf, all, &last);
	a->out->image_end = (last + 1) << a->q->h.cluster_bits;
	return ret;
}
