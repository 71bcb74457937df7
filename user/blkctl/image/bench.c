// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image bench: how fast requests to an image are.
 *
 * Owns the threads, one for each request that may be under way.
 * Locking: bench.lock around who does what; not held during I/O.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "image/image.h"

#define THREADS_MAX	256U
#define BUFFER_MAX	(1ULL << 30)

struct bench_args {
	struct image_common common;
	const char *file;
	struct opt_number count;
	struct opt_number depth;
	struct opt_number flush;
	struct opt_number pattern;
	const char *aio;
	const char *offset;
	const char *buffer;
	const char *step;
	bool native;
	bool no_drain;
	bool write;
};

static const struct opt bench_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE,
	  .offset = offsetof(struct bench_args, file) },
	{ OPT_NUMBER, 'c', "count", "N", "requests, default 75000",
	  .max = INT32_MAX, .offset = offsetof(struct bench_args, count) },
	{ OPT_NUMBER, 'd', "depth", "N", "requests at one time, default 64",
	  .max = THREADS_MAX, .offset = offsetof(struct bench_args, depth) },
	{ OPT_FLAG, 'w', "write", NULL, "write; else it is read",
	  .offset = offsetof(struct bench_args, write) },
	{ OPT_NUMBER, 0, "pattern", "BYTE", "what is written, default 0",
	  .max = 255, .offset = offsetof(struct bench_args, pattern) },
	{ OPT_NUMBER, 0, "flush-interval", "N",
	  "flush after every N requests", .max = INT32_MAX,
	  .offset = offsetof(struct bench_args, flush) },
	{ OPT_FLAG, 0, "no-drain", NULL,
	  "flush without waiting for the requests under way",
	  .offset = offsetof(struct bench_args, no_drain) },
	{ OPT_STRING, 'o', "offset", "OFFSET", "of the first request",
	  .offset = offsetof(struct bench_args, offset) },
	{ OPT_STRING, 's', "buffer-size", "SIZE",
	  "bytes of a request, default 4k",
	  .offset = offsetof(struct bench_args, buffer) },
	{ OPT_STRING, 'S', "step-size", "SIZE",
	  "from one request to the next, default the size of one",
	  .offset = offsetof(struct bench_args, step) },
	{ OPT_STRING, 'i', "aio", "AIO", "taken, but threads do it in any case",
	  .words = "threads native io_uring",
	  .offset = offsetof(struct bench_args, aio) },
	{ OPT_FLAG, 'n', "native", NULL, "the same as -i native",
	  .offset = offsetof(struct bench_args, native) },
	IMAGE_OPT_FORMAT(struct bench_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct bench_args, common),
	IMAGE_OPT_OBJECT(struct bench_args, common),
	IMAGE_OPT_CACHE(struct bench_args, common),
	IMAGE_OPT_QUIET(struct bench_args, common),
	IMAGE_OPT_SHARE(struct bench_args, common),
	IMAGE_OPT_OUTPUT(struct bench_args, common),
	{}
};

/**
 * struct bench - one run
 * @through: every write is flushed
 * @lock: protects what is behind it
 * @next: number of the next request
 * @busy: requests under way
 * @draining: nobody begins one: somebody waits to flush
 */
struct bench {
	struct blk_img *m;
	uint64_t count, depth, flush, offset, buffer, step;
	uint8_t pattern;
	bool write, no_drain, through;
	pthread_mutex_t lock;
	pthread_cond_t idle;
	uint64_t next;
	unsigned int busy;
	bool draining;
	int rc;
	struct blk_error e;
};

static int request(const struct bench *b, uint8_t *buf, uint64_t i,
		   struct blk_error *e)
{
	uint64_t size = blk_img_size(b->m);
	uint64_t off = (b->offset + i * (b->step % size)) % size;
	uint64_t len = size - off < b->buffer ? size - off : b->buffer;
	int rc = image_interrupted(e);

	if (!rc)
		rc = b->write ? blk_img_write(b->m, buf, len, off, e) :
			blk_img_read(b->m, buf, len, off, e);
	return !rc && b->through ? blk_img_flush(b->m, e) : rc;
}

/* With the lock held, which is released meanwhile */
static int flush(struct bench *b, struct blk_error *e)
{
	int rc;

	b->draining = !b->no_drain;
	while (b->draining && b->busy)
		pthread_cond_wait(&b->idle, &b->lock);
	pthread_mutex_unlock(&b->lock);
	rc = blk_img_flush(b->m, e);
	pthread_mutex_lock(&b->lock);
	b->draining = false;
	pthread_cond_broadcast(&b->idle);
	return rc;
}

static void failed(struct bench *b, int rc, const struct blk_error *e)
{
	if (!rc || b->rc)
		return;
	b->rc = rc;
	b->e = *e;
}

/* The number of a request that is the caller's to do; false: no more */
static bool take(struct bench *b, uint64_t *i)
{
	while (b->draining)
		pthread_cond_wait(&b->idle, &b->lock);
	if (b->rc || b->next == b->count)
		return false;
	*i = b->next++;
	b->busy++;
	return true;
}

static void *work(void *arg)
{
	struct bench *b = arg;
	struct blk_error e = { 0 };
	void *buf = NULL;
	uint64_t i;
	int rc = posix_memalign(&buf, 4096, b->buffer) ?
		blk_error_set(&e, BLK_ERR_FAILED, ENOMEM, "out of memory") : 0;

	if (!rc)
		memset(buf, b->pattern, b->buffer);
	pthread_mutex_lock(&b->lock);
	failed(b, rc, &e);
	while (take(b, &i)) {
		pthread_mutex_unlock(&b->lock);
		rc = request(b, buf, i, &e);
		pthread_mutex_lock(&b->lock);
		b->busy--;
		pthread_cond_broadcast(&b->idle);
		while (b->draining)
			pthread_cond_wait(&b->idle, &b->lock);
		if (!rc && b->flush && !((i + 1) % b->flush))
			rc = flush(b, &e);
		failed(b, rc, &e);
	}
	pthread_mutex_unlock(&b->lock);
	free(buf);
	return NULL;
}

static int run_threads(struct bench *b, double *seconds, struct blk_error *e)
{
	pthread_t thread[THREADS_MAX];
	struct timespec from, to;
	unsigned int i, n = 0;

	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->idle, NULL);
	clock_gettime(CLOCK_MONOTONIC, &from);
	while (n < b->depth && !pthread_create(&thread[n], NULL, work, b))
		n++;
	for (i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->lock);
	*seconds = (double)(to.tv_sec - from.tv_sec) +
		(double)(to.tv_nsec - from.tv_nsec) / 1e9;
	if (!n)
		return blk_error_set(e, BLK_ERR_FAILED, EAGAIN,
				     "cannot start a thread");
	if (b->rc && e)
		*e = b->e;
	return b->rc;
}

static int usage(struct blk_error *e, const char *what)
{
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", what);
}

static uint64_t number(const struct opt_number *n, uint64_t preset)
{
	return n->set ? n->value : preset;
}

static int parse(const struct bench_args *a, struct bench *b,
		 struct blk_error *e)
{
	int rc = 0;

	*b = (struct bench){
		.count = number(&a->count, 75000),
		.depth = number(&a->depth, 64),
		.flush = number(&a->flush, 0),
		.pattern = (uint8_t)a->pattern.value,
		.buffer = 4096, .write = a->write, .no_drain = a->no_drain,
		.through = a->write && image_cache_through(a->common.cache),
	};
	if (a->offset)
		rc = size_parse(a->offset, &b->offset, e);
	if (!rc && a->buffer)
		rc = size_parse(a->buffer, &b->buffer, e);
	b->step = b->buffer;
	if (!rc && a->step)
		rc = size_parse(a->step, &b->step, e);
	if (rc)
		return rc;
	if (!b->depth || !b->count)
		return usage(e, "-c and -d must be 1 at least");
	if (!b->buffer || b->buffer > BUFFER_MAX)
		return usage(e, "-s must be 1 byte to 1 GiB");
	if (a->flush.set && !b->write)
		return usage(e, "--flush-interval is for -w");
	if (b->flush && b->flush < b->depth)
		return usage(e, "--flush-interval must not be less than -d");
	return 0;
}

static void print(const struct image_run *r, const struct bench *b,
		  double seconds)
{
	double per = seconds > 0 ? (double)b->count / seconds : 0;

	image_say(r, "Run completed in %.3f seconds.\n"
		  "%.0f requests and %.1f MiB per second\n", seconds, per,
		  per * (double)b->buffer / (1 << 20));
	if (r->cli->json)
		out_document(r->cli, "bench",
			     json_pack("{s:f, s:I, s:I, s:f}", "seconds",
				       seconds, "requests",
				       (json_int_t)b->count, "buffer-size",
				       (json_int_t)b->buffer,
				       "requests-per-second", per));
}

static int bench(struct image_run *r, const struct bench_args *a,
		 struct bench *b, struct blk_error *e)
{
	double seconds = 0;
	int rc = image_open(r, a->file, image_flags(r, a->write), &b->m, e);

	if (rc)
		return rc;
	if (b->offset >= blk_img_size(b->m)) {
		blk_img_close(b->m, NULL);
		return usage(e, "-o is behind the end of the disk");
	}
	image_say(r, "Sending %" PRIu64 " %s requests, %" PRIu64
		  " bytes each, %" PRIu64 " in parallel (starting at offset %"
		  PRIu64 ", step size %" PRIu64 ")\n", b->count,
		  b->write ? "write" : "read", b->buffer, b->depth, b->offset,
		  b->step);
	if (b->flush)
		image_say(r, "Sending flush every %" PRIu64 "%s requests\n",
			  b->flush, b->no_drain ? "" : " (draining)");
	rc = run_threads(b, &seconds, e);
	if (rc)
		blk_img_close(b->m, NULL);
	else
		rc = blk_img_close(b->m, e);
	if (!rc)
		print(r, b, seconds);
	return rc;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct bench_args *a = args;
	struct image_run r;
	struct bench b;
	int rc = image_begin(cli, &a->common, &r, e);

	if (!rc)
		rc = parse(a, &b, e);
	if (!rc)
		rc = bench(&r, a, &b, e);
	return image_end(&r, rc, e);
}

const struct verb verb_image_bench = {
	.name = "bench",
	.of = "image",
	.summary = "measure how fast an image is",
	.opts = bench_opts,
	.qemu_codes = true,
	.args_size = sizeof(struct bench_args),
	.run = run,
};
