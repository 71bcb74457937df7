// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cache of decompressed clusters.
 *
 * Owns the clusters of all images, how much memory they may take, and which
 * of them go first.  Knows nothing of decompression and does no I/O.
 *
 * Locking: look-ups take RCU and a reference; a cluster without references is
 * not found.  dcache_lock guards changes to the hash chains and the list of
 * use; nothing is allocated, freed or copied under it.  Never from interrupts.
 */
#include <linux/hash.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/rculist.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "dcache.h"

#define HASH_BITS	12
#define LOOK_MAX	64	/* clusters in use that are passed over */

static struct hlist_head dcache_hash[1 << HASH_BITS];
static DEFINE_SPINLOCK(dcache_lock);
static LIST_HEAD(dcache_lru);
static unsigned long dcache_nr;
static atomic_long_t dcache_bytes;	/* cached, or about to be */
static LLIST_HEAD(dcache_dead);
static u64 dcache_missed[1 << HASH_BITS];	/* tag and number of the miss */
static atomic_t dcache_misses;

static unsigned int decomp_cache_mb;
module_param(decomp_cache_mb, uint, 0644);
MODULE_PARM_DESC(decomp_cache_mb,
		 "MiB of decompressed clusters of all images (0: 1 % of the memory)");

/* There is always room for two clusters, by default for sixteen. */
static long dcache_limit(u32 size)
{
	unsigned int mb = READ_ONCE(decomp_cache_mb);

	if (mb)
		return max((long)mb << 20, 2L * size);
	return max3((long)(totalram_pages() / 100) << PAGE_SHIFT, 8L << 20,
		    16L * size);
}

static struct hlist_head *dcache_chain(const struct qcow_image *img, u64 key)
{
	return &dcache_hash[hash_64(key + (unsigned long)img, HASH_BITS)];
}

struct qcow_dc *qcow_dcache_get(const struct qcow_image *img, u64 key)
{
	struct qcow_dc *c;

	rcu_read_lock();
	hlist_for_each_entry_rcu(c, dcache_chain(img, key), node)
		if (c->key == key && c->img == img)
			break;
	if (c && !refcount_inc_not_zero(&c->refs))
		c = NULL;
	rcu_read_unlock();
	if (c && !READ_ONCE(c->used))
		WRITE_ONCE(c->used, true);
	return c;
}

static void dc_free(struct qcow_dc *c)
{
	atomic_long_sub(c->size + sizeof(*c), &dcache_bytes);
	kvfree(c->data);
	kfree_rcu(c, rcu);
}

void qcow_dcache_put(struct qcow_dc *c)
{
	if (c && refcount_dec_and_test(&c->refs))
		dc_free(c);
}

static void dcache_free_dead(struct work_struct *work)
{
	struct qcow_dc *c, *next;

	llist_for_each_entry_safe(c, next, llist_del_all(&dcache_dead), dead)
		dc_free(c);
}

static DECLARE_WORK(dcache_dead_work, dcache_free_dead);

void qcow_dcache_put_atomic(struct qcow_dc *c)
{
	if (unlikely(refcount_dec_and_test(&c->refs)) &&
	    llist_add(&c->dead, &dcache_dead))
		schedule_work(&dcache_dead_work);
}

/* dcache_lock is held: nobody finds it any more. */
static void dc_unlink(struct qcow_dc *c, struct list_head *dead)
{
	lockdep_assert_held(&dcache_lock);
	hlist_del_rcu(&c->node);
	list_move(&c->lru, dead);
	WRITE_ONCE(dcache_nr, dcache_nr - 1);
}

static unsigned long dcs_put(struct list_head *dead)
{
	struct qcow_dc *c, *next;
	unsigned long n = 0;

	list_for_each_entry_safe(c, next, dead, lru) {
		qcow_dcache_put(c);
		n++;
	}
	return n;
}

unsigned long qcow_dcache_reclaim(unsigned long max)
{
	unsigned int look = LOOK_MAX;
	struct qcow_dc *c;
	LIST_HEAD(dead);

	spin_lock(&dcache_lock);
	while (max && !list_empty(&dcache_lru)) {
		c = list_first_entry(&dcache_lru, struct qcow_dc, lru);
		if (READ_ONCE(c->used) && look) {
			WRITE_ONCE(c->used, false);
			list_move_tail(&c->lru, &dcache_lru);
			look--;
			continue;
		}
		dc_unlink(c, &dead);
		max--;
	}
	spin_unlock(&dcache_lock);
	return dcs_put(&dead);
}

struct qcow_dc *qcow_dcache_alloc(const struct qcow_image *img, u64 key,
				  u32 size)
{
	const gfp_t gfp = GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN;
	long limit = dcache_limit(size);
	struct qcow_dc *c;

	while (atomic_long_read(&dcache_bytes) + size > limit &&
	       qcow_dcache_reclaim(1))
		;
	c = kzalloc(sizeof(*c), gfp);
	if (c)
		c->data = kvmalloc(size, gfp);
	if (!c || !c->data) {
		kfree(c);
		qcow_dcache_reclaim(16);
		return NULL;
	}
	c->img = img;
	c->key = key;
	c->size = size;
	refcount_set(&c->refs, 1);
	atomic_long_add(size + sizeof(*c), &dcache_bytes);
	return c;
}

void qcow_dcache_add(struct qcow_dc *c)
{
	refcount_inc(&c->refs);
	spin_lock(&dcache_lock);
	hlist_add_head_rcu(&c->node, dcache_chain(c->img, c->key));
	list_add_tail(&c->lru, &dcache_lru);
	WRITE_ONCE(dcache_nr, dcache_nr + 1);
	spin_unlock(&dcache_lock);
}

bool qcow_dcache_seen(const struct qcow_image *img, u64 key, u32 size)
{
	u64 hash = hash_64(key + (unsigned long)img, 64);
	u64 *missed = &dcache_missed[hash >> (64 - HASH_BITS)];
	u32 nr = atomic_inc_return(&dcache_misses);
	u64 old = READ_ONCE(*missed);

	WRITE_ONCE(*missed, hash << 32 | nr);
	return old >> 32 == (u32)hash &&
		nr - (u32)old < dcache_limit(size) / size;
}

void qcow_dcache_drop(const struct qcow_image *img)
{
	struct qcow_dc *c, *next;
	LIST_HEAD(dead);

	spin_lock(&dcache_lock);
	list_for_each_entry_safe(c, next, &dcache_lru, lru)
		if (c->img == img)
			dc_unlink(c, &dead);
	spin_unlock(&dcache_lock);
	dcs_put(&dead);
}

unsigned long qcow_dcache_count(void)
{
	return READ_ONCE(dcache_nr);
}

void qcow_dcache_exit(void)
{
	flush_work(&dcache_dead_work);
}
