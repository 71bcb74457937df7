// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading compressed clusters.
 *
 * Owns an image's jobs: a job reads the compressed data of one cluster,
 * decompresses it in a work item, serves everybody who has come to wait for
 * it, and leaves the cluster in the cache (dcache.c).  While it runs nobody
 * begins another one for the same cluster, except after a job that was content
 * with a part of it (job_extent()).
 *
 * The number of jobs limits the memory that is in use; who finds none free
 * waits in the backlog.  Job 0 has its memory from the start, so that reads
 * go on, if slowly, when there is none left.  Any other that gets none hands
 * over to job 0 or, while that is busy, goes back to the backlog.
 *
 * Locking: decomp.lock, in process context only; under it no more is taken
 * than the reference of a cached cluster.  A job that has left the busy list
 * has no more who wait for it.
 */
#define pr_fmt(fmt) "dm-qcow: " fmt

#include <linux/bio.h>
#include <linux/completion.h>
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "codec.h"
#include "compat.h"
#include "dcache.h"
#include "decomp.h"
#include "device.h"
#include "image.h"
#include "io.h"
#include "target.h"
#include "waiters.h"

#define JOBS_MAX	32
#define JOBS_BYTES	(32U << 20)
#define GFP_TRY		(GFP_NOIO | __GFP_NORETRY | __GFP_NOWARN)

/**
 * struct job - one cluster being decompressed
 * @node: decomp.free or .busy
 * @d: whose
 * @key: which cluster, while it is busy
 * @first: nobody has asked for it lately
 * @waiters: who wants it, under decomp.lock
 * @codec: its workspace
 * @buf: holds the compressed data
 * @start: where in @buf that begins
 * @len: of it, bytes; an upper bound
 * @dc: gets the cluster, and goes to the cache; NULL: @out gets it
 * @out: of job 0 only
 * @reads: bios that read the data, and one for the starter
 * @status: of these
 * @work: decompresses
 */
struct job {
	struct list_head node;
	struct qcow_decomp *d;
	u64 key;
	bool first;
	struct qcow_waiters waiters;
	struct qcow_codec *codec;
	void *buf;
	u32 start;
	u32 len;
	struct qcow_dc *dc;
	void *out;
	atomic_t reads;
	blk_status_t status;
	struct work_struct work;
};

/**
 * struct qcow_decomp - the jobs of one image
 * @img: its image
 * @zstd: else zlib
 * @ready: @jobs are there
 * @setup: they are made under it, at the first use
 * @jobs: all of them
 * @nr_jobs: how many
 * @lock: guards all that follows
 * @free: job 0 first, if it is
 * @busy: those that others may join
 * @backlog: who waits for a free job; there is one that runs then
 * @running: jobs that are not free, and work items that are not through
 * @quiet: woken when there are none
 */
struct qcow_decomp {
	struct qcow_image *img;
	bool zstd;
	bool ready;
	struct mutex setup;
	struct job *jobs;
	unsigned int nr_jobs;
	spinlock_t lock;
	struct list_head free;
	struct list_head busy;
	struct qcow_waiters backlog;
	unsigned int running;
	wait_queue_head_t quiet;
};

static struct workqueue_struct *decomp_wq;
static struct shrinker *decomp_shrinker;

/*
 * Setting up
 */

static void jobs_free(struct qcow_decomp *d)
{
	if (!d->jobs)
		return;
	qcow_codec_free(d->jobs[0].codec);
	kvfree(d->jobs[0].buf);
	kvfree(d->jobs[0].out);
	kvfree(d->jobs);
	d->jobs = NULL;
}

static void job_work(struct work_struct *work);

static int jobs_make(struct qcow_decomp *d)
{
	u32 cs = d->img->cluster_size, i;
	/* the longest descriptor, from anywhere in a block to anywhere */
	u32 most = 2 * cs + 2 * bdev_logical_block_size(d->img->bdev);

	d->zstd = d->img->h.compression_type;
	d->nr_jobs = clamp(2 * num_online_cpus(), 4U, (unsigned int)JOBS_MAX);
	d->nr_jobs = min(d->nr_jobs, JOBS_BYTES / (2 * cs));
	d->jobs = kvcalloc(d->nr_jobs, sizeof(*d->jobs), GFP_NOIO);
	if (!d->jobs)
		return -ENOMEM;
	d->jobs[0].codec = qcow_codec_new(d->zstd, GFP_NOIO);
	d->jobs[0].buf = kvmalloc(most, GFP_NOIO);
	d->jobs[0].out = kvmalloc(cs, GFP_NOIO);
	if (!d->jobs[0].codec || !d->jobs[0].buf || !d->jobs[0].out) {
		jobs_free(d);
		return -ENOMEM;
	}
	for (i = 0; i < d->nr_jobs; i++) {
		d->jobs[i].d = d;
		qcow_waiters_init(&d->jobs[i].waiters);
		INIT_WORK(&d->jobs[i].work, job_work);
		list_add_tail(&d->jobs[i].node, &d->free);
	}
	return 0;
}

/* Images without compressed clusters have no jobs. */
static int decomp_setup(struct qcow_decomp *d)
{
	int r = 0;

	if (likely(smp_load_acquire(&d->ready)))
		return 0;
	mutex_lock(&d->setup);
	if (!d->ready) {
		r = jobs_make(d);
		if (!r)
			smp_store_release(&d->ready, true);
	}
	mutex_unlock(&d->setup);
	return r;
}

/*
 * Jobs
 */

static inline bool job_is_reserve(const struct job *job)
{
	return job->out;
}

static struct job *job_find(struct qcow_decomp *d, u64 key)
{
	struct job *job;

	lockdep_assert_held(&d->lock);
	list_for_each_entry(job, &d->busy, node)
		if (job->key == key)
			return job;
	return NULL;
}

static struct job *job_take(struct qcow_decomp *d, u64 key)
{
	struct job *job = list_first_entry_or_null(&d->free, struct job, node);

	lockdep_assert_held(&d->lock);
	if (job) {
		list_move_tail(&job->node, &d->busy);
		job->key = key;
		job->first = !qcow_dcache_seen(d->img, key,
					       d->img->cluster_size);
		d->running++;
	}
	return job;
}

/* Gives back everything but what job 0 keeps. */
static void job_clear(struct job *job)
{
	qcow_dcache_put(job->dc);
	job->dc = NULL;
	if (job_is_reserve(job))
		return;
	qcow_codec_put(job->codec);
	job->codec = NULL;
	kvfree(job->buf);
	job->buf = NULL;
}

/* It is on no list: it can be taken again, and still counts in d->running. */
static void job_release(struct job *job)
{
	struct qcow_decomp *d = job->d;

	job_clear(job);
	spin_lock(&d->lock);
	if (job_is_reserve(job))
		list_add(&job->node, &d->free);
	else
		list_add_tail(&job->node, &d->free);
	spin_unlock(&d->lock);
}

/* The last thing that is done with the image. */
static void decomp_leave(struct qcow_decomp *d)
{
	spin_lock(&d->lock);
	if (!--d->running)
		wake_up(&d->quiet);
	spin_unlock(&d->lock);
}

/* The memory that a job needs: @bytes for the compressed data. */
static bool job_prepare(struct job *job, u32 bytes)
{
	struct qcow_decomp *d = job->d;

	if (!job_is_reserve(job)) {
		job->codec = qcow_codec_get(d->zstd, GFP_TRY);
		job->buf = kvmalloc(bytes, GFP_TRY);
		if (!job->codec || !job->buf)
			return false;
	}
	job->dc = qcow_dcache_alloc(d->img, job->key, d->img->cluster_size);
	return job->dc || job_is_reserve(job);
}

/*
 * No memory: job 0 goes on instead, and is returned.  While it is busy all
 * who wait go to the backlog, and nothing may be touched any more: NULL.
 */
static struct job *job_hand_over(struct job *job)
{
	struct qcow_decomp *d = job->d;
	struct job *to = &d->jobs[0];

	spin_lock(&d->lock);
	if (list_first_entry_or_null(&d->free, struct job, node) == to) {
		list_move_tail(&to->node, &d->busy);
		to->key = job->key;
		to->first = job->first;
		to->start = job->start;
		to->len = job->len;
		qcow_waiters_move(&job->waiters, &to->waiters);
		d->running++;
	} else {
		qcow_waiters_move(&job->waiters, &d->backlog);
		to = NULL;
	}
	list_del(&job->node);
	spin_unlock(&d->lock);
	job_release(job);
	decomp_leave(d);
	return to;
}

static void job_read_end(struct bio *bio)
{
	struct job *job = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(job->status, bio->bi_status);
	bio_put(bio);
	if (atomic_dec_and_test(&job->reads))
		queue_work(decomp_wq, &job->work);
}

/* Adds what fits of [p, p + len): as one piece, or page by page. */
static u32 bio_add_buf(struct bio *bio, void *p, u32 len)
{
	u32 done = 0, n;

	if (!is_vmalloc_addr(p))
		return bio_add_page(bio, virt_to_page(p), len,
				    offset_in_page(p));
	while (done < len) {
		n = min_t(u32, len - done, PAGE_SIZE - offset_in_page(p));
		if (bio_add_page(bio, vmalloc_to_page(p), n,
				 offset_in_page(p)) != n)
			break;
		done += n;
		p += n;
	}
	return done;
}

/* Reads @len bytes from @off on, both whole blocks of the device. */
static void job_read(struct job *job, u64 off, u32 len)
{
	struct qcow_image *img = job->d->img;
	void *p = job->buf;
	struct bio *bio;
	u32 nr, n;

	job->status = BLK_STS_OK;
	atomic_set(&job->reads, 1);
	while (len) {
		nr = is_vmalloc_addr(p) ? DIV_ROUND_UP(len, PAGE_SIZE) : 1;
		bio = bio_alloc_bioset(img->bdev, bio_max_segs(nr),
				       REQ_OP_READ, GFP_NOIO, &img->bios);
		bio->bi_iter.bi_sector = off >> SECTOR_SHIFT;
		bio->bi_private = job;
		bio->bi_end_io = job_read_end;
		n = bio_add_buf(bio, p, len);
		atomic_inc(&job->reads);
		submit_bio_noacct(bio);
		off += n;
		p += n;
		len -= n;
	}
	if (atomic_dec_and_test(&job->reads))
		queue_work(decomp_wq, &job->work);
}

/* False: all who wait are in the backlog, since there is no memory. */
static bool job_start(struct job *job)
{
	struct qcow_decomp *d = job->d;
	struct qcow_image *img = d->img;
	u64 off = qcow2_compressed_offset(job->key, img->cluster_bits);
	u64 bytes = bdev_nr_bytes(img->bdev);
	u32 block = bdev_logical_block_size(img->bdev);
	u64 first = round_down(off, block), have;
	u32 want;

	job->start = off - first;
	job->len = qcow2_compressed_length(job->key, img->cluster_bits);
	want = round_up(job->start + job->len, block);
	while (!job_prepare(job, want)) {
		job = job_hand_over(job);
		if (!job)
			return false;
	}
	/* behind the device's end are zeroes */
	have = first < bytes ? min_t(u64, want, bytes - first) : 0;
	have = round_down(have, block);
	memset(job->buf + have, 0, want - have);
	job_read(job, first, have);
	return true;
}

/*
 * Serves one of the two, or makes it wait for a job; may begin that.  False: it
 * is in the backlog.
 */
static bool decomp_request(struct qcow_decomp *d, u64 key, struct bio *bio,
			   struct qcow_sleeper *s)
{
	struct qcow_dc *dc = NULL;
	struct qcow_waiters w;
	struct job *job;
	bool start = false;

	spin_lock(&d->lock);
	job = job_find(d, key);
	/* it is in the cache before its job leaves the list */
	if (!job)
		dc = qcow_dcache_get(d->img, key);
	if (!job && !dc) {
		job = job_take(d, key);
		start = job;
	}
	if (!dc)
		qcow_waiters_add(job ? &job->waiters : &d->backlog, bio, s);
	spin_unlock(&d->lock);
	if (start)
		return job_start(job);
	if (!dc)
		return job;
	qcow_waiters_init(&w);
	qcow_waiters_add(&w, bio, s);
	qcow_waiters_fill(&w, dc->data, 0);
	qcow_dcache_put(dc);
	qcow_waiters_end(&w);
	return true;
}

/* Takes the next from the backlog, if a job is free; false: none. */
static bool backlog_pop(struct qcow_decomp *d, struct bio **bio,
			struct qcow_sleeper **s)
{
	*bio = NULL;
	*s = NULL;
	spin_lock(&d->lock);
	if (!list_empty(&d->free)) {
		/* there are few who sleep: one for each worker */
		*s = list_first_entry_or_null(&d->backlog.sleepers,
					      struct qcow_sleeper, node);
		if (*s)
			list_del(&(*s)->node);
		else
			*bio = bio_list_pop(&d->backlog.bios);
	}
	spin_unlock(&d->lock);
	return *bio || *s;
}

/*
 * A job has become free: the backlog goes on, until it has to wait again, for a
 * job or for the memory that job 0 has.
 */
static void decomp_kick(struct qcow_decomp *d)
{
	struct qcow_sleeper *s;
	struct bio *bio;

	while (backlog_pop(d, &bio, &s) &&
	       decomp_request(d, bio ? qcow_io(bio)->host : s->key, bio, s))
		cond_resched();
}

/*
 * How much of the cluster to decompress.  The first look into the middle of
 * one may well stay the only one for longer than the cache would keep it, and
 * half of the work is enough then.  Others
 * would need the rest: nobody can join any more.  (A zstd block is as large as
 * most clusters, so nothing would be saved.)
 */
static u32 job_extent(struct job *job)
{
	struct qcow_decomp *d = job->d;
	u32 cs = d->img->cluster_size, end = 0;
	struct bio *bio;

	if (d->zstd || !job->first)
		return cs;
	spin_lock(&d->lock);
	bio = qcow_waiters_only_bio(&job->waiters);
	if (bio && qcow_io(bio)->nr)
		end = qcow_io(bio)->nr + bio->bi_iter.bi_size;
	if (end > cs - cs / 4)
		end = 0;
	if (end)
		list_del_init(&job->node);
	spin_unlock(&d->lock);
	return end ?: cs;
}

static int job_decode(struct job *job, u32 extent)
{
	struct qcow_image *img = job->d->img;
	void *out = job->dc ? job->dc->data : job->out;
	int r = blk_status_to_errno(job->status);

	if (!r)
		r = qcow_codec_decode(job->codec, job->buf + job->start,
				      job->len, out, extent);
	if (r)
		pr_err_ratelimited("%pg: the compressed cluster at byte %llu %s\n",
				   img->bdev,
				   qcow2_compressed_offset(job->key,
							   img->cluster_bits),
				   job->status ? "cannot be read" :
				   "is damaged");
	return r;
}

static void job_work(struct work_struct *work)
{
	struct job *job = container_of(work, struct job, work);
	struct qcow_decomp *d = job->d;
	struct qcow_waiters w;
	struct bio *bio;
	u32 extent = job_extent(job);
	int r = job_decode(job, extent);

	if (!r && job->dc && extent == d->img->cluster_size)
		qcow_dcache_add(job->dc);
	qcow_waiters_init(&w);
	spin_lock(&d->lock);
	qcow_waiters_move(&job->waiters, &w);
	list_del(&job->node);
	spin_unlock(&d->lock);

	bio = bio_list_peek(&w.bios);
	if (bio && !r)
		qcow_stat_inc(qcow_io(bio)->t->dev->stats, decompressed);
	qcow_waiters_fill(&w, job->dc ? job->dc->data : job->out, r);
	job_release(job);
	qcow_waiters_end(&w);
	decomp_kick(d);
	decomp_leave(d);
}

/*
 * For the others
 */

bool qcow_decomp_hit(struct qcow_image *img, u64 entry, u32 in,
		     struct bio *bio)
{
	struct qcow_dc *c = qcow_dcache_get(img, qcow_dcache_key(entry));

	bool fits;

	if (!c)
		return false;
	fits = (u64)in + bio->bi_iter.bi_size <= c->size;
	if (likely(fits))
		qcow_bio_fill(bio, c->data + in);
	qcow_dcache_put_atomic(c);
	return fits;
}

void qcow_decomp_bio(struct qcow_image *img, u64 entry, u32 in,
		     struct bio *bio)
{
	struct qcow_io *io = qcow_io(bio);
	int r = decomp_setup(img->decomp);

	if (r || WARN_ON_ONCE((u64)in + bio->bi_iter.bi_size >
			      img->cluster_size)) {
		qcow_bio_end(bio, errno_to_blk_status(r ?: -EIO));
		return;
	}
	io->host = qcow_dcache_key(entry);
	io->nr = in;
	decomp_request(img->decomp, io->host, bio, NULL);
}

int qcow_decomp_read(struct qcow_image *img, u64 entry, u32 in, void *buf,
		     u32 len)
{
	struct qcow_sleeper s = {
		.key = qcow_dcache_key(entry),
		.buf = buf,
		.in = in,
		.len = len,
	};
	int r = decomp_setup(img->decomp);

	if (r || WARN_ON_ONCE((u64)in + len > img->cluster_size))
		return r ?: -EIO;
	init_completion(&s.done);
	decomp_request(img->decomp, s.key, NULL, &s);
	wait_for_completion_io(&s.done);
	return s.error;
}

void qcow_decomp_drop(struct qcow_image *img)
{
	qcow_dcache_drop(img);
}

int qcow_decomp_cache_init(struct qcow_image *img)
{
	struct qcow_decomp *d = kzalloc(sizeof(*d), GFP_KERNEL);

	img->decomp = d;
	if (!d)
		return -ENOMEM;
	d->img = img;
	mutex_init(&d->setup);
	spin_lock_init(&d->lock);
	INIT_LIST_HEAD(&d->free);
	INIT_LIST_HEAD(&d->busy);
	qcow_waiters_init(&d->backlog);
	init_waitqueue_head(&d->quiet);
	return 0;
}

void qcow_decomp_cache_exit(struct qcow_image *img)
{
	struct qcow_decomp *d = img->decomp;

	if (!d)
		return;
	/* whoever has ended the last bio may not be through */
	wait_event(d->quiet, !READ_ONCE(d->running));
	spin_lock(&d->lock);
	spin_unlock(&d->lock);
	qcow_dcache_drop(img);
	jobs_free(d);
	kfree(d);
	img->decomp = NULL;
}

static unsigned long shrink_count(struct shrinker *shrink,
				  struct shrink_control *sc)
{
	return qcow_dcache_count() + qcow_codecs_idle();
}

static unsigned long shrink_scan(struct shrinker *shrink,
				 struct shrink_control *sc)
{
	unsigned long n = qcow_codecs_trim(sc->nr_to_scan);

	if (n < sc->nr_to_scan)
		n += qcow_dcache_reclaim(sc->nr_to_scan - n);
	return n ?: SHRINK_STOP;
}

int qcow_decomp_init(void)
{
	decomp_wq = alloc_workqueue("dm-qcow-decomp",
				    WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!decomp_wq)
		return -ENOMEM;
	decomp_shrinker = qcow_shrinker_register(shrink_count, shrink_scan);
	if (decomp_shrinker)
		return 0;
	destroy_workqueue(decomp_wq);
	return -ENOMEM;
}

void qcow_decomp_exit(void)
{
	qcow_shrinker_unregister(decomp_shrinker);
	destroy_workqueue(decomp_wq);
	qcow_dcache_exit();
	qcow_codecs_trim(ULONG_MAX);
}
