// SPDX-License-Identifier: GPL-2.0-only
/*
 * The cache of L2 slices.
 *
 * Owns loading, validating and reclaiming slices.  Every entry of a slice is
 * judged once, before anybody can find it; a bad one marks the image corrupt
 * and fails the I/O that asked.  It never writes: that is commit.c.
 *
 * Locking: img->load_lock (a mutex; workers only) serialises who loads what,
 * img->reclaim_lock (a mutex, only tried in reclaim) who takes slices away.
 * img->slices is read under RCU.  lru_lock is taken before slice.lock; the
 * XArray's own lock is never taken under slice.lock, which interrupts take.
 * A slice may be freed after a grace period once it is DEAD, which needs it
 * to be clean and without pins.
 */
#include <linux/delay.h>
#include <linux/mempool.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "commit.h"
#include "compat.h"
#include "device.h"
#include "pending.h"
#include "slice.h"
#include "trace.h"

#define SLICE_RESERVE	64

static struct kmem_cache *slice_cache;
static struct shrinker *slice_shrinker;
static atomic_long_t slices_total;

static unsigned int cache_limit_mb;
module_param(cache_limit_mb, uint, 0644);
MODULE_PARM_DESC(cache_limit_mb,
		 "MiB of L2 slices of all images (0: 2 % of the memory)");

static long slice_limit(void)
{
	unsigned int mb = READ_ONCE(cache_limit_mb);

	if (mb)
		return (long)mb << (20 - PAGE_SHIFT);
	return max_t(long, totalram_pages() / 50, 4 * SLICE_RESERVE);
}

int qcow_slice_cache_init(struct qcow_image *img)
{
	int r;

	xa_init(&img->slices);
	xa_init(&img->loading);
	mutex_init(&img->load_lock);
	mutex_init(&img->reclaim_lock);
	spin_lock_init(&img->lru_lock);
	INIT_LIST_HEAD(&img->lru);
	atomic_long_set(&img->nr_slices, 0);
	r = mempool_init_slab_pool(&img->slice_pool, SLICE_RESERVE,
				   slice_cache);
	return r ?: mempool_init_page_pool(&img->page_pool, SLICE_RESERVE, 0);
}

void qcow_slice_cache_exit(struct qcow_image *img)
{
	qcow_slice_cache_drop(img);
	rcu_barrier();	/* slice_free_rcu() */
	mempool_exit(&img->page_pool);
	mempool_exit(&img->slice_pool);
}

static void slice_free_rcu(struct rcu_head *rcu)
{
	struct qcow_slice *s = container_of(rcu, struct qcow_slice, rcu);

	mempool_free(virt_to_page(s->ent), &s->img->page_pool);
	mempool_free(s, &s->img->slice_pool);
}

static void slice_free(struct qcow_slice *s)
{
	call_rcu(&s->rcu, slice_free_rcu);
}

/* The slice must not be found any more, or is about to be. */
static void slice_uncount(struct qcow_slice *s)
{
	atomic_long_dec(&s->img->nr_slices);
	atomic_long_dec(&slices_total);
}

/* img->lru_lock is held.  May this slice go? Then it is DEAD. */
static bool slice_kill(struct qcow_slice *s)
{
	unsigned long flags;
	bool dead = false;

	lockdep_assert_held(&s->img->lru_lock);
	if (READ_ONCE(s->used)) {
		WRITE_ONCE(s->used, false);
		return false;
	}
	spin_lock_irqsave(&s->lock, flags);
	if (!s->pins && bio_list_empty(&s->waiters) &&
	    !(s->state & (QCOW_SLICE_DIRTY | QCOW_SLICE_COMMIT))) {
		s->state |= QCOW_SLICE_DEAD;
		dead = true;
	}
	spin_unlock_irqrestore(&s->lock, flags);
	return dead;
}

/* Reclaims up to @want clean slices, looking at no more than @look. */
static unsigned long slices_reclaim(struct qcow_image *img, unsigned long want,
				    unsigned long look)
{
	struct qcow_device *owner;
	struct qcow_slice *s, *next;
	unsigned long done = 0;
	LIST_HEAD(dead);

	/* the shrinker may interrupt anybody who allocates */
	if (!mutex_trylock(&img->reclaim_lock))
		return 0;
	spin_lock(&img->lru_lock);
	while (look-- && done < want && !list_empty(&img->lru)) {
		s = list_first_entry(&img->lru, struct qcow_slice, lru);
		if (slice_kill(s)) {
			list_move(&s->lru, &dead);
			done++;
		} else {
			list_move_tail(&s->lru, &img->lru);
		}
	}
	spin_unlock(&img->lru_lock);

	list_for_each_entry_safe(s, next, &dead, lru) {
		xa_erase(&img->slices, s->nr);
		slice_uncount(s);
		owner = READ_ONCE(img->owner);
		if (owner)
			qcow_stat_inc(owner->stats, slices_reclaimed);
		slice_free(s);
	}
	mutex_unlock(&img->reclaim_lock);
	return done;
}

void qcow_slice_cache_trim(struct qcow_image *img)
{
	long over = atomic_long_read(&slices_total) - slice_limit();

	/* twice: at first they have been used */
	if (over > 0)
		slices_reclaim(img, over,
			       2 * atomic_long_read(&img->nr_slices));
}

void qcow_slice_cache_drop(struct qcow_image *img)
{
	struct qcow_slice *s;
	unsigned long index;

	mutex_lock(&img->load_lock);
	mutex_lock(&img->reclaim_lock);
	xa_for_each(&img->slices, index, s) {
		WARN_ON_ONCE(s->pins);
		spin_lock(&img->lru_lock);
		list_del(&s->lru);
		spin_unlock(&img->lru_lock);
		xa_erase(&img->slices, index);
		slice_uncount(s);
		slice_free(s);
	}
	mutex_unlock(&img->reclaim_lock);
	mutex_unlock(&img->load_lock);
}

static struct qcow_slice *slice_alloc(struct qcow_image *img, u64 nr)
{
	const gfp_t gfp = GFP_NOWAIT | __GFP_NOWARN;
	struct qcow_slice *s;
	struct page *page;

	if (atomic_long_read(&slices_total) >= slice_limit())
		slices_reclaim(img, 2, 64);
	s = mempool_alloc(&img->slice_pool, gfp);
	if (!s)
		return NULL;
	page = mempool_alloc(&img->page_pool, gfp);
	if (!page) {
		mempool_free(s, &img->slice_pool);
		slices_reclaim(img, 16, 256);
		return NULL;
	}
	memset(s, 0, sizeof(*s));
	s->img = img;
	s->nr = nr;
	s->ent = page_address(page);
	spin_lock_init(&s->lock);
	seqcount_init(&s->seq);
	bio_list_init(&s->waiters);
	INIT_LIST_HEAD(&s->lru);
	INIT_LIST_HEAD(&s->dirty);
	return s;
}

/* img->load_lock is held: from here on everybody finds the slice. */
static int slice_publish(struct qcow_slice *s)
{
	struct qcow_image *img = s->img;
	int r;

	lockdep_assert_held(&img->load_lock);
	s->used = true;
	r = xa_err(xa_store(&img->slices, s->nr, s, GFP_NOIO));
	if (r)
		return r;
	atomic_long_inc(&img->nr_slices);
	atomic_long_inc(&slices_total);
	spin_lock(&img->lru_lock);
	list_add_tail(&s->lru, &img->lru);
	spin_unlock(&img->lru_lock);
	return 0;
}

/* Only what may be written in place is claimed; 0: nothing. */
static u64 entry_claims(const struct qcow_image *img, u64 e)
{
	if (e & QCOW2_L2_COMPRESSED || !(e & QCOW2_ENTRY_COPIED))
		return 0;
	return (e & QCOW2_OFFSET_MASK) >> img->cluster_bits;
}

/* Is any host cluster of an entry that claims none metadata, or granted? */
static bool entry_misplaced(struct qcow_image *img, u64 e)
{
	u64 off = e & QCOW2_OFFSET_MASK, len = 1, nr, last;

	if (e & QCOW2_L2_COMPRESSED) {
		off = qcow2_compressed_offset(e, img->cluster_bits);
		len = qcow2_compressed_length(e, img->cluster_bits);
	} else if (!off) {
		return false;
	}
	last = (off + len - 1) >> img->cluster_bits;
	for (nr = off >> img->cluster_bits; nr <= last; nr++)
		if (qcow_claim_is_metadata(&img->claims, nr) ||
		    qcow_claim_test(&img->claims, QCOW_CLAIM_DATA, nr))
			return true;
	return false;
}

/*
 * A writable image: the entries claim their clusters, the first time they are
 * loaded.  0; -EUCLEAN, then @why; -ENOMEM: nothing is claimed.
 */
static int slice_claim(struct qcow_slice *s, u32 *i, const char **why)
{
	struct qcow_image *img = s->img;
	struct qcow_claims *c = &img->claims;
	bool seen = qcow_claim_test(c, QCOW_CLAIM_SEEN, s->nr);
	int r = 0;
	u64 nr;

	for (*i = 0; *i < qcow_slice_entries(img); ++*i) {
		u64 e = *qcow_ent(s, *i);

		nr = entry_claims(img, e);
		*why = "a data cluster is also metadata, or is used twice";
		if (!nr && entry_misplaced(img, e))
			return -EUCLEAN;
		if (!nr)
			continue;
		*why = "a data cluster is also metadata";
		if (qcow_claim_is_metadata(c, nr))
			return -EUCLEAN;
		*why = "a data cluster is used twice, or was granted";
		r = seen ? 0 : qcow_claim_set(c, QCOW_CLAIM_DATA, nr);
		if (r > 0)
			return -EUCLEAN;
		if (r < 0)
			break;
	}
	if (!r)
		r = min(qcow_claim_set(c, QCOW_CLAIM_SEEN, s->nr), 0);
	if (!r || seen)
		return r;
	while ((*i)--) {
		nr = entry_claims(img, *qcow_ent(s, *i));
		if (nr)
			qcow_claim_clear(c, QCOW_CLAIM_DATA, nr);
	}
	return r;
}

static const char *entry_check(struct qcow_slice *s, u32 i, u64 bytes)
{
	struct qcow_image *img = s->img;
	const u64 *e = qcow_ent(s, i);
	u64 guest = (s->nr << img->slice_span_bits) +
		((u64)i << img->cluster_bits);
	const char *why;

	why = qcow2_l2_check(*e, img->cluster_bits, bytes, img->h.version);
	if (!why && img->ext)
		why = qcow2_extl2_check(*e, e[1], qcow_has_cluster(img, *e));
	if (why || !img->external || !qcow_has_cluster(img, *e))
		return why;
	if (*e & QCOW2_L2_COMPRESSED)
		return "a compressed cluster in an image with an external data file";
	if ((*e & QCOW2_OFFSET_MASK) != guest && (img->owner || img->data_raw))
		return "a data cluster is not at its place in the external data file";
	return NULL;
}

/*
 * Judges all entries of a slice, in host order already.  Bits that the format
 * reserves are known to be 0 afterwards: pending.h uses them.
 */
static blk_status_t slice_check(struct qcow_slice *s)
{
	struct qcow_image *img = s->img;
	u64 bytes = qcow_image_data_bytes(img);
	const char *why = NULL;
	int r = 0;
	u32 i;

	for (i = 0; i < qcow_slice_entries(img); i++) {
		why = entry_check(s, i, bytes);
		if (why) {
			r = -EUCLEAN;
			break;
		}
	}
	if (!r && img->owner && !img->external) {
		mutex_lock(&img->claims.lock);
		r = slice_claim(s, &i, &why);
		mutex_unlock(&img->claims.lock);
	}
	if (r == -EUCLEAN)
		qcow_image_corrupt(img, (s->nr << img->slice_span_bits) +
				   ((u64)i << img->cluster_bits), why);
	return errno_to_blk_status(r == -EUCLEAN ? -EIO : r);
}

static void slice_wake(struct qcow_slice_wait *w, blk_status_t status)
{
	while (w) {
		struct qcow_slice_wait *next = w->next;

		w->status = status;
		complete(&w->done);	/* it is gone from here on */
		w = next;
	}
}

/* To host order. */
static void slice_decode(struct qcow_slice *s)
{
	struct qcow_image *img = s->img;
	u32 i;

	for (i = 0; i < qcow_slice_words(img); i++)
		s->ent[i] = be64_to_cpu((__force __be64)s->ent[i]);
	if (!s->shared || img->external)
		return;
	/* nothing in a shared table may be written in place */
	for (i = 0; i < qcow_slice_entries(img); i++)
		if (!(*qcow_ent(s, i) & QCOW2_L2_COMPRESSED))
			*qcow_ent(s, i) &= ~QCOW2_ENTRY_COPIED;
}

static void slice_loaded(struct work_struct *work)
{
	struct qcow_slice *s = container_of(work, struct qcow_slice, loaded);
	struct qcow_image *img = s->img;
	struct qcow_slice_wait *sleepers;
	struct bio_list bios;
	blk_status_t status;
	u64 nr = s->nr;

	if (!s->status) {
		slice_decode(s);
		s->status = slice_check(s);
	}
	mutex_lock(&img->load_lock);
	if (!s->status && slice_publish(s))
		s->status = BLK_STS_RESOURCE;
	xa_erase(&img->loading, s->nr);
	spin_lock_irq(&s->lock);
	bios = s->waiters;
	bio_list_init(&s->waiters);
	sleepers = s->sleepers;
	s->sleepers = NULL;
	spin_unlock_irq(&s->lock);
	status = s->status;
	if (status)
		slice_free(s);
	mutex_unlock(&img->load_lock);
	trace_qcow_slice_load(img, nr, blk_status_to_errno(status));
	slice_wake(sleepers, status);
	qcow_bios_resume(&bios, status);
}

static void slice_read_end(struct bio *bio)
{
	struct qcow_slice *s = bio->bi_private;

	s->status = bio->bi_status;
	bio_put(bio);
	queue_work(s->img->wq, &s->loaded);
}

/* Starts the read; what lies behind the device's end reads as zeroes. */
static void slice_read(struct qcow_slice *s)
{
	struct qcow_image *img = s->img;
	u64 bytes = bdev_nr_bytes(img->bdev);
	u32 len = img->slice_bytes;
	struct bio *bio;

	if (s->disk_off + len > bytes) {
		len = s->disk_off < bytes ? bytes - s->disk_off : 0;
		memset((char *)s->ent + len, 0, img->slice_bytes - len);
		if (!len) {
			queue_work(img->wq, &s->loaded);
			return;
		}
	}
	bio = bio_alloc_bioset(img->bdev, 1, REQ_OP_READ | REQ_META | REQ_PRIO,
			       GFP_NOIO, &img->bios);
	bio->bi_iter.bi_sector = s->disk_off >> SECTOR_SHIFT;
	bio->bi_private = s;
	bio->bi_end_io = slice_read_end;
	__bio_add_page(bio, virt_to_page(s->ent), len, 0);
	submit_bio_noacct(bio);
}

u64 qcow_l1_entry(struct qcow_image *img, u64 guest)
{
	u64 e;

	rcu_read_lock();
	e = READ_ONCE(rcu_dereference(img->l1)->entry[guest >>
						      img->l2_span_bits]);
	rcu_read_unlock();
	return e;
}

/* Where the slice of a guest offset is in an L2 table. */
static u64 slice_disk_off(const struct qcow_image *img, u64 guest, u64 table)
{
	u64 in_table = guest & ((1ULL << img->l2_span_bits) - 1);

	return table + (in_table >> img->slice_span_bits) * img->slice_bytes;
}

static void slice_add_waiter(struct qcow_slice *s, struct bio *bio,
			     struct qcow_slice_wait *w)
{
	spin_lock_irq(&s->lock);
	if (bio) {
		bio_list_add(&s->waiters, bio);
	} else {
		w->next = s->sleepers;
		s->sleepers = w;
	}
	spin_unlock_irq(&s->lock);
}

/* The table is new and nothing of it is on disk: no I/O, all zeroes. */
static int slice_make(struct qcow_slice *s)
{
	struct qcow_image *img = s->img;
	int r;

	memset(s->ent, 0, img->slice_bytes);
	mutex_lock(&img->claims.lock);
	r = qcow_claim_set(&img->claims, QCOW_CLAIM_SEEN, s->nr);
	mutex_unlock(&img->claims.lock);
	return r < 0 ? r : slice_publish(s);
}

int qcow_slice_load(struct qcow_image *img, u64 guest, struct bio *bio,
		    struct qcow_slice_wait *w)
{
	u64 nr = guest >> img->slice_span_bits;
	struct qcow_slice *s;
	int r = 0;
	u64 e;

	mutex_lock(&img->load_lock);
	/* under the lock: a table that is copied moves */
	e = qcow_l1_entry(img, guest);
	s = xa_load(&img->loading, nr);
	if (s) {
		slice_add_waiter(s, bio, w);
		goto out;
	}
	r = -EAGAIN;
	if (xa_load(&img->slices, nr) || !(e & QCOW2_OFFSET_MASK))
		goto out;
	r = -ENOMEM;
	s = slice_alloc(img, nr);
	if (!s)
		goto out;
	INIT_WORK(&s->loaded, slice_loaded);
	s->shared = !(e & QCOW2_ENTRY_COPIED);
	s->state = s->shared ? 0 : QCOW_SLICE_WRITABLE;
	s->disk_off = slice_disk_off(img, guest, e & QCOW2_OFFSET_MASK);
	if (qcow_commit_table_is_fresh(img, guest >> img->l2_span_bits)) {
		r = slice_make(s) ?: -EAGAIN;
		if (r != -EAGAIN)
			slice_free(s);
		goto out;
	}
	r = xa_err(xa_store(&img->loading, nr, s, GFP_NOIO));
	if (r) {
		slice_free(s);
		goto out;
	}
	slice_add_waiter(s, bio, w);
	slice_read(s);
out:
	mutex_unlock(&img->load_lock);
	return r;
}

int qcow_slice_load_wait(struct qcow_image *img, u64 guest)
{
	struct qcow_slice_wait w = { .next = NULL };
	int r;

	init_completion(&w.done);
	r = qcow_slice_load(img, guest, NULL, &w);
	if (r == -ENOMEM) {
		/* dirty slices hold it, so write them */
		if (READ_ONCE(img->owner))
			qcow_commit_start(img, false);
		msleep(10);
		return 0;
	}
	if (r)
		return r == -EAGAIN ? 0 : r;
	wait_for_completion(&w.done);
	return blk_status_to_errno(w.status);
}

static void slice_move(struct qcow_slice *s, u64 off)
{
	spin_lock_irq(&s->lock);
	WARN_ON_ONCE(s->pins || s->state & QCOW_SLICE_WRITABLE);
	s->disk_off = off;
	s->state |= QCOW_SLICE_WRITABLE;
	spin_unlock_irq(&s->lock);
}

void qcow_slices_move(struct qcow_image *img, u64 guest, u64 table)
{
	u64 n = 1ULL << (img->l2_span_bits - img->slice_span_bits), i;
	struct qcow_slice *s;

	lockdep_assert_held(&img->load_lock);
	guest &= ~((1ULL << img->l2_span_bits) - 1);
	/* what is loading has the same content in either place */
	mutex_lock(&img->reclaim_lock);
	for (i = 0; i < n; i++) {
		u64 at = guest + (i << img->slice_span_bits);
		u64 nr = at >> img->slice_span_bits;

		s = xa_load(&img->slices, nr) ?: xa_load(&img->loading, nr);
		if (s)
			slice_move(s, slice_disk_off(img, at, table));
	}
	mutex_unlock(&img->reclaim_lock);
}

static unsigned long shrink_count(struct shrinker *shrink,
				  struct shrink_control *sc)
{
	return atomic_long_read(&slices_total);
}

static void shrink_image(struct qcow_image *img, void *arg)
{
	struct shrink_control *sc = arg;
	unsigned long left = sc->nr_to_scan - sc->nr_scanned;

	if (left)
		sc->nr_scanned += slices_reclaim(img, left, left);
}

static unsigned long shrink_scan(struct shrinker *shrink,
				 struct shrink_control *sc)
{
	sc->nr_scanned = 0;
	if (!qcow_image_for_each_try(shrink_image, sc))
		return SHRINK_STOP;
	return sc->nr_scanned ?: SHRINK_STOP;
}

int qcow_slices_init(void)
{
	slice_cache = KMEM_CACHE(qcow_slice, 0);
	if (!slice_cache)
		return -ENOMEM;
	slice_shrinker = qcow_shrinker_register(shrink_count, shrink_scan);
	if (slice_shrinker)
		return 0;
	kmem_cache_destroy(slice_cache);
	return -ENOMEM;
}

void qcow_slices_exit(void)
{
	qcow_shrinker_unregister(slice_shrinker);
	kmem_cache_destroy(slice_cache);
}
