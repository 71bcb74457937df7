// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reference counts in memory: an array by cluster, in pages.
 *
 * Owns struct blk_refs.  Must not use more than MAX_BYTES, whatever an image
 * claims: a page with small counts has a byte for each cluster, and a hostile
 * cluster makes only its own page wider.  No I/O.  Locking: a caller's own;
 * threads that count have an array each, merged in the end.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_check_int.h"

#define PAGE_BITS	BLK_REFS_PAGE_BITS
#define PAGE_MASK	(BLK_REFS_PAGE - 1)
#define MAX_CLUSTERS	(1ULL << 32)
#define MAX_BYTES	(1ULL << 30)

int blk_refs_init(struct blk_refs *r, uint64_t n)
{
	if (n > MAX_CLUSTERS)
		return -EFBIG;
	r->n = n;
	r->bytes = 0;
	r->page = calloc((n >> PAGE_BITS) + 1, sizeof(*r->page));
	return r->page ? 0 : -ENOMEM;
}

void blk_refs_free(struct blk_refs *r)
{
	for (uint64_t i = 0; r->page && i < (r->n >> PAGE_BITS) + 1; i++)
		free(r->page[i].mem);
	free(r->page);
	r->page = NULL;
	r->n = 0;
}

static uint64_t get(const struct blk_refs_page *p, uint32_t i)
{
	switch (p->order) {
	case 0:
		return p->u8[i];
	case 1:
		return p->u16[i];
	case 2:
		return p->u32[i];
	default:
		return p->u64[i];
	}
}

static void set(struct blk_refs_page *p, uint32_t i, uint64_t v)
{
	switch (p->order) {
	case 0:
		p->u8[i] = (uint8_t)v;
		break;
	case 1:
		p->u16[i] = (uint16_t)v;
		break;
	case 2:
		p->u32[i] = (uint32_t)v;
		break;
	default:
		p->u64[i] = v;
	}
}

static bool fits(const struct blk_refs_page *p, uint64_t v)
{
	return p->order == 3 || v >> (8U << p->order) == 0;
}

/* A page for counts up to @v, with what the old one has */
static int widen(struct blk_refs *r, struct blk_refs_page *p, uint64_t v)
{
	struct blk_refs_page wide = { .order = p->order };
	uint64_t bytes;

	while (!fits(&wide, v))
		wide.order++;
	bytes = (1ULL << PAGE_BITS) << wide.order;
	if (r->bytes + bytes > MAX_BYTES)
		return -ENOMEM;
	wide.mem = calloc(1, bytes);
	if (!wide.mem)
		return -ENOMEM;
	r->bytes += bytes;
	if (p->mem) {
		for (uint32_t i = 0; i <= PAGE_MASK; i++)
			set(&wide, i, get(p, i));
		r->bytes -= (1ULL << PAGE_BITS) << p->order;
		free(p->mem);
	}
	p->mem = wide.mem;
	p->order = wide.order;
	return 0;
}

uint64_t blk_refs_get(const struct blk_refs *r, uint64_t cluster)
{
	const struct blk_refs_page *p;

	if (cluster >= r->n)
		return 0;
	p = &r->page[cluster >> PAGE_BITS];
	return p->mem ? get(p, cluster & PAGE_MASK) : 0;
}

int blk_refs_add(struct blk_refs *r, uint64_t cluster, uint64_t by)
{
	struct blk_refs_page *p;
	uint64_t v;

	if (cluster >= r->n)
		return -ERANGE;
	p = &r->page[cluster >> PAGE_BITS];
	v = p->mem ? get(p, cluster & PAGE_MASK) : 0;
	if (by > INT64_MAX - v)
		return -EOVERFLOW;
	v += by;
	if (!p->mem || !fits(p, v)) {
		int ret = widen(r, p, v);

		if (ret < 0)
			return ret;
	}
	set(p, cluster & PAGE_MASK, v);
	return 0;
}

/* Small counts by a small number: what a compiler makes vectors of */
static bool add_small(struct blk_refs_page *p, uint32_t i, uint32_t n,
		      uint64_t by)
{
	uint8_t most = 0;
	uint8_t *c;

	if (!p->mem || p->order || by > UINT8_MAX)
		return false;
	c = p->u8 + i;
	for (uint32_t k = 0; k < n; k++)
		most = BLK_MAX(most, c[k]);
	if (most + by > UINT8_MAX)
		return false;
	for (uint32_t k = 0; k < n; k++)
		c[k] = (uint8_t)(c[k] + by);
	return true;
}

static int add_in_page(struct blk_refs *r, uint64_t from, uint32_t n,
		       uint64_t by)
{
	struct blk_refs_page *p = &r->page[from >> PAGE_BITS];
	int ret = 0;

	if (!add_small(p, from & PAGE_MASK, n, by))
		for (uint32_t k = 0; k < n && !ret; k++)
			ret = blk_refs_add(r, from + k, by);
	return ret;
}

int blk_refs_add_run(struct blk_refs *r, uint64_t from, uint64_t n,
		     uint64_t by)
{
	int ret = 0;

	while (n && !ret) {
		uint64_t k = BLK_MIN(n, PAGE_MASK + 1 - (from & PAGE_MASK));

		if (from >= r->n || k > r->n - from)
			return -ERANGE;
		ret = add_in_page(r, from, (uint32_t)k, by);
		from += k;
		n -= k;
	}
	return ret;
}

/* Both with a byte for each, and every sum is one */
static bool merge_small(struct blk_refs_page *p, const struct blk_refs_page *o)
{
	unsigned int most = 0;

	if (p->order || o->order)
		return false;
	for (uint32_t i = 0; i <= PAGE_MASK; i++)
		most |= (unsigned int)p->u8[i] + o->u8[i];
	if (most > UINT8_MAX)
		return false;
	for (uint32_t i = 0; i <= PAGE_MASK; i++)
		p->u8[i] = (uint8_t)(p->u8[i] + o->u8[i]);
	return true;
}

static int merge_page(struct blk_refs *r, uint64_t idx,
		      struct blk_refs_page *o)
{
	struct blk_refs_page *p = &r->page[idx];
	uint64_t bytes = (1ULL << PAGE_BITS) << o->order;
	int ret = 0;

	if (!p->mem) {
		if (r->bytes + bytes > MAX_BYTES)
			return -ENOMEM;
		*p = *o;
		o->mem = NULL;
		r->bytes += bytes;
		return 0;
	}
	if (merge_small(p, o))
		return 0;
	for (uint32_t i = 0; i <= PAGE_MASK && !ret; i++) {
		uint64_t v = get(o, i);

		if (v)
			ret = blk_refs_add(r, (idx << PAGE_BITS) + i, v);
	}
	return ret;
}

int blk_refs_merge(struct blk_refs *r, struct blk_refs *from)
{
	uint64_t n = BLK_MIN(r->n, from->n);
	int ret = 0;

	for (uint64_t i = 0; from->page && i <= n >> PAGE_BITS && !ret; i++)
		if (from->page[i].mem)
			ret = merge_page(r, i, &from->page[i]);
	blk_refs_free(from);
	return ret;
}

const uint8_t *blk_refs_small(const struct blk_refs *r, uint64_t cluster)
{
	static const uint8_t none[BLK_REFS_PAGE];
	const struct blk_refs_page *p;

	if (cluster >= r->n)
		return none;
	p = &r->page[cluster >> PAGE_BITS];
	if (!p->mem)
		return none;
	return p->order ? NULL : p->u8;
}

uint64_t blk_refs_end(const struct blk_refs *r)
{
	uint64_t c = r->n;

	while (c) {
		if (!r->page[(c - 1) >> PAGE_BITS].mem)
			c = (c - 1) & ~(uint64_t)PAGE_MASK;
		else if (blk_refs_get(r, c - 1))
			break;
		else
			c--;
	}
	return c;
}

bool blk_refs_any(const struct blk_refs *r, uint64_t from, uint64_t end)
{
	end = BLK_MIN(end, r->n);
	while (from < end) {
		if (!r->page[from >> PAGE_BITS].mem)
			from = (from | PAGE_MASK) + 1;
		else if (blk_refs_get(r, from))
			return true;
		else
			from++;
	}
	return false;
}
