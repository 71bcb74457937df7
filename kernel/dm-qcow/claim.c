// SPDX-License-Identifier: GPL-2.0-only
/*
 * Claimed host clusters.
 *
 * Owns the bitmap pages, which appear when a first bit in them is set.
 * Locking: everything under qcow_claims.lock (a mutex: allocation may sleep,
 * but never recurses into I/O).
 */
#include <linux/bitops.h>
#include <linux/slab.h>

#include "claim.h"

#define PAGE_BITS	(PAGE_SIZE * 8)
#define PAGES_MAX	(256U << (20 - PAGE_SHIFT))	/* 256 MiB */

void qcow_claims_init(struct qcow_claims *c)
{
	int i;

	mutex_init(&c->lock);
	c->nr_pages = c->nr_anew = 0;
	c->anew = false;
	for (i = 0; i < QCOW_CLAIM_KINDS; i++) {
		xa_init(&c->store[i]);
		c->pages[i] = &c->store[i];
		c->last[i].index = U64_MAX;
	}
}

static unsigned int *nr_pages(struct qcow_claims *c, enum qcow_claim kind)
{
	return kind == QCOW_CLAIM_ANEW ? &c->nr_anew : &c->nr_pages;
}

void qcow_claims_reset(struct qcow_claims *c, enum qcow_claim kind)
{
	unsigned long index;
	void *page;

	xa_for_each(c->pages[kind], index, page) {
		kfree(page);
		--*nr_pages(c, kind);
	}
	xa_destroy(c->pages[kind]);
	c->last[kind].index = U64_MAX;
}

void qcow_claims_abort_anew(struct qcow_claims *c)
{
	lockdep_assert_held(&c->lock);
	qcow_claims_reset(c, QCOW_CLAIM_ANEW);
	c->anew = false;
}

void qcow_claims_begin_anew(struct qcow_claims *c)
{
	qcow_claims_abort_anew(c);	/* of one who died */
	c->anew = true;
}

void qcow_claims_end_anew(struct qcow_claims *c)
{
	lockdep_assert_held(&c->lock);
	qcow_claims_reset(c, QCOW_CLAIM_DAEMON);
	swap(c->pages[QCOW_CLAIM_DAEMON], c->pages[QCOW_CLAIM_ANEW]);
	c->last[QCOW_CLAIM_DAEMON].index = U64_MAX;
	c->last[QCOW_CLAIM_ANEW].index = U64_MAX;
	c->nr_pages += c->nr_anew;
	c->nr_anew = 0;
	c->anew = false;
}

void qcow_claims_exit(struct qcow_claims *c)
{
	int i;

	for (i = 0; i < QCOW_CLAIM_KINDS; i++)
		qcow_claims_reset(c, i);
	mutex_destroy(&c->lock);
}

/* The page that has the bit, or NULL. */
static unsigned long *claim_page(struct qcow_claims *c, enum qcow_claim kind,
				 u64 nr)
{
	struct qcow_claim_last *last = &c->last[kind];
	u64 index = nr / PAGE_BITS;

	lockdep_assert_held(&c->lock);
	if (last->index != index) {
		last->page = xa_load(c->pages[kind], index);
		last->index = index;
	}
	return last->page;
}

bool qcow_claim_test(struct qcow_claims *c, enum qcow_claim kind, u64 nr)
{
	unsigned long *page = claim_page(c, kind, nr);

	return page && test_bit(nr % PAGE_BITS, page);
}

int qcow_claim_set(struct qcow_claims *c, enum qcow_claim kind, u64 nr)
{
	unsigned long *page = claim_page(c, kind, nr);
	int r;

	if (!page) {
		if (*nr_pages(c, kind) >= PAGES_MAX)
			return -EFBIG;
		page = kzalloc(PAGE_SIZE, GFP_NOIO);
		if (!page)
			return -ENOMEM;
		r = xa_err(xa_store(c->pages[kind], nr / PAGE_BITS, page,
				    GFP_NOIO));
		if (r) {
			kfree(page);
			return r;
		}
		++*nr_pages(c, kind);
		c->last[kind].page = page;
	}
	return __test_and_set_bit(nr % PAGE_BITS, page);
}

void qcow_claim_clear(struct qcow_claims *c, enum qcow_claim kind, u64 nr)
{
	unsigned long *page = claim_page(c, kind, nr);

	if (page)
		__clear_bit(nr % PAGE_BITS, page);
}

void qcow_unclaim_range(struct qcow_claims *c, enum qcow_claim kind, u64 first,
			u64 nr)
{
	while (nr--)
		qcow_claim_clear(c, kind, first + nr);
}

int qcow_claim_range(struct qcow_claims *c, enum qcow_claim kind, u64 first,
		     u64 nr)
{
	enum qcow_claim k;
	u64 i;
	int r;

	for (i = 0; i < nr; i++) {
		for (k = QCOW_CLAIM_DAEMON; k <= QCOW_CLAIM_DATA; k++) {
			if (k == QCOW_CLAIM_DAEMON && kind == QCOW_CLAIM_ANEW)
				continue;
			if (qcow_claim_test(c, k, first + i))
				return -EUCLEAN;
		}
	}
	for (i = 0; i < nr; i++) {
		r = qcow_claim_set(c, kind, first + i);
		if (r < 0) {
			qcow_unclaim_range(c, kind, first, i);
			return r;
		}
	}
	return 0;
}
