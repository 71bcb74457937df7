// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Clusters on their way into the kernel and back.
 *
 * Owns: how much is kept granted, sequence numbers, and that each run is in
 * exactly one place: free, granted, or ours to drop.
 * Must not: allocate memory on the way of a grant, log, or issue device-mapper
 * ioctls (docs/design.md, rule 8).
 * Threads: the feeder, or whoever has paused it (attachment.h).
 *
 * How much, of each kind (blk_grant_fill()): the target begins at 32 MiB (at
 * least 16 clusters) and doubles, up to 512 MiB, whenever more than half of it
 * was consumed within a second.  The grants are filled up to one and a half
 * targets as soon as they fall below one, and never beyond what the guest's disk
 * could need at all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/stop_int.h"
#include "kctl/attachment.h"

#define NS_PER_S	1000000000ULL
#define NS_PER_MS	1000000ULL

#define TARGET_FIRST	(32ULL << 20)
#define TARGET_CLUSTERS	16
#define TARGET_MAX	(512ULL << 20)
#define SEND_TRIES	5
#define REFUSED_MAX	3
#define WATCH_MS	1000
#define RETRY_NS	NS_PER_S
#define IDLE_RETRY_NS	(10 * NS_PER_S)	/* full, but nobody waits */
/* freed runs are worth an fsync when there are many or they are old */
#define REAP_RUNS	256
#define REAP_NS		(200 * NS_PER_MS)

uint64_t blk_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

bool blk_grant_is_lost(int ret)
{
	return ret == -ENODEV || ret == -ENXIO || ret == -ESTALE ||
		ret == -EPERM;
}

static bool is_unsure(int ret)
{
	return ret == -ENOBUFS || ret == -ETIMEDOUT || ret == -ENOMEM ||
		ret == -EPROTO;
}

/*
 * Giving
 */

/* Did the grant arrive?  The kernel's last sequence tells. */
static bool has_arrived(struct blk_attachment *a, uint64_t seq,
			uint64_t *granted)
{
	struct blk_kdev k;

	if (blk_genl_get(a->genl, a->dev, 0, &k, NULL) || k.seq < seq)
		return false;
	if (granted)
		*granted = k.granted;
	return true;
}

int blk_grant_give(struct blk_attachment *a, const struct dm_qcow_run *runs,
		   size_t n, uint32_t flags, uint64_t *granted,
		   struct blk_error *e)
{
	uint64_t seq = ++a->seq;
	bool sent = false;	/* once before, with an unknown outcome */
	int ret, tries;

	for (tries = SEND_TRIES; tries; tries--) {
		blk_stop_point("give-unsent");
		ret = blk_genl_grant(a->genl, a->dev, a->session, seq, runs, n,
				     flags, granted, e);
		blk_stop_point("give-sent");
		if (!is_unsure(ret) && !(sent && ret == -EALREADY))
			return ret;
		if (has_arrived(a, seq, granted))
			return 0;
		sent = true;
	}
	return ret;
}

int blk_grant_drop(struct blk_attachment *a, const struct dm_qcow_run *runs,
		   size_t n)
{
	int ret;

	if (!n)
		return 0;
	blk_stop_point("drop");
	ret = blk_qcow2_release(a->image, runs, n, NULL);
	blk_stop_point("dropped");
	a->feeder.released = blk_now_ns();
	if (!ret)
		return 0;
	atomic_store(&a->keep_mark, true);
	if (ret == -EUCLEAN)
		blk_feeder_notify(a, BLK_ATTACH_CORRUPT);
	return ret;
}

/* Writes wait, or the next one will. */
static bool is_starving(const struct blk_kdev *k)
{
	return !k->granted || k->parked;
}

/* When it is worth to try again after a failure. */
static uint64_t retry_time(const struct blk_feeder *f,
			   const struct blk_kdev *k)
{
	if (!f->failed)
		return 0;
	return f->failed + (is_starving(k) ? RETRY_NS : IDLE_RETRY_NS);
}

/* Says that there is nothing to give, once. */
static void tell_full(struct blk_attachment *a, const struct blk_kdev *k)
{
	struct blk_feeder *f = &a->feeder;

	if (!f->host_full)
		f->host_full = !blk_grant_give(a, NULL, 0,
					       DM_QCOW_GRANT_HOST_FULL, NULL,
					       NULL);
	if (!f->starved && is_starving(k)) {
		f->starved = true;
		blk_feeder_notify(a, BLK_ATTACH_NOSPACE);
	}
}

/* Giving what may be in use already is worse than giving nothing. */
static void found_corrupt(struct blk_attachment *a)
{
	a->feeder.refused++;
	blk_feeder_notify(a, BLK_ATTACH_CORRUPT);
}

void blk_grant_refused(struct blk_attachment *a, const struct dm_qcow_run *runs,
		       size_t n, int why)
{
	/* lost or unsure: granted or not, nobody knows */
	if (blk_grant_is_lost(why) || is_unsure(why) || why == -EALREADY ||
	    (why == -EUCLEAN && a->live))
		atomic_store(&a->keep_mark, true);
	else
		blk_grant_drop(a, runs, n);
}

/*
 * The kernel would not have them.  -EUCLEAN: a table of the guest's refers to
 * one of these clusters although its refcount was 0.  All of them stay
 * allocated: dropping the reference would hand the cluster out once more.
 * (Not so while attaching: that ends here, and leaves the image as it was.)
 */
static int refused(struct blk_attachment *a, size_t n, int ret)
{
	struct blk_feeder *f = &a->feeder;

	f->failed = blk_now_ns();
	if (ret == -EUCLEAN)
		found_corrupt(a);
	blk_grant_refused(a, f->runs, n, ret);
	return blk_grant_is_lost(ret) ? ret : 0;
}

/* Bytes of those that have all of @flags. */
static uint64_t total(const struct dm_qcow_run *runs, size_t n, uint32_t flags)
{
	uint64_t bytes = 0;

	while (n--)
		if ((runs[n].flags & flags) == flags)
			bytes += runs[n].length;
	return bytes;
}

/* Zeroes on disk are none for who reads them through a cipher. */
static void not_zeroed(struct dm_qcow_run *runs, size_t n)
{
	while (n--)
		runs[n].flags &= ~DM_QCOW_RUN_ZEROED;
}

/*
 * One allocation, one message.  @zeroed: zeroes, although they are dear.
 * 1: more can be tried at once.
 */
static int give_some(struct blk_attachment *a, uint64_t bytes,
		     const struct blk_kdev *k, bool zeroed, uint64_t *given)
{
	struct blk_feeder *f = &a->feeder;
	size_t n = DM_QCOW_MAX_RUNS;
	uint64_t zeroes;
	int ret;

	ret = f->split && !zeroed ?
		blk_qcow2_alloc_as_is(a->image, bytes, f->runs, &n, NULL) :
		blk_qcow2_alloc(a->image, bytes, f->runs, &n, NULL);
	if (ret || !n) {
		f->failed = blk_now_ns();
		if (!ret || ret == -ENOSPC)
			tell_full(a, k);
		else if (ret == -EUCLEAN)
			found_corrupt(a);
		return 0;
	}
	if (blk_crypt_is_up(&a->layers[0].crypt))
		not_zeroed(f->runs, n);
	ret = blk_grant_give(a, f->runs, n, 0, NULL, NULL);
	if (ret)
		return refused(a, n, ret);
	f->host_full = f->starved = false;
	f->failed = 0;
	*given = total(f->runs, n, 0);
	zeroes = total(f->runs, n, DM_QCOW_RUN_ZEROED);
	f->gave_zeroed += zeroes;
	/* the device would not: then there are no such clusters */
	if (zeroed && !zeroes)
		f->split = false;
	return 1;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Doubles the target when the guest is eating it up. */
static void adapt(struct blk_supply *s, uint64_t consumed)
{
	uint64_t now = blk_now_ns();
	uint64_t used = consumed > s->consumed ? consumed - s->consumed : 0;
	uint64_t window = max_u64(now - s->since, NS_PER_S);

	/* a window that was cut long by a slow disk counts for its length */
	if (used / (window / NS_PER_MS) * 1000 > s->target / 2)
		s->target = min_u64(2 * s->target, TARGET_MAX);
	else if (now - s->since < NS_PER_S && consumed >= s->consumed)
		return;
	s->consumed = consumed;
	s->since = now;
}

static uint64_t first_step(const struct blk_attachment *a)
{
	return max_u64(TARGET_FIRST,
		       (uint64_t)TARGET_CLUSTERS << a->cluster_bits);
}

static void first_targets(struct blk_attachment *a, const struct blk_kdev *k)
{
	const struct qcow2_header *h = blk_qcow2_header(a->image);
	uint64_t guest = (h->size + qcow2_cluster_size(h) - 1) >>
		h->cluster_bits;
	struct blk_feeder *f = &a->feeder;

	/* with an external data file only L2 tables need clusters */
	if (a->layers[0].is.data)
		guest = 0;
	f->cap = (guest + qcow2_l1_needed(h)) << h->cluster_bits;
	f->split = blk_qcow2_slow_zero(a->image) && guest;
	f->gave_zeroed = k->zeroed << a->cluster_bits;
	for (int z = 0; z < 2; z++) {
		f->supply[z].target = first_step(a);
		f->supply[z].consumed = z ? 0 : k->consumed << a->cluster_bits;
		f->supply[z].since = blk_now_ns();
	}
}

/* Fills up one kind of clusters, of which the kernel has @have bytes. */
static int fill(struct blk_attachment *a, const struct blk_kdev *k, bool zeroed,
		uint64_t have, uint64_t cap)
{
	struct blk_feeder *f = &a->feeder;
	uint64_t target = f->supply[zeroed].target;
	uint64_t low, high, step, need, given = 0;
	int ret;

	/* no fsync for each cluster of a small disk */
	low = min_u64(target, cap - cap / 4);
	high = min_u64(target + target / 2, cap);
	if (have >= low || k->mode >= DM_QCOW_MODE_READ_ONLY ||
	    f->refused >= REFUSED_MAX || blk_now_ns() < retry_time(f, k))
		return 0;
	/* small steps first reach the guest sooner; each costs an fsync */
	step = max_u64(first_step(a), target / 4);
	need = high - have;
	while (need && !blk_feeder_interrupted(a)) {
		ret = give_some(a, min_u64(step, need), k, zeroed, &given);
		if (ret <= 0)
			return ret;
		need -= min_u64(need, given);
	}
	return 0;
}

/*
 * Where zeroes must be written, only as many clusters are zeroed ahead as writes
 * of less than a cluster take: others do not need it.
 */
int blk_grant_fill(struct blk_attachment *a, const struct blk_kdev *k)
{
	uint64_t granted = k->granted << a->cluster_bits;
	uint64_t consumed = k->consumed << a->cluster_bits;
	uint64_t zeroed = min_u64(k->zeroed << a->cluster_bits, granted), used;
	struct blk_feeder *f = &a->feeder;
	int ret;

	/* a message that was to open them has got lost */
	if (k->parked && k->granted)
		blk_grant_give(a, NULL, 0, 0, NULL, NULL);
	if (!f->cap)
		first_targets(a, k);
	if (!f->split) {
		adapt(&f->supply[0], consumed);
		return fill(a, k, false, granted, f->cap);
	}
	used = f->gave_zeroed - min_u64(zeroed, f->gave_zeroed);
	adapt(&f->supply[0], consumed - min_u64(used, consumed));
	adapt(&f->supply[1], used);
	ret = fill(a, k, false, granted - zeroed, f->cap / 2);
	return ret < 0 ? ret : fill(a, k, true, zeroed, f->cap / 2);
}

/*
 * Taking
 */

int blk_grant_reap(struct blk_attachment *a)
{
	struct blk_feeder *f = &a->feeder;
	size_t n = 0;
	int ret;

	ret = blk_genl_take(a->genl, a->dev, a->session, DM_QCOW_TAKE_FREED,
			    f->runs, &n, NULL);
	if (ret) {
		/* they may have left the kernel and got lost on the way */
		if (!blk_grant_is_lost(ret))
			atomic_store(&a->keep_mark, true);
		return ret;
	}
	if (!n)
		return 0;
	blk_stop_point("reap-taken");
	blk_grant_drop(a, f->runs, n);
	/* there may be space again */
	f->failed = 0;
	return 1;
}

bool blk_grant_should_reap(const struct blk_attachment *a,
			   const struct blk_kdev *k)
{
	const struct blk_feeder *f = &a->feeder;

	if (!k->freed)
		return false;
	return k->freed >= REAP_RUNS || f->host_full ||
		blk_now_ns() - f->released >= REAP_NS;
}

int blk_grant_rest(const struct blk_attachment *a, const struct blk_kdev *k)
{
	uint64_t now = blk_now_ns(), until = now + WATCH_MS * NS_PER_MS;
	const struct blk_feeder *f = &a->feeder;

	if (k->freed)
		until = min_u64(until, f->released + REAP_NS);
	if (f->failed && f->refused < REFUSED_MAX)
		until = min_u64(until, retry_time(f, k));
	return until <= now ? 1 : (until - now) / NS_PER_MS + 1;
}

int blk_run_list_take(struct blk_attachment *a, uint32_t what,
		      struct blk_run_list *l, struct blk_error *e)
{
	struct dm_qcow_run *v;
	size_t n;
	int ret;

	for (;;) {
		/* room first: what has been taken must have a place */
		v = realloc(l->v, (l->n + DM_QCOW_MAX_RUNS) * sizeof(*v));
		if (!v)
			return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
					     "out of memory");
		l->v = v;
		ret = blk_genl_take(a->genl, a->dev, a->session, what,
				    &v[l->n], &n, e);
		if (ret) {
			atomic_store(&a->keep_mark, true);
			return ret;
		}
		blk_stop_point("list-taken");
		if (!n)
			return 0;
		l->n += n;
	}
}

void blk_run_list_free(struct blk_run_list *l)
{
	free(l->v);
	l->v = NULL;
	l->n = 0;
}
