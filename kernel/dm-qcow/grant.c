// SPDX-License-Identifier: GPL-2.0-only
/*
 * Grants.
 *
 * Owns which granted clusters are still to be had.  A CPU takes clusters from
 * a share of its own, and fills it from the common list; so writes on several
 * CPUs meet at the list once in CURSOR_CLUSTERS clusters, and one writer's
 * clusters are contiguous.
 *
 * Locking: cursor.lock (irq-safe, nearly always this CPU's own), then
 * grants.lock (irq-safe).  Both nest inside slice.lock.
 */
#include <linux/slab.h>

#include "device.h"
#include "grant.h"

#define CURSOR_CLUSTERS	64
#define CLOSED_TIME	(60 * HZ)

unsigned long qcow_grants_patience(const struct qcow_grants *g)
{
	unsigned long now = jiffies, until;

	/* pairs with the release in qcow_grants_remove() */
	if (!smp_load_acquire(&g->closed))
		return 0;
	until = READ_ONCE(g->closed_until);
	return time_before(now, until) ? until - now : 0;
}

int qcow_grants_init(struct qcow_grants *g)
{
	int cpu;

	spin_lock_init(&g->lock);
	INIT_LIST_HEAD(&g->runs[0]);
	INIT_LIST_HEAD(&g->runs[1]);
	for (g->nr_spare = 0; g->nr_spare < QCOW_GRANT_SPARE; g->nr_spare++) {
		g->spare[g->nr_spare] = kmalloc(sizeof(struct qcow_run),
						GFP_KERNEL);
		if (!g->spare[g->nr_spare])
			goto fail;
	}
	g->cursors = alloc_percpu(struct qcow_cursor);
	if (!g->cursors)
		goto fail;
	for_each_possible_cpu(cpu)
		spin_lock_init(&per_cpu_ptr(g->cursors, cpu)->lock);
	return 0;
fail:
	qcow_grants_exit(g);
	return -ENOMEM;
}

void qcow_grants_exit(struct qcow_grants *g)
{
	struct qcow_run *run, *next;
	int z;

	for (z = 0; z < 2; z++)
		list_for_each_entry_safe(run, next, &g->runs[z], node)
			kfree(run);
	while (g->nr_spare)
		kfree(g->spare[--g->nr_spare]);
	free_percpu(g->cursors);
}

/* Clusters are taken: rings the daemon, once, when too few are left. */
static void count_down(struct qcow_device *dev, atomic64_t *left, u64 *low,
		       u32 nr)
{
	u64 at = READ_ONCE(*low);

	if (atomic64_sub_return(nr, left) < at && cmpxchg(low, at, 0) == at)
		qcow_device_event(dev, DM_QCOW_EV_GRANT_LOW);
}

/* Both locks are held.  An emptied record is kept as a spare or freed. */
static void cursor_refill(struct qcow_device *dev, struct qcow_cursor *c,
			  int z, u32 want)
{
	struct qcow_grants *g = &dev->grants;
	struct qcow_run *run;
	u32 nr;

	lockdep_assert_held(&g->lock);
	run = list_first_entry_or_null(&g->runs[z], struct qcow_run, node);
	if (!run)
		return;
	nr = min_t(u64, run->nr, max_t(u32, want, CURSOR_CLUSTERS));
	c->run[z].host = run->host;
	c->run[z].nr = nr;
	run->host += (u64)nr << dev->cluster_bits;
	run->nr -= nr;
	if (run->nr)
		return;
	list_del(&run->node);
	if (g->nr_spare < QCOW_GRANT_SPARE)
		g->spare[g->nr_spare++] = run;
	else
		kfree(run);
}

/* c->lock is held. */
static u32 cursor_take(struct qcow_device *dev, struct qcow_cursor *c, int z,
		       u32 want, bool refill, u64 *host)
{
	u32 nr;

	lockdep_assert_held(&c->lock);
	if (!c->run[z].nr && refill) {
		spin_lock(&dev->grants.lock);
		cursor_refill(dev, c, z, want);
		spin_unlock(&dev->grants.lock);
	}
	nr = min(want, c->run[z].nr);
	*host = c->run[z].host;
	c->run[z].host += (u64)nr << dev->cluster_bits;
	c->run[z].nr -= nr;
	return nr;
}

static u32 cursor_take_any(struct qcow_device *dev, struct qcow_cursor *c,
			   u32 want, bool *zeroed, bool refill, u64 *host)
{
	unsigned long flags;
	u32 nr = 0;
	int z = *zeroed;

	spin_lock_irqsave(&c->lock, flags);
	for (; z < 2 && !nr && !READ_ONCE(dev->grants.closed); z++)
		nr = cursor_take(dev, c, z, want, refill, host);
	spin_unlock_irqrestore(&c->lock, flags);
	if (nr)
		*zeroed = z == 2;
	return nr;
}

/* What a CPU has left of one kind, for the daemon. */
static u32 cursor_empty(struct qcow_device *dev, struct qcow_cursor *c, int z,
			u64 *host)
{
	u32 nr;

	spin_lock_irq(&c->lock);
	nr = cursor_take(dev, c, z, U32_MAX, false, host);
	spin_unlock_irq(&c->lock);
	return nr;
}

u32 qcow_grant_take(struct qcow_device *dev, u32 want, bool *zeroed, bool all,
		    u64 *host)
{
	struct qcow_grants *g = &dev->grants;
	u32 nr;
	int cpu;

	nr = cursor_take_any(dev, raw_cpu_ptr(g->cursors), want, zeroed, true,
			     host);
	if (!nr && all)
		for_each_possible_cpu(cpu) {
			nr = cursor_take_any(dev, per_cpu_ptr(g->cursors, cpu),
					     want, zeroed, false, host);
			if (nr)
				break;
		}
	if (!nr)
		return 0;
	atomic64_add(nr, &g->consumed);
	if (*zeroed)
		count_down(dev, &g->zeroed, &g->zeroed_low, nr);
	count_down(dev, &g->left, &g->low, nr);
	return nr;
}

void qcow_grant_put(struct qcow_device *dev, u64 host, u32 nr)
{
	struct qcow_grants *g = &dev->grants;
	struct qcow_run *run;
	unsigned long flags;

	spin_lock_irqsave(&g->lock, flags);
	run = list_empty(&g->runs[0]) ? NULL :
		list_last_entry(&g->runs[0], struct qcow_run, node);
	if (run && run->host + (run->nr << dev->cluster_bits) == host) {
		run->nr += nr;
		atomic64_add(nr, &g->left);
	} else if (g->nr_spare) {
		run = g->spare[--g->nr_spare];
		run->host = host;
		run->nr = nr;
		list_add_tail(&run->node, &g->runs[0]);
		atomic64_add(nr, &g->left);
	} else {
		WRITE_ONCE(g->leaked, true);
	}
	spin_unlock_irqrestore(&g->lock, flags);
	qcow_device_came_back(dev);
}

int qcow_grants_add(struct qcow_device *dev, const struct dm_qcow_run *runs,
		    unsigned int n)
{
	struct qcow_grants *g = &dev->grants;
	struct qcow_run *run, *next;
	/* what decrypts zeroes shows something else */
	bool zeroes = !qcow_device_image(dev)->h.crypt_method;
	LIST_HEAD(lists0);
	LIST_HEAD(lists1);
	u64 total = 0, zeroed = 0;
	unsigned int i;

	for (i = 0; i < n; i++) {
		run = kmalloc(sizeof(*run), GFP_NOIO);
		if (!run)
			goto fail;
		run->host = runs[i].offset;
		run->nr = runs[i].length >> dev->cluster_bits;
		total += run->nr;
		if (zeroes && runs[i].flags & DM_QCOW_RUN_ZEROED) {
			list_add_tail(&run->node, &lists1);
			zeroed += run->nr;
		} else {
			list_add_tail(&run->node, &lists0);
		}
	}
	spin_lock_irq(&g->lock);
	list_splice_tail(&lists0, &g->runs[0]);
	list_splice_tail(&lists1, &g->runs[1]);
	WRITE_ONCE(g->low, atomic64_add_return(total, &g->left) / 2);
	if (zeroed)
		WRITE_ONCE(g->zeroed_low,
			   atomic64_add_return(zeroed, &g->zeroed) / 2);
	spin_unlock_irq(&g->lock);
	return 0;
fail:
	list_splice(&lists1, &lists0);
	list_for_each_entry_safe(run, next, &lists0, node)
		kfree(run);
	return -ENOMEM;
}

/* Hands one run to the daemon: what is granted is claimed no longer. */
static void run_emit(struct qcow_device *dev, struct dm_qcow_run *out,
		     u64 host, u64 nr, int z)
{
	struct qcow_image *img = qcow_device_image(dev);

	out->offset = host;
	out->length = nr << dev->cluster_bits;
	out->flags = z ? DM_QCOW_RUN_ZEROED : 0;
	out->reserved = 0;
	atomic64_sub(nr, &dev->grants.left);
	if (z)
		atomic64_sub(nr, &dev->grants.zeroed);
	qcow_unclaim_range(&img->claims, QCOW_CLAIM_DATA,
			   host >> dev->cluster_bits, nr);
}

bool qcow_grants_open(struct qcow_grants *g)
{
	bool was = READ_ONCE(g->closed);

	WRITE_ONCE(g->closed, false);
	return was;
}

unsigned int qcow_grants_remove(struct qcow_device *dev,
				struct dm_qcow_run *runs, unsigned int max)
{
	struct qcow_grants *g = &dev->grants;
	struct qcow_image *img = qcow_device_image(dev);
	struct qcow_cursor *c;
	struct qcow_run *run;
	unsigned int n = 0;
	u64 host;
	int cpu, z;
	u32 nr;

	if (!g->closed)
		WRITE_ONCE(g->closed_until, jiffies + CLOSED_TIME);
	/* those who have not seen it have their cluster when a lock is had */
	smp_store_release(&g->closed, true);
	mutex_lock(&img->claims.lock);
	for_each_possible_cpu(cpu) {
		c = per_cpu_ptr(g->cursors, cpu);
		for (z = 0; z < 2; z++) {
			nr = n < max ? cursor_empty(dev, c, z, &host) : 0;
			if (nr)
				run_emit(dev, &runs[n++], host, nr, z);
		}
	}
	for (z = 0; z < 2; z++)
		while (n < max) {
			spin_lock_irq(&g->lock);
			run = list_first_entry_or_null(&g->runs[z],
						       struct qcow_run, node);
			if (run)
				list_del(&run->node);
			spin_unlock_irq(&g->lock);
			if (!run)
				break;
			run_emit(dev, &runs[n++], run->host, run->nr, z);
			kfree(run);
		}
	mutex_unlock(&img->claims.lock);
	return n;
}

int qcow_grants_claim(struct qcow_device *dev, struct qcow_claims *c)
{
	struct qcow_grants *g = &dev->grants;
	struct qcow_cursor *cur;
	struct qcow_run *run;
	int cpu, z, r = 0;

	lockdep_assert_held(&c->lock);
	for (z = 0; z < 2; z++) {
		/* suspended: nobody takes or puts */
		list_for_each_entry(run, &g->runs[z], node)
			r = r ?: qcow_claim_range(c, QCOW_CLAIM_DATA, run->host
						  >> dev->cluster_bits,
						  run->nr);
		for_each_possible_cpu(cpu) {
			cur = per_cpu_ptr(g->cursors, cpu);
			r = r ?: qcow_claim_range(c, QCOW_CLAIM_DATA,
						  cur->run[z].host >>
						  dev->cluster_bits,
						  cur->run[z].nr);
		}
	}
	return r;
}
