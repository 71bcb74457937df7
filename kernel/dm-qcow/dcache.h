/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The cache of decompressed clusters, of all images together.
 */
#ifndef QCOW_DCACHE_H
#define QCOW_DCACHE_H

#include <linux/list.h>
#include <linux/llist.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/types.h>

struct qcow_image;

/**
 * struct qcow_dc - one decompressed cluster
 * @node: in its hash chain, found under RCU
 * @lru: under the cache's lock; @dead: waits for process context to be freed
 * @img, @key: what it is found by: see qcow_dcache_key(); @img is only compared
 * @refs: of its users, and one of the cache's; without one @data is freed, the
 *        rest a grace period later
 * @size: of @data, bytes
 * @used: set by look-ups, cleared by the reclaiming clock
 */
struct qcow_dc {
	struct hlist_node node;
	const struct qcow_image *img;
	u64 key;
	void *data;
	refcount_t refs;
	u32 size;
	bool used;
	union {
		struct list_head lru;
		struct llist_node dead;
	};
	struct rcu_head rcu;
};

/* What of an L2 entry says which compressed data it is. */
static inline u64 qcow_dcache_key(u64 entry)
{
	return entry & ((1ULL << 62) - 1);
}

/**
 * qcow_dcache_get - find a cluster; any context but interrupts, no lock
 * Return: NULL, or the cluster, whose data stays until it is put.
 */
struct qcow_dc *qcow_dcache_get(const struct qcow_image *img, u64 key);
/* Process context. */
void qcow_dcache_put(struct qcow_dc *c);
/* Does not sleep. */
void qcow_dcache_put_atomic(struct qcow_dc *c);

/**
 * qcow_dcache_alloc - memory for a cluster that is to be cached
 * Others make room if the cache is full.  Sleeps, but not until there is
 * memory.
 * Return: the cluster, with one reference; NULL: no memory now.
 */
struct qcow_dc *qcow_dcache_alloc(const struct qcow_image *img, u64 key,
				  u32 size);
/* Its data is there: from here on everybody finds it. */
void qcow_dcache_add(struct qcow_dc *c);

/**
 * qcow_dcache_seen - a cluster is missed; has it been so lately?
 * @size: of the cluster, bytes
 * True: a cluster that had been cached then would still be there.  A hint, from
 * a small table without locks: either answer may be wrong.
 */
bool qcow_dcache_seen(const struct qcow_image *img, u64 key, u32 size);

/* Forgets all clusters of an image. */
void qcow_dcache_drop(const struct qcow_image *img);

/* Clusters that are cached, and forgetting up to @max of them. */
unsigned long qcow_dcache_count(void);
unsigned long qcow_dcache_reclaim(unsigned long max);

/* All images have dropped theirs. */
void qcow_dcache_exit(void);

#endif
