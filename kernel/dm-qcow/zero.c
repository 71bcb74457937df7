// SPDX-License-Identifier: GPL-2.0-only
/*
 * Discards and writes of zeroes.
 *
 * Whole clusters (or subclusters) change their entries and do no I/O: a
 * discard and a write of zeroes that may unmap give the cluster back, one that
 * may not keeps it and says that it reads as zeroes.  Where layers below would
 * show through, a zero entry hides them.  The rest of a write of zeroes is
 * written: in place by the device, or as copy-on-write of zeroes.
 *
 *                     discard                        write of zeroes
 *   part of a cluster ignored                        written
 *   version 2, with
 *   layers below      ignored                        written
 *   external data     zeroed in the data file        written
 *   otherwise         entries                        entries
 *
 * A bio may be GiBs long.  It is worked off slice by slice; how far it has
 * come is in its own iterator, so it can wait and be deferred at any point.
 *
 * Locking: slice.lock for entries; zeroing in place is a work item.
 */
#include <linux/blkdev.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>

#include "cow.h"
#include "device.h"
#include "io.h"
#include "lookup.h"
#include "map.h"
#include "pending.h"
#include "slice.h"
#include "target.h"
#include "worker.h"
#include "zero.h"

#define PASS_STEPS	64	/* before others have a turn */
#define PASS_CLUSTERS	32	/* in one step, over layers below */

static bool is_discard(const struct bio *bio)
{
	return bio_op(bio) == REQ_OP_DISCARD;
}

/* May the cluster be given back? */
static bool may_unmap(const struct bio *bio)
{
	return is_discard(bio) || !(bio->bi_opf & REQ_NOUNMAP);
}

/* Is there something below, now or when the image is attached otherwise? */
static bool has_below(const struct qcow_target *t)
{
	return t->nr_layers > 1 || t->img->h.backing_file_offset;
}

/* Can zero entries not hide what is below? */
static bool no_zero_flag(const struct qcow_target *t)
{
	return t->img->h.version < 3 && has_below(t);
}

/*
 * Must an entry hide what is below its cluster?  A backing file that is not
 * attached is hidden from writes of zeroes, as QEMU does.
 */
static bool must_hide(struct qcow_target *t, const struct bio *bio, u64 guest)
{
	if (t->nr_layers == 1)
		return has_below(t) && !is_discard(bio);
	return !qcow_zero_known(t, guest);
}

/* Is a write of zeroes written, cluster by cluster? */
static bool is_written(const struct qcow_target *t)
{
	return t->img->external || no_zero_flag(t);
}

/* Where a bio's last whole unit ends: the disk's end is one, too. */
static u64 units_end(const struct qcow_target *t, const struct bio *bio)
{
	u64 end = qcow_bio_guest(bio) + bio->bi_iter.bi_size;
	u32 unit = 1U << t->img->sc_bits;

	return end == t->layers[0].size ? round_up(end, unit) :
		round_down(end, unit);
}

u64 qcow_zero_cut(const struct qcow_target *t, const struct bio *bio, u64 guest)
{
	const struct qcow_image *img = t->img;
	u32 cs = img->cluster_size, unit = 1U << img->sc_bits;
	u64 size = bio->bi_iter.bi_size;
	u64 rest = cs - (guest & (cs - 1));

	if (is_discard(bio))
		return size;
	if (guest & (unit - 1) || size < unit)
		return min_t(u64, size, unit - (guest & (unit - 1)));
	if (is_written(t))
		return min(size, rest);
	if (rest < cs || size < cs)
		return round_down(min(size, rest), unit);
	return round_down(size, cs);
}

static void bio_skip(struct bio *bio, u64 bytes)
{
	bytes = min_t(u64, bytes, bio->bi_iter.bi_size);
	bio->bi_iter.bi_sector += bytes >> SECTOR_SHIFT;
	bio->bi_iter.bi_size -= bytes;
}

static void epoch_begin(struct qcow_target *t, struct bio *bio)
{
	struct qcow_io *io = qcow_io(bio);

	io->epoch = qcow_inflight_begin(&t->img->inflight);
	io->img = t->img;
}

static void epoch_end(struct bio *bio)
{
	struct qcow_io *io = qcow_io(bio);

	qcow_inflight_end(&io->img->inflight, io->epoch);
	io->img = NULL;
}

/*
 * Zeroing in place
 */

struct zero_job {
	struct work_struct work;
	struct qcow_image *img;
	struct bio *bio;
	u64 host;
};

static void zero_work(struct work_struct *work)
{
	struct zero_job *j = container_of(work, struct zero_job, work);
	struct block_device *bdev = j->img->data;
	unsigned int noio = memalloc_noio_save();
	u64 bytes = bdev_nr_bytes(bdev), len = j->bio->bi_iter.bi_size;
	struct bio *bio = j->bio;
	int r = 0;

	len = j->host < bytes ? min(len, bytes - j->host) : 0;
	if (len)
		r = blkdev_issue_zeroout(bdev, j->host >> SECTOR_SHIFT,
					 len >> SECTOR_SHIFT, GFP_NOIO,
					 may_unmap(bio) ? 0 :
					 BLKDEV_ZERO_NOUNMAP);
	memalloc_noio_restore(noio);
	kfree(j);
	qcow_bio_end(bio, errno_to_blk_status(r));
}

/* The bio's range is at @host; it counts in the epoch already. */
static void zero_in_place(struct qcow_target *t, struct bio *bio, u64 host)
{
	struct zero_job *j = kmalloc(sizeof(*j), GFP_NOWAIT | __GFP_NOWARN);

	if (!j) {
		epoch_end(bio);
		qcow_device_throttle(t->dev, bio);
		return;
	}
	INIT_WORK(&j->work, zero_work);
	j->img = t->img;
	j->bio = bio;
	j->host = host;
	queue_work(t->dev->copy_wq, &j->work);
}

/*
 * Zeroes that are written
 */

/* Waits for the entry if it is busy, or tells what must be done first. */
static enum qcow_alloc write_ready(struct qcow_slice *s, u32 i,
				   struct bio *bio)
{
	enum qcow_alloc r = QCOW_ALLOC_FILL;

	spin_lock_irq(&s->lock);
	if (s->state & QCOW_SLICE_DEAD) {
		r = QCOW_ALLOC_RETRY;
	} else if (!(s->state & QCOW_SLICE_WRITABLE)) {
		r = QCOW_ALLOC_SHARED;
	} else if (qcow_entry_busy(s, i)) {
		bio_list_add(&s->waiters, bio);
		r = QCOW_ALLOC_BUSY;
	}
	spin_unlock_irq(&s->lock);
	return r;
}

/* What shows in the range is not zeroes, or it is not known. */
static void write_over(struct qcow_target *t, struct bio *bio)
{
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	u64 guest = qcow_bio_guest(bio);
	enum qcow_alloc r = QCOW_ALLOC_FILL;
	bool no_slice;

	rcu_read_lock();
	epoch_begin(t, bio);
	if (qcow_lookup(t->img, guest, true, &x) == QCOW_FOUND_HOST &&
	    x.len >= bio->bi_iter.bi_size) {
		rcu_read_unlock();
		zero_in_place(t, bio, x.host);
		return;
	}
	epoch_end(bio);
	no_slice = !x.slice;
	if (!no_slice)
		r = write_ready(x.slice, qcow_slice_index(t->img, guest), bio);
	rcu_read_unlock();
	if (no_slice && qcow_l1_entry(t->img, guest) & QCOW2_OFFSET_MASK)
		qcow_worker_load(t, t->img, guest, bio);
	else if (no_slice || r == QCOW_ALLOC_SHARED)
		qcow_worker_table(t, bio);
	else if (r == QCOW_ALLOC_RETRY)
		qcow_device_defer(t->dev, bio);
	else if (r == QCOW_ALLOC_FILL)
		qcow_fill_start(t, bio);
}

static void write_zeroes(struct qcow_target *t, struct bio *bio)
{
	struct qcow_extent x = { .len = bio->bi_iter.bi_size };
	u64 guest = qcow_bio_guest(bio);
	struct qcow_io *io = qcow_io(bio);
	enum qcow_found found;

	rcu_read_lock();
	found = qcow_lookup_layers(t, guest, io->layer, &x);
	rcu_read_unlock();
	if (found == QCOW_FOUND_MISS) {
		io->layer = x.from;
		qcow_worker_load(t, t->layers[x.layer].img, guest, bio);
	} else if (found == QCOW_FOUND_ZERO && !t->img->data_raw &&
		   x.len >= bio->bi_iter.bi_size) {
		qcow_bio_end(bio, BLK_STS_OK);
	} else {
		write_over(t, bio);
	}
}

/*
 * Entries
 */

enum step {
	STEP_ON,	/* some of the bio is done */
	STEP_AGAIN,	/* nothing is done: look again */
	STEP_TAKEN,	/* the bio is somebody else's */
	STEP_SHARED,	/* the L2 table must be copied */
	STEP_WRITE,	/* the bio must be written */
};

/* What a zeroed entry with no cluster is. */
static u64 entry_zeroed(const struct qcow_target *t)
{
	return has_below(t) ? QCOW2_L2_ZERO : 0;
}

/* The new entry; *@frees: the old one's clusters go. */
static u64 entry_zero(struct qcow_target *t, const struct bio *bio, u64 guest,
		      u64 e, bool *frees)
{
	const struct qcow_image *img = t->img;
	bool own = !(e & QCOW2_L2_COMPRESSED) && e & QCOW2_ENTRY_COPIED &&
		e & QCOW2_OFFSET_MASK;

	*frees = false;
	if (!e || e == QCOW2_ENTRY_COPIED)
		return must_hide(t, bio, guest) ? entry_zeroed(t) : e;
	if (e == QCOW2_L2_ZERO)
		return e;
	if (own && !may_unmap(bio) && img->h.version >= 3)
		return e | QCOW2_L2_ZERO;
	*frees = true;
	return entry_zeroed(t);
}

/* The same for subclusters of an extended entry. */
static u64 ext_zero(struct qcow_target *t, const struct bio *bio, u64 guest,
		    u64 e, u64 *bitmap, u32 mask, bool *frees)
{
	bool has = e & (QCOW2_L2_COMPRESSED | QCOW2_OFFSET_MASK);
	u64 b = *bitmap;

	*frees = false;
	b |= (u64)mask << 32;
	b &= ~(u64)mask;
	if (!has && !must_hide(t, bio, guest))
		b = *bitmap;
	if (e & QCOW2_L2_COMPRESSED)
		*frees = true;
	else if (has && !(u32)b)
		*frees = may_unmap(bio) || !(e & QCOW2_ENTRY_COPIED);
	*bitmap = b;
	return *frees ? 0 : e;
}

/* The subclusters of the cluster at @guest that the bio covers. */
static u32 covered(const struct qcow_target *t, const struct bio *bio,
		   u64 guest)
{
	const struct qcow_image *img = t->img;
	u32 in = (guest & (img->cluster_size - 1)) >> img->sc_bits;
	u64 base = round_down(guest, (u64)img->cluster_size);
	u32 out = min_t(u64, units_end(t, bio) - base, img->cluster_size) >>
		img->sc_bits;

	return out > in ? (u32)GENMASK_ULL(out - 1, in) : 0;
}

/* Adds what @e owned to the record; false: it does not follow. */
static bool freed_merge(const struct qcow_image *img, struct qcow_freed *f,
			u64 e)
{
	struct qcow_freed one;

	if (!qcow_freed_set(img, &one, e))
		return true;
	if (!f->length) {
		f->offset = one.offset;
		f->length = one.length;
		f->flags = one.flags;
		return true;
	}
	if (one.flags & DM_QCOW_RUN_COMPRESSED || one.flags != f->flags ||
	    one.offset != f->offset + f->length)
		return false;
	f->length += one.length;
	return true;
}

/* One entry at @guest; s->lock is held. */
static enum step zero_entry(struct qcow_target *t, struct qcow_slice *s,
			    struct bio *bio, u64 guest, struct qcow_freed *f)
{
	struct qcow_image *img = t->img;
	u32 i = qcow_slice_index(img, guest), mask = 1;
	u64 *ent = qcow_ent(s, i), e, bitmap = 0;
	bool frees;

	if (qcow_entry_busy(s, i))
		return STEP_TAKEN;
	if (img->ext) {
		mask = covered(t, bio, guest);
		bitmap = ent[1];
		if (*ent & QCOW2_L2_COMPRESSED && mask != U32_MAX)
			return is_discard(bio) ? STEP_ON : STEP_WRITE;
		e = ext_zero(t, bio, guest, *ent, &bitmap, mask, &frees);
	} else {
		e = entry_zero(t, bio, guest, *ent, &frees);
	}
	if (frees && !freed_merge(img, f, *ent))
		return STEP_AGAIN;
	if (e != *ent || (img->ext && bitmap != ent[1]))
		qcow_entry_link(s, i, e, bitmap, false);
	return STEP_ON;
}

/* How far one step goes where layers below must be looked at. */
static u64 pass_bytes(const struct qcow_target *t)
{
	return t->nr_layers == 1 ? U64_MAX >> 1 :
		(u64)PASS_CLUSTERS << t->img->cluster_bits;
}

/* As many entries of the slice as one record of freed clusters can hold. */
static enum step zero_run(struct qcow_target *t, struct qcow_slice *s,
			  struct bio *bio, struct qcow_freed *f, u64 *done)
{
	struct qcow_image *img = t->img;
	u64 guest = qcow_bio_guest(bio), end = guest + bio->bi_iter.bi_size;
	u64 span = 1ULL << img->slice_span_bits;
	enum step r = STEP_ON;

	end = min(end, round_down(guest, span) + span);
	end = min(end, guest + pass_bytes(t));
	*done = 0;
	if (s->state & QCOW_SLICE_DEAD)
		return STEP_AGAIN;
	if (!(s->state & QCOW_SLICE_WRITABLE))
		return STEP_SHARED;
	while (guest + *done < end && r == STEP_ON) {
		u64 at = guest + *done;

		r = zero_entry(t, s, bio, at, f);
		if (r == STEP_ON)
			*done += img->cluster_size -
				(at & (img->cluster_size - 1));
	}
	if (r == STEP_TAKEN && !*done)
		bio_list_add(&s->waiters, bio);
	return *done ? STEP_ON : r;
}

/* No L2 table: how much of the bio can be left as it is. */
static u64 no_table_run(struct qcow_target *t, const struct bio *bio)
{
	struct qcow_image *img = t->img;
	u64 guest = qcow_bio_guest(bio), span = 1ULL << img->l2_span_bits;
	u64 len = min_t(u64, bio->bi_iter.bi_size,
			span - (guest & (span - 1))), done = 0;

	if (!has_below(t) || (t->nr_layers == 1 && is_discard(bio)))
		return len;
	if (t->nr_layers == 1)
		return 0;
	len = min(len, pass_bytes(t));
	while (done < len && qcow_zero_below(t, guest + done))
		done += img->cluster_size -
			((guest + done) & (img->cluster_size - 1));
	return min(done, len);
}

/* What is below is to be known where entries are changed.  True: it is. */
static bool know_below(struct qcow_target *t, struct bio *bio)
{
	struct qcow_io *io = qcow_io(bio);
	unsigned int from = io->layer;
	bool known;
	u64 miss;

	rcu_read_lock();
	known = qcow_probe_below(t, qcow_bio_guest(bio), &from, &miss);
	rcu_read_unlock();
	io->layer = known ? 0 : from;
	if (!known)
		qcow_worker_load(t, t->layers[from].img, miss, bio);
	return known;
}

/* What is below a slice, as far as it is in memory, under no lock. */
static void look_below(struct qcow_target *t, const struct bio *bio)
{
	u64 guest = qcow_bio_guest(bio), span = 1ULL << t->img->slice_span_bits;
	u64 end = min(guest + bio->bi_iter.bi_size,
		      round_down(guest, span) + span);

	if (t->nr_layers == 1)
		return;
	end = min(end, guest + pass_bytes(t));
	for (; guest < end; guest += t->img->cluster_size)
		qcow_zero_below(t, guest);
}

static enum step zero_slice(struct qcow_target *t, struct bio *bio)
{
	struct qcow_freed *f = kzalloc(sizeof(*f), GFP_NOIO | __GFP_NORETRY |
				       __GFP_NOWARN);
	enum step r = STEP_AGAIN;
	struct qcow_slice *s;
	u64 done = 0;

	if (!f) {
		qcow_device_throttle(t->dev, bio);
		return STEP_TAKEN;
	}
	rcu_read_lock();
	s = qcow_slice_find(t->img, qcow_bio_guest(bio));
	if (s) {
		look_below(t, bio);
		spin_lock_irq(&s->lock);
		r = zero_run(t, s, bio, f, &done);
		spin_unlock_irq(&s->lock);
	}
	rcu_read_unlock();
	if (f->length)
		qcow_commit_freed(t->img, f);
	else
		kfree(f);
	if (!s) {
		qcow_worker_load(t, t->img, qcow_bio_guest(bio), bio);
		return STEP_TAKEN;
	}
	if (r != STEP_TAKEN)
		bio_skip(bio, done);
	return r;
}

static enum step zero_step(struct qcow_target *t, struct bio *bio)
{
	u64 run;

	if (t->nr_layers > 1 && !know_below(t, bio))
		return STEP_TAKEN;
	if (qcow_l1_entry(t->img, qcow_bio_guest(bio)) & QCOW2_OFFSET_MASK)
		return zero_slice(t, bio);
	rcu_read_lock();
	run = no_table_run(t, bio);
	rcu_read_unlock();
	bio_skip(bio, run);
	return run ? STEP_ON : STEP_SHARED;
}

static void zero_entries(struct qcow_target *t, struct bio *bio)
{
	unsigned int steps = 0;
	enum step r = STEP_ON;

	while (bio->bi_iter.bi_size) {
		if (qcow_dirty_over(t->img) || steps++ == PASS_STEPS)
			r = STEP_AGAIN;
		else
			r = zero_step(t, bio);
		if (r != STEP_ON)
			break;
		cond_resched();
	}
	switch (r) {
	case STEP_ON:
		qcow_bio_end(bio, BLK_STS_OK);
		break;
	case STEP_AGAIN:
		qcow_device_defer(t->dev, bio);
		break;
	case STEP_SHARED:
		qcow_worker_table(t, bio);
		break;
	case STEP_WRITE:
		qcow_fill_start(t, bio);
		break;
	case STEP_TAKEN:
		break;
	}
}

/* A discard loses the ends that are no whole unit.  False: it has ended. */
static bool discard_trim(struct qcow_target *t, struct bio *bio)
{
	u32 unit = 1U << t->img->sc_bits;
	u64 guest = qcow_bio_guest(bio);
	u64 start = round_up(guest, unit);
	u64 end = min(units_end(t, bio), guest + bio->bi_iter.bi_size);

	if (start >= end || no_zero_flag(t)) {
		qcow_bio_end(bio, BLK_STS_OK);
		return false;
	}
	bio->bi_iter.bi_sector = start >> SECTOR_SHIFT;
	bio->bi_iter.bi_size = end - start;
	return true;
}

void qcow_zero_process(struct qcow_target *t, struct bio *bio)
{
	u32 unit = 1U << t->img->sc_bits;

	if (qcow_worker_refuses(t, bio))
		return;
	qcow_fua_later(bio);
	if (is_discard(bio)) {
		if (!discard_trim(t, bio))
			return;
		if (t->img->external) {
			rcu_read_lock();
			epoch_begin(t, bio);
			rcu_read_unlock();
			zero_in_place(t, bio, qcow_bio_guest(bio));
			return;
		}
	} else if (is_written(t) || bio->bi_iter.bi_size < unit) {
		write_zeroes(t, bio);
		return;
	}
	zero_entries(t, bio);
}
