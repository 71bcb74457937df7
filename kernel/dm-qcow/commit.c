// SPDX-License-Identifier: GPL-2.0-only
/*
 * Commits: how changed mappings become durable.
 *
 * Owns every write of L2 slices and L1 entries.  One commit runs at a time for
 * an image, in its work item:
 *
 *   freeze   take the waiters, the freed clusters and the dirty list away;
 *            copy up to QCOW_COMMIT_BATCH slices into bounce pages
 *   flush    so that the data those entries name is durable; skipped when all
 *            of it went to clusters that read as zeroes, over zeroes: then a
 *            crash shows zeroes, which is what was there before
 *   write    the copies, never the live pages
 *            (and the next batch, with a flush of its own)
 *   flush    now L2 is durable
 *   L1       entries of new tables, from a copy that names no other new
 *            table; flush
 *   clean    the slices are clean, the waiters end, freed clusters are handed
 *            on once the I/O that may still use them has ended
 *
 * What ends after the freeze belongs to the next commit.  An error makes the
 * device read-only for good: what was copied is dirty again, waiters fail, and
 * so does every later flush.
 *
 * Locking: commit.lock is irq-safe and nests inside slice.lock.  The worker
 * adds to commit.tables, the commit removes; both hold tables' xa_lock only.
 */
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "device.h"
#include "image.h"
#include "metaio.h"
#include "pending.h"
#include "slice.h"
#include "trace.h"

/**
 * struct commit_run - what one commit has taken
 * @dev: the image's owner when it began
 * @dirty: slices still to be copied (slice.dirty)
 * @copied: slices whose copies are written (slice.copied)
 * @freed: clusters that its slices replace
 * @waiters: bios that end with it
 * @ticket: of the newest request that it answers
 * @nr_copied: slices on @copied
 * @nr_tables: new L2 tables
 * @flushed: the data was flushed
 */
struct commit_run {
	struct qcow_device *dev;
	struct list_head dirty;
	struct list_head copied;
	struct list_head freed;
	struct bio_list waiters;
	u64 ticket;
	unsigned int nr_copied;
	unsigned int nr_tables;
	bool flushed;
};

static void commit_work(struct work_struct *work);

static void commit_timer(struct work_struct *work)
{
	struct qcow_commit *c = container_of(to_delayed_work(work),
					     struct qcow_commit, timer);
	struct qcow_image *img = container_of(c, struct qcow_image, commit);

	queue_work(img->commit_wq, &c->work);
}

void qcow_commit_init(struct qcow_image *img)
{
	struct qcow_commit *c = &img->commit;

	spin_lock_init(&c->lock);
	INIT_LIST_HEAD(&c->dirty);
	INIT_LIST_HEAD(&c->freed);
	bio_list_init(&c->waiters);
	xa_init(&c->tables);
	init_waitqueue_head(&c->wait);
	INIT_WORK(&c->work, commit_work);
	INIT_DELAYED_WORK(&c->timer, commit_timer);
}

int qcow_commit_prepare(struct qcow_image *img)
{
	struct qcow_commit *c = &img->commit;
	int i;

	for (i = 0; i < QCOW_COMMIT_BATCH; i++) {
		if (!c->bounce[i])
			c->bounce[i] = alloc_page(GFP_KERNEL);
		if (!c->bounce[i])
			return -ENOMEM;
	}
	return 0;
}

void qcow_commit_exit(struct qcow_image *img)
{
	struct qcow_commit *c = &img->commit;
	struct qcow_freed *f, *next;
	struct qcow_table *t;
	unsigned long index;
	int i;

	cancel_delayed_work_sync(&c->timer);
	cancel_work_sync(&c->work);
	for (i = 0; i < QCOW_COMMIT_BATCH; i++)
		if (c->bounce[i])
			__free_page(c->bounce[i]);
	list_for_each_entry_safe(f, next, &c->freed, node)
		kfree(f);
	xa_for_each(&c->tables, index, t)
		kfree(t);
	xa_destroy(&c->tables);
}

void qcow_commit_dirty(struct qcow_slice *s)
{
	struct qcow_image *img = s->img;
	struct qcow_commit *c = &img->commit;

	lockdep_assert_held(&s->lock);
	atomic_inc(&c->unclean);
	s->state |= QCOW_SLICE_DIRTY;
	spin_lock(&c->lock);
	list_add_tail(&s->dirty, &c->dirty);
	spin_unlock(&c->lock);
	if (atomic_inc_return(&c->nr_dirty) == 1)
		queue_delayed_work(img->commit_wq, &c->timer,
				   READ_ONCE(img->owner->commit_interval));
}

void qcow_commit_bio(struct qcow_image *img, struct bio *bio)
{
	struct qcow_commit *c = &img->commit;
	unsigned long flags;

	spin_lock_irqsave(&c->lock, flags);
	bio_list_add(&c->waiters, bio);
	spin_unlock_irqrestore(&c->lock, flags);
	queue_work(img->commit_wq, &c->work);
}

bool qcow_freed_set(const struct qcow_image *img, struct qcow_freed *f, u64 e)
{
	if (img->external)
		return false;
	if (e & QCOW2_L2_COMPRESSED) {
		f->offset = qcow2_compressed_offset(e, img->cluster_bits);
		f->length = qcow2_compressed_length(e, img->cluster_bits);
		f->flags = DM_QCOW_RUN_COMPRESSED | QCOW_FREED_SHARED;
		return true;
	}
	f->offset = e & QCOW2_OFFSET_MASK;
	f->length = img->cluster_size;
	f->flags = e & QCOW2_ENTRY_COPIED ? 0 : QCOW_FREED_SHARED;
	return f->offset;
}

void qcow_commit_freed(struct qcow_image *img, struct qcow_freed *f)
{
	struct qcow_commit *c = &img->commit;
	unsigned long flags;

	spin_lock_irqsave(&c->lock, flags);
	list_add_tail(&f->node, &c->freed);
	spin_unlock_irqrestore(&c->lock, flags);
	/* its slice may be on its way to the disk without it */
	queue_delayed_work(img->commit_wq, &c->timer,
			   READ_ONCE(img->owner->commit_interval));
}

u64 qcow_commit_start(struct qcow_image *img, bool barrier)
{
	struct qcow_commit *c = &img->commit;
	u64 ticket;

	spin_lock_irq(&c->lock);
	ticket = ++c->requested;
	c->barrier |= barrier;
	spin_unlock_irq(&c->lock);
	queue_work(img->commit_wq, &c->work);
	return ticket;
}

bool qcow_commit_is_done(struct qcow_image *img, u64 ticket)
{
	return READ_ONCE(img->commit.done) >= ticket;
}

void qcow_commit_quiesce(struct qcow_image *img)
{
	struct qcow_commit *c = &img->commit;
	u64 ticket = qcow_commit_start(img, false);

	wait_event(c->wait, qcow_commit_is_done(img, ticket));
	cancel_delayed_work_sync(&c->timer);
	flush_work(&c->work);
}

int qcow_commit_new_table(struct qcow_image *img, u32 l1, u64 host,
			  enum qcow_table_content content)
{
	struct qcow_table *t = kmalloc(sizeof(*t), GFP_NOIO);
	struct qcow_l1 *tab;
	int r;

	if (!t)
		return -ENOMEM;
	t->l1 = l1;
	t->entry = host | QCOW2_ENTRY_COPIED;
	t->old = qcow_l1_entry(img, (u64)l1 << img->l2_span_bits);
	t->zeroed = content == QCOW_TABLE_ZEROES;
	t->copied = content == QCOW_TABLE_COPY;
	t->frozen = false;
	atomic_inc(&img->commit.unclean);
	r = xa_err(xa_store(&img->commit.tables, l1, t, GFP_NOIO));
	if (r) {
		atomic_dec(&img->commit.unclean);
		kfree(t);
		return r;
	}
	rcu_read_lock();
	tab = rcu_dereference(img->l1);
	/* who sees the entry sees that it is not on disk: l1_copy() */
	smp_store_release(&tab->entry[l1], host | QCOW2_ENTRY_COPIED);
	rcu_read_unlock();
	return 0;
}

bool qcow_commit_table_is_fresh(struct qcow_image *img, u32 l1)
{
	struct qcow_table *t;
	bool fresh;

	/* a commit may remove it at any time */
	rcu_read_lock();
	t = xa_load(&img->commit.tables, l1);
	fresh = t && !t->copied;
	rcu_read_unlock();
	return fresh;
}

/* Copies one slice of the frozen list into a bounce page. */
static void freeze_slice(struct qcow_image *img, struct qcow_slice *s,
			 struct page *page, bool *data_flush)
{
	__be64 *to = page_address(page);
	u32 k, step = 1 << img->ext;

	spin_lock_irq(&s->lock);
	if (s->state & QCOW_SLICE_DATA_FLUSH)
		*data_flush = true;
	/* never neither of the two: a FUA write may look */
	WRITE_ONCE(s->state, (s->state & ~(QCOW_SLICE_DIRTY |
					   QCOW_SLICE_DATA_FLUSH)) |
		   QCOW_SLICE_COMMIT);
	for (k = 0; k < qcow_slice_words(img); k += step) {
		to[k] = cpu_to_be64(qcow_entry_settled(s->ent[k]));
		if (img->ext)
			to[k + 1] = cpu_to_be64(s->ent[k + 1]);
	}
	spin_unlock_irq(&s->lock);
	atomic_dec(&img->commit.nr_dirty);
}

/* The slice is durable, or could not be written and is dirty again. */
static void thaw_slice(struct qcow_image *img, struct qcow_slice *s, bool ok)
{
	spin_lock_irq(&s->lock);
	if (!ok) {
		s->state |= QCOW_SLICE_DATA_FLUSH;
		if (!(s->state & QCOW_SLICE_DIRTY))
			qcow_commit_dirty(s);
	}
	WRITE_ONCE(s->state, s->state & ~QCOW_SLICE_COMMIT);
	spin_unlock_irq(&s->lock);
	/* s may be reclaimed from here on */
	atomic_dec(&img->commit.unclean);
}

/* Copies and writes the next slices of the frozen list. */
static int commit_batch(struct qcow_image *img, struct commit_run *run)
{
	struct page **bounce = img->commit.bounce;
	bool data_flush = false;
	struct qcow_metaio io;
	struct qcow_slice *s;
	unsigned int n = 0;
	LIST_HEAD(batch);
	int r = 0;

	while (n < QCOW_COMMIT_BATCH && !list_empty(&run->dirty)) {
		s = list_first_entry(&run->dirty, struct qcow_slice, dirty);
		list_del_init(&s->dirty);
		list_add_tail(&s->copied, &batch);
		freeze_slice(img, s, bounce[n++], &data_flush);
	}
	run->nr_copied += n;
	if (data_flush) {
		r = blkdev_issue_flush(img->data);
		run->flushed = true;
	}
	if (!r) {
		n = 0;
		qcow_metaio_begin(&io, img->bdev, &img->bios);
		list_for_each_entry(s, &batch, copied)
			qcow_metaio_write(&io, s->disk_off, bounce[n++],
					  img->slice_bytes);
		r = qcow_metaio_wait(&io);
	}
	list_splice_tail(&batch, &run->copied);
	return r;
}

/* New tables must be whole on disk before an L1 entry names them. */
static int tables_freeze(struct qcow_image *img, struct commit_run *run)
{
	struct qcow_metaio io;
	struct qcow_table *t;
	unsigned long index;
	u32 off;

	qcow_metaio_begin(&io, img->bdev, &img->bios);
	xa_for_each(&img->commit.tables, index, t) {
		t->frozen = true;
		run->nr_tables++;
		for (off = 0; !t->zeroed && !t->copied &&
		     off < img->cluster_size; off += img->slice_bytes)
			qcow_metaio_write(&io, (t->entry & QCOW2_OFFSET_MASK) +
					  off, ZERO_PAGE(0), img->slice_bytes);
	}
	return qcow_metaio_wait(&io);
}

/*
 * One unit of the L1 table (as large as a slice) as it shall be on disk:
 * entries of tables that are not part of this commit are as they were.
 */
static void l1_copy(struct qcow_image *img, const struct qcow_l1 *l1,
		    u32 first, __be64 *to)
{
	struct qcow_table *t;
	u32 i;

	for (i = 0; i < qcow_slice_words(img); i++) {
		u64 e = first + i < l1->nr ?
			smp_load_acquire(&l1->entry[first + i]) : 0;

		if (e) {
			t = xa_load(&img->commit.tables, first + i);
			if (t && !t->frozen)
				e = t->old;
		}
		to[i] = cpu_to_be64(e);
	}
}

static int l1_write(struct qcow_image *img)
{
	/* only a resume replaces it, and no commit runs then */
	struct qcow_l1 *l1 = rcu_dereference_protected(img->l1, true);
	u32 mask = qcow_slice_words(img) - 1;
	u64 last = U64_MAX;
	struct qcow_metaio io;
	struct qcow_table *t;
	unsigned long index;
	unsigned int n = 0;
	int r = 0;

	qcow_metaio_begin(&io, img->bdev, &img->bios);
	xa_for_each(&img->commit.tables, index, t) {
		if (!t->frozen || (index & ~(unsigned long)mask) == last)
			continue;
		last = index & ~(unsigned long)mask;
		if (n == QCOW_COMMIT_BATCH) {
			r = qcow_metaio_wait(&io);
			if (r)
				return r;
			qcow_metaio_begin(&io, img->bdev, &img->bios);
			n = 0;
		}
		l1_copy(img, l1, last, page_address(img->commit.bounce[n]));
		qcow_metaio_write(&io, img->h.l1_table_offset + last * 8,
				  img->commit.bounce[n++], img->slice_bytes);
	}
	return qcow_metaio_wait(&io) ?: blkdev_issue_flush(img->bdev);
}

/* The frozen tables are named by the L1 table on disk. */
static void tables_done(struct qcow_image *img)
{
	struct qcow_commit *c = &img->commit;
	struct qcow_table *t;
	unsigned long index;

	xa_for_each(&c->tables, index, t) {
		if (!t->frozen)
			continue;
		xa_erase(&c->tables, index);
		kfree_rcu(t, rcu);
		atomic_dec(&c->unclean);
	}
}

static void commit_take(struct qcow_image *img, struct commit_run *run)
{
	struct qcow_commit *c = &img->commit;
	bool barrier;

	spin_lock_irq(&c->lock);
	run->ticket = c->requested;
	barrier = c->barrier;
	c->barrier = false;
	spin_unlock_irq(&c->lock);
	if (barrier)
		qcow_inflight_barrier(&img->inflight);

	INIT_LIST_HEAD(&run->dirty);
	INIT_LIST_HEAD(&run->copied);
	INIT_LIST_HEAD(&run->freed);
	run->nr_copied = 0;
	run->nr_tables = 0;
	run->flushed = false;
	spin_lock_irq(&c->lock);
	/* freed clusters before slices: each one's slice is dirty by then */
	list_splice_init(&c->freed, &run->freed);
	list_splice_init(&c->dirty, &run->dirty);
	run->waiters = c->waiters;
	bio_list_init(&c->waiters);
	spin_unlock_irq(&c->lock);
}

static int commit_write(struct qcow_image *img, struct commit_run *run)
{
	int r = tables_freeze(img, run);

	while (!r && !list_empty(&run->dirty))
		r = commit_batch(img, run);
	/* for those who wait; where there is one device, the next one does it */
	if (!r && img->data != img->bdev && !run->flushed)
		r = blkdev_issue_flush(img->data);
	if (!r)
		r = blkdev_issue_flush(img->bdev);
	if (!r && run->nr_tables)
		r = l1_write(img);
	return r;
}

static void commit_failed(struct qcow_image *img, struct commit_run *run, int r)
{
	struct qcow_commit *c = &img->commit;

	spin_lock_irq(&c->lock);
	list_splice(&run->dirty, &c->dirty);
	list_splice(&run->freed, &c->freed);
	spin_unlock_irq(&c->lock);
	qcow_device_set_mode(run->dev, DM_QCOW_MODE_READ_ONLY, r);
}

static void commit_end(struct qcow_image *img, struct commit_run *run, int r)
{
	struct qcow_commit *c = &img->commit;
	struct qcow_device *dev = run->dev;
	struct qcow_slice *s, *next;

	if (r)
		commit_failed(img, run, r);
	else
		tables_done(img);	/* before slices can be reclaimed */
	list_for_each_entry_safe(s, next, &run->copied, copied)
		thaw_slice(img, s, !r);
	qcow_slice_cache_trim(img);
	trace_qcow_commit(img, run->nr_copied, run->nr_tables, r);
	qcow_stat_inc(dev->stats, commits);
	qcow_stat_add(dev->stats, slices_written, run->nr_copied);
	qcow_bios_end(&run->waiters, errno_to_blk_status(r));
	if (!r && !list_empty(&run->freed)) {
		qcow_inflight_barrier(&img->inflight);
		qcow_device_freed(dev, img, &run->freed);
	}
	smp_store_release(&c->done, run->ticket);
	wake_up_all(&c->wait);
	qcow_device_committed(dev);
	if (!r && atomic_read(&c->nr_dirty))
		queue_delayed_work(img->commit_wq, &c->timer,
				   READ_ONCE(dev->commit_interval));
}

static void commit_work(struct work_struct *work)
{
	struct qcow_commit *c = container_of(work, struct qcow_commit, work);
	struct qcow_image *img = container_of(c, struct qcow_image, commit);
	struct commit_run run;
	int r;

	run.dev = READ_ONCE(img->owner);
	if (WARN_ON_ONCE(!run.dev))
		return;
	commit_take(img, &run);
	if (list_empty(&run.dirty) && list_empty(&run.freed) &&
	    bio_list_empty(&run.waiters) && xa_empty(&img->commit.tables))
		r = 0;
	else if (READ_ONCE(run.dev->mode) >= DM_QCOW_MODE_READ_ONLY)
		r = -EIO;
	else
		r = commit_write(img, &run);
	commit_end(img, &run, r);
}
