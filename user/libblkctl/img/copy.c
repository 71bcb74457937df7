// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Copying disks, by several threads.
 *
 * Each thread takes the next chunk of the disk, reads it, looks for zeroes,
 * compresses, waits for its turn, gets places, and writes.  What is known to be
 * zeroes is passed over while a chunk is taken, and never read.
 * Owns: struct run, and buffers of the threads.
 * Locking: run.lock for all but the buffers; not held while data moves.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "codec/deflate.h"
#include "img/copy_int.h"
#include "img/img_int.h"

#define CHUNK		(512U << 10)
#define CHUNK_SPARSE	(2U << 20)	/* where zeroes are looked for in long runs */
#define CHUNK_PACKED	(128U << 10)	/* each thread has two buffers of it */
#define OVER_MAX	(256U << 20)	/* zeroes at a time, under the lock */
#define THREADS_MAX	16U

struct run {
	const struct blk_copy *c;
	pthread_mutex_t lock;
	pthread_cond_t turned;
	uint64_t off;		/* of the next chunk */
	uint64_t taken;		/* chunks so far */
	uint64_t turn;		/* whose turn it is to get places */
	atomic_bool no_offload;	/* the host cannot copy between these files */
	int rc;
	struct blk_error e;
};

/**
 * struct worker - one thread
 * @buf: a chunk; @packed: the same, each cluster compressed at its own place
 * @size: of each: PLAIN, EMPTY, or bytes of compressed data
 * @host: of each: where it goes
 */
struct worker {
	struct run *r;
	pthread_t thread;
	struct blk_deflate *deflate;
	uint8_t *buf;
	uint8_t *packed;
	size_t *size;
	uint64_t *host;
	uint64_t seq, off, len, n;
	struct blk_error e;
};

#define EMPTY	0U
#define PLAIN	SIZE_MAX

/* Whole clusters */
static uint64_t chunk_of(const struct blk_copy *c)
{
	uint64_t least = c->sparse > CHUNK ? CHUNK_SPARSE :
		c->compress ? CHUNK_PACKED : CHUNK;

	return BLK_MAX(least, c->unit);
}

/*
 * A target that has something
 */

/* Does it have nothing but @len bytes in the last of its clusters there? */
static bool is_whole(const struct blk_copy *c, uint64_t off, uint64_t len)
{
	return !c->over || !(len & (c->unit - 1)) ||
		off + len == blk_img_size(c->over);
}

/* @mapped: by the source; else what is below both shows, which is the same */
static int over_zeroes(const struct blk_copy *c, uint64_t off, uint64_t len,
		       bool mapped, struct blk_error *e)
{
	if (c->zeroed && !(mapped && c->hide))
		return 0;
	return mapped ?
		blk_img_write_zeroes(c->over, off, len, !c->zeroed, e) :
		blk_img_discard(c->over, off, len, true, e);
}

/*
 * Taking a chunk
 */

static int put_zeroes(struct run *r, uint64_t off, uint64_t len,
		      enum blk_ext_kind kind, struct blk_error *e)
{
	const struct blk_copy *c = r->c;
	bool mapped = kind != BLK_EXT_HOLE || !c->own;
	int rc;

	if (c->over)
		return over_zeroes(c, off, len, mapped, e);
	if (!mapped)
		return 0;
	if (c->build)
		return c->hide ? blk_build_zero(c->build, off,
						(len + c->unit - 1) / c->unit,
						e) : 0;
	if (c->zeroed)
		return 0;
	rc = blk_file_zero(c->raw, off, len);
	return rc == -EOPNOTSUPP ? -EOPNOTSUPP :
		rc ? img_io_error(c->raw, rc, "write zeroes to", e) : 0;
}

/* Can whole clusters from @off on be passed over?  How many bytes? */
static int pass_over(struct run *r, uint64_t off, uint64_t *passed,
		     struct blk_error *e)
{
	const struct blk_copy *c = r->c;
	struct blk_extent x;
	uint64_t n;
	int rc;

	*passed = 0;
	if (!c->sparse || (c->hide && c->no_zeroes && !c->own))
		return 0;
	rc = copy_look(c, off, c->over ? BLK_MIN(c->total - off, OVER_MAX) :
		       c->total - off, &x, e);
	if (rc || x.kind == BLK_EXT_DATA || x.kind == BLK_EXT_COMPRESSED)
		return rc;
	if (c->hide && c->no_zeroes && x.kind != BLK_EXT_HOLE)
		return 0;
	n = off + x.len == c->total && is_whole(c, off, x.len) ? x.len :
		x.len / c->unit * c->unit;
	if (!n)
		return 0;
	rc = put_zeroes(r, off, n, x.kind, e);
	if (rc == -EOPNOTSUPP)
		return 0;
	*passed = rc ? 0 : n;
	return rc;
}

/* Under the lock; false: there is no more */
static bool take(struct run *r, struct worker *w)
{
	const struct blk_copy *c = r->c;
	uint64_t passed;

	while (!r->rc && r->off < c->total) {
		r->rc = pass_over(r, r->off, &passed, &r->e);
		if (!r->rc && passed)
			r->rc = c->done(c->opaque, passed, false, &r->e);
		if (r->rc || passed) {
			r->off += passed;
			continue;
		}
		w->off = r->off;
		w->len = BLK_MIN(chunk_of(c), c->total - r->off);
		w->seq = r->taken++;
		r->off += w->len;
		return true;
	}
	return false;
}

/*
 * What to do with each cluster
 */

/* Does the source's own layer have any of it? */
static int is_mapped(const struct blk_copy *c, uint64_t off, uint64_t len,
		     bool *mapped, struct blk_error *e)
{
	struct blk_extent x = { .len = 0 };
	int rc = 0;

	*mapped = !c->own;
	for (; !rc && !*mapped && len; off += x.len, len -= x.len) {
		rc = copy_look(c, off, len, &x, e);
		*mapped = !rc && x.kind != BLK_EXT_HOLE;
	}
	return rc;
}

/* One cluster: EMPTY ones say in .host whether they hide something */
static int judge_one(struct worker *w, uint64_t i)
{
	const struct blk_copy *c = w->r->c;
	uint64_t u = c->unit;
	uint64_t off = w->off + i * u, len = BLK_MIN(u, w->len - i * u);
	bool whole = is_whole(c, off, len), mapped;
	int rc = is_mapped(c, off, len, &mapped, &w->e);

	mapped |= !whole;
	w->host[i] = (c->hide || c->over) && mapped;
	w->size[i] = PLAIN;
	if (rc)
		return rc;
	if (!mapped || (c->sparse && blk_is_zero(w->buf + i * u, u) &&
			!(c->hide && c->no_zeroes)))
		w->size[i] = EMPTY;
	else if (c->compress && whole &&
		 blk_codec_deflate(w->deflate, w->buf + i * u, u,
				   w->packed + i * u, u - 1, &w->size[i]))
		w->size[i] = PLAIN;
	return 0;
}

/* The rest of the last cluster is zeroes. */
static void fill_up(struct worker *w)
{
	uint64_t u = w->r->c->unit;

	w->n = (w->len + u - 1) / u;
	if (!w->r->c->raw)
		memset(w->buf + w->len, 0, w->n * u - w->len);
}

static int judge(struct worker *w)
{
	uint64_t i;
	int rc = 0;

	for (i = 0; !rc && i < w->n; i++)
		rc = judge_one(w, i);
	return rc;
}

/* Clusters from @i on that are of one kind */
static uint64_t same_kind(const struct worker *w, uint64_t i)
{
	uint64_t n = 1;

	while (i + n < w->n && w->size[i + n] == w->size[i])
		n++;
	return n;
}

/* Clusters from @i on, *@n of them */
static int write_over(struct worker *w, uint64_t i, uint64_t *n)
{
	const struct blk_copy *c = w->r->c;
	uint64_t at = i * c->unit, len;

	*n = w->size[i] == PLAIN ? same_kind(w, i) : 1;
	len = BLK_MIN(*n * c->unit, w->len - at);
	if (w->size[i] == EMPTY)
		return over_zeroes(c, w->off + at, len, w->host[i], &w->e);
	if (w->size[i] == PLAIN)
		return blk_img_write(c->over, w->buf + at, len, w->off + at,
				     &w->e);
	return img_write_packed(c->over, w->packed + at, w->size[i],
				w->off + at, &w->e);
}

static int place(struct worker *w)
{
	const struct blk_copy *c = w->r->c;
	uint64_t i, j, n, host, at;
	int rc = 0;

	for (i = 0; !rc && i < w->n; i += n) {
		at = w->off + i * c->unit;
		n = 1;
		if (c->over) {
			rc = write_over(w, i, &n);
		} else if (w->size[i] == EMPTY) {
			/* .host: does it hide something? */
			if (w->host[i])
				rc = blk_build_zero(c->build, at, 1, &w->e);
		} else if (w->size[i] == PLAIN) {
			n = same_kind(w, i);
			rc = blk_build_place(c->build, at, n, &host, &w->e);
			for (j = 0; j < n; j++)
				w->host[i + j] = host + j * c->unit;
		} else {
			rc = blk_build_pack(c->build, at, w->size[i],
					    &w->host[i], &w->e);
		}
	}
	return rc;
}

static int wait_and_place(struct worker *w)
{
	struct run *r = w->r;
	int rc;

	if (!r->c->in_order)
		return place(w);
	pthread_mutex_lock(&r->lock);
	while (r->turn != w->seq && !r->rc)
		pthread_cond_wait(&r->turned, &r->lock);
	rc = r->rc;
	pthread_mutex_unlock(&r->lock);
	if (rc)
		return rc;
	rc = place(w);
	pthread_mutex_lock(&r->lock);
	r->turn++;
	pthread_cond_broadcast(&r->turned);
	pthread_mutex_unlock(&r->lock);
	return rc;
}

static int write_at(struct worker *w, struct blk_file *f, const void *p,
		    uint64_t len, uint64_t host)
{
	int rc = blk_file_write(f, p, len, host);

	return rc ? img_io_error(f, rc, "write to", &w->e) : 0;
}

/* Compressed clusters of one chunk lie behind each other, more often than not */
static int write_packed(struct worker *w, uint64_t *i)
{
	const struct blk_copy *c = w->r->c;
	uint64_t host = w->host[*i], len = 0;

	for (; *i < w->n && w->size[*i] != PLAIN && w->size[*i] != EMPTY &&
	     w->host[*i] == host + len; (*i)++) {
		memmove(w->packed + len, w->packed + *i * c->unit, w->size[*i]);
		len += w->size[*i];
	}
	return write_at(w, blk_build_file(c->build), w->packed, len, host);
}

static int write_build(struct worker *w)
{
	const struct blk_copy *c = w->r->c;
	uint64_t i, n, len;
	int rc = 0;

	for (i = 0; !rc && i < w->n;) {
		if (w->size[i] != PLAIN && w->size[i] != EMPTY) {
			rc = write_packed(w, &i);
			continue;
		}
		n = same_kind(w, i);
		len = n * c->unit;
		/* a data file ends where the disk does */
		if (w->host[i] == w->off + i * c->unit)
			len = BLK_MIN(len, w->len - i * c->unit);
		if (w->size[i] == PLAIN) {
			blk_build_encrypt(c->build, w->host[i],
					  w->buf + i * c->unit,
					  n * c->unit);
			rc = write_at(w, blk_build_file(c->build),
				      w->buf + i * c->unit, len, w->host[i]);
		}
		i += n;
	}
	return rc;
}

static int write_raw(struct worker *w)
{
	const struct blk_copy *c = w->r->c;
	uint64_t i, n, len, s = c->sparse ? c->sparse : w->len;
	int rc = 0;

	for (i = 0; !rc && i < w->len; i += n) {
		bool zero = c->sparse &&
			blk_is_zero(w->buf + i, BLK_MIN(s, w->len - i));

		for (n = BLK_MIN(s, w->len - i); i + n < w->len;
		     n += BLK_MIN(s, w->len - i - n))
			if ((c->sparse && blk_is_zero(w->buf + i + n,
					BLK_MIN(s, w->len - i - n))) != zero)
				break;
		len = BLK_MIN(n, w->len - i);
		if (zero && c->zeroed)
			continue;
		if (!zero || blk_file_zero(c->raw, w->off + i, len))
			rc = write_at(w, c->raw, w->buf + i, len, w->off + i);
	}
	return rc;
}

/* All of it is data that has a place in a file: the host may copy it. */
static bool is_offload(struct worker *w)
{
	return w->r->c->offload && !w->r->no_offload &&
		copy_is_plain(w->r->c, w->off, w->len);
}

static bool offload(struct worker *w)
{
	const struct blk_copy *c = w->r->c;

	if (c->build ? copy_by_host(c, w->off, w->len, blk_build_file(c->build),
				    w->host[0]) :
	    copy_by_host(c, w->off, w->len, c->raw, w->off))
		return true;
	w->r->no_offload = true;
	return false;
}

static int copy_chunk(struct worker *w)
{
	const struct blk_copy *c = w->r->c;
	bool plain = is_offload(w), copied;
	uint64_t i;
	int rc = 0;

	w->n = (w->len + c->unit - 1) / c->unit;
	for (i = 0; plain && i < w->n; i++)
		w->size[i] = PLAIN;
	if (plain && c->build)
		rc = wait_and_place(w);
	copied = !rc && plain && offload(w);
	if (!rc && !copied)
		rc = copy_read(c, w->buf, w->off, w->len, &w->e);
	if (!rc && !copied)
		fill_up(w);
	if (!rc && !plain && !c->raw)
		rc = judge(w);
	if (!rc && !plain && !c->raw)
		rc = wait_and_place(w);
	if (!rc && !copied && !c->over)
		rc = c->build ? write_build(w) : write_raw(w);
	return rc ? rc : c->done(c->opaque, w->len, true, &w->e);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct run *r = w->r;
	int rc;

	pthread_mutex_lock(&r->lock);
	while (take(r, w)) {
		pthread_mutex_unlock(&r->lock);
		rc = copy_chunk(w);
		pthread_mutex_lock(&r->lock);
		if (rc && !r->rc) {
			r->rc = rc;
			r->e = w->e;
		}
	}
	pthread_cond_broadcast(&r->turned);
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static int prepare(struct worker *w, struct run *r)
{
	const struct blk_copy *c = r->c;
	size_t chunk = chunk_of(c), n = chunk / c->unit + 1;

	w->r = r;
	w->size = calloc(n, sizeof(*w->size));
	w->host = calloc(n, sizeof(*w->host));
	if (posix_memalign((void **)&w->buf, 4096, chunk))
		w->buf = NULL;
	if (c->compress) {
		w->deflate = blk_codec_deflate_new(c->type);
		w->packed = malloc(chunk);
	}
	return w->size && w->host && w->buf &&
		(!c->compress || (w->deflate && w->packed)) ? 0 : -ENOMEM;
}

static void release(struct worker *w)
{
	blk_codec_deflate_free(w->deflate);
	free(w->packed);
	free(w->buf);
	free(w->size);
	free(w->host);
}

int blk_copy_run(const struct blk_copy *c, struct blk_error *e)
{
	struct run r = { .c = c };
	struct worker w[THREADS_MAX] = { 0 };
	unsigned int i, n = 0, threads = BLK_MIN(c->threads, THREADS_MAX);

	pthread_mutex_init(&r.lock, NULL);
	pthread_cond_init(&r.turned, NULL);
	for (i = 0; i < threads; i++) {
		if (prepare(&w[i], &r))
			break;
		if (pthread_create(&w[i].thread, NULL, work, &w[i]))
			break;
		n++;
	}
	for (i = 0; i < n; i++)
		pthread_join(w[i].thread, NULL);
	for (i = 0; i < threads; i++)
		release(&w[i]);
	pthread_cond_destroy(&r.turned);
	pthread_mutex_destroy(&r.lock);
	if (!n)
		return blk_error_set(e, BLK_ERR_FAILED, EAGAIN,
				     "no memory or no thread for this");
	if (r.rc && e)
		*e = r.e;
	return r.rc;
}
