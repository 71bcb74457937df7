// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image compare: do two images have the same disk in them?
 *
 * Only reads.  What both map as zeroes is not read; where one does, only the
 * other is.  Exit codes are qemu-img's: 1 they differ, 2 one cannot be opened,
 * 3 or 4 its metadata or its data cannot be read.
 *
 * Locking: threads take chunks in the order of the disk, under compare.lock,
 * and read them without.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "image/image.h"

#define CHUNK	(512U << 10)	/* bytes that a thread reads of each at once */
#define THREADS	4		/* they wait for disks, too */
#define SECTOR	512U		/* of the offsets that are printed */

struct compare_args {
	struct image_common common;
	const char *first;
	const char *second;
	const char *second_format;
	bool strict;
};

#define ARG(field) .offset = offsetof(struct compare_args, field)

static const struct opt compare_opts[] = {
	{ OPT_ARG, 0, "FILE1", NULL, "an image",
	  .complete = OPT_COMPLETE_FILE, ARG(first) },
	{ OPT_ARG, 0, "FILE2", NULL, "the other one",
	  .complete = OPT_COMPLETE_FILE, ARG(second) },
	{ OPT_STRING, 'F', "second-format", "FORMAT", "format of FILE2",
	  .words = IMAGE_FORMATS, ARG(second_format) },
	{ OPT_FLAG, 's', "strict", NULL,
	  "sizes must be equal, and what is allocated", ARG(strict) },
	IMAGE_OPT_FORMAT(struct compare_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct compare_args, common),
	IMAGE_OPT_OBJECT(struct compare_args, common),
	IMAGE_OPT_QUIET(struct compare_args, common),
	IMAGE_OPT_SHARE(struct compare_args, common),
	IMAGE_OPT_SOURCE_CACHE(struct compare_args, common),
	IMAGE_OPT_PROGRESS(struct compare_args, common),
	IMAGE_OPT_OUTPUT(struct compare_args, common),
	{}
};

enum verdict { SAME, SIZES, STATUS, CONTENT };

/**
 * struct compare - one run
 * @lock: of what follows it
 * @off: of the next chunk
 * @x: how each has what is from @off on; taken up to there
 * @verdict, @rc: what was found first: at the lowest offset, @at
 * @code: exit code of @rc; 0: as any failure
 */
struct compare {
	struct image_run *r;
	struct blk_img *m[2];
	uint64_t size[2];
	uint64_t end;
	bool strict;
	pthread_mutex_t lock;
	uint64_t off;
	struct blk_extent x[2];
	enum verdict verdict;
	int rc, code;
	struct blk_error e;
	uint64_t at;
};

/**
 * struct worker - a thread that compares chunks
 * @x: of the chunk, which both have in one way each; @len bytes
 */
struct worker {
	struct compare *c;
	pthread_t thread;
	struct blk_extent x[2];
	uint64_t len;
	uint8_t *buf[2];
};

static bool is_zero(const struct blk_extent *x)
{
	return x->kind == BLK_EXT_HOLE || x->kind == BLK_EXT_ZERO;
}

static bool is_over(const struct compare *c)
{
	return c->verdict != SAME || c->rc;
}

/*
 * Under the lock.  Chunks are taken in order, so that all before one that ends
 * it are compared, too: of what they find, the first in the disk counts.
 */
static void found(struct compare *c, uint64_t at, enum verdict verdict, int rc,
		  int code, const struct blk_error *e)
{
	if (is_over(c) && at >= c->at)
		return;
	c->at = at;
	c->verdict = rc ? SAME : verdict;
	c->rc = rc;
	c->code = code;
	c->e = *e;
}

/* Behind the end of the shorter one are zeroes. */
static int map(struct compare *c, int i, uint64_t off, struct blk_error *e)
{
	struct blk_extent *x = &c->x[i];

	if (off < x->off + x->len && off >= x->off)
		return 0;
	if (off < c->size[i])
		return blk_img_map(c->m[i], off, c->end - off, x, e);
	*x = (struct blk_extent){ .off = off, .len = c->end - off,
				  .kind = BLK_EXT_HOLE };
	return 0;
}

static uint64_t left(const struct blk_extent *x, uint64_t off)
{
	return x->off + x->len - off;
}

/* Both from c->off on: the bytes that each has in one way; 0: it is over */
static uint64_t look(struct compare *c)
{
	struct blk_error e = { 0 };
	const struct blk_extent *x = c->x;
	int rc = image_interrupted(&e);

	if (rc) {
		found(c, 0, SAME, rc, 0, &e);
		return 0;
	}
	for (int i = 0; i < 2 && !rc; i++)
		rc = map(c, i, c->off, &e);
	if (rc) {
		found(c, c->off, SAME, rc, 3, &e);
		return 0;
	}
	if (c->strict && (x[0].kind != x[1].kind ||
			  x[0].preallocated != x[1].preallocated)) {
		found(c, c->off, STATUS, 0, 0, &e);
		return 0;
	}
	return BLK_MIN(left(&x[0], c->off), left(&x[1], c->off));
}

/* Under the lock; false: there is no more */
static bool take(struct worker *w)
{
	struct compare *c = w->c;

	while (!is_over(c) && c->off < c->end) {
		uint64_t n = look(c);

		if (!n)
			break;
		if (is_zero(&c->x[0]) && is_zero(&c->x[1])) {
			image_progress_add(c->r, n);
			c->off += n;
			continue;
		}
		memcpy(w->x, c->x, sizeof(w->x));
		w->x[0].off = w->x[1].off = c->off;
		w->len = BLK_MIN(n, CHUNK);
		c->off += w->len;
		return true;
	}
	return false;
}

static int fill(struct worker *w, int i, struct blk_error *e)
{
	return is_zero(&w->x[i]) ? 0 :
		blk_img_read(w->c->m[i], w->buf[i], w->len, w->x[i].off, e);
}

static uint8_t byte_at(const struct worker *w, int i, uint64_t at)
{
	return is_zero(&w->x[i]) ? 0 : w->buf[i][at];
}

/* Where they differ; the length: nowhere */
static uint64_t differ_at(const struct worker *w)
{
	uint64_t i = 0;

	if (is_zero(&w->x[0]) || is_zero(&w->x[1])) {
		if (blk_is_zero(w->buf[is_zero(&w->x[0])], w->len))
			return w->len;
	} else if (!memcmp(w->buf[0], w->buf[1], w->len)) {
		return w->len;
	}
	while (byte_at(w, 0, i) == byte_at(w, 1, i))
		i++;
	return i;
}

static void compare_chunk(struct worker *w)
{
	struct compare *c = w->c;
	struct blk_error e = { 0 };
	uint64_t off = w->x[0].off, at = w->len;
	int rc = fill(w, 0, &e);

	if (!rc)
		rc = fill(w, 1, &e);
	if (!rc)
		at = differ_at(w);
	image_progress_add(c->r, w->len);
	if (!rc && at == w->len)
		return;
	blk_guard_mutex(&c->lock);
	found(c, rc ? off : (off + at) / SECTOR * SECTOR, CONTENT, rc, 4, &e);
}

static void *compare_chunks(void *arg)
{
	struct worker *w = arg;
	struct compare *c = w->c;

	pthread_mutex_lock(&c->lock);
	while (take(w)) {
		pthread_mutex_unlock(&c->lock);
		compare_chunk(w);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* The first is this thread itself. */
static void compare_by_threads(struct compare *c, struct worker *w, int n)
{
	int started = 1;

	while (started < n && !pthread_create(&w[started].thread, NULL,
					      compare_chunks, &w[started]))
		started++;
	compare_chunks(&w[0]);
	while (--started)
		pthread_join(w[started].thread, NULL);
}

static int compare(struct compare *c, struct blk_error *e)
{
	struct worker w[THREADS] = { 0 };
	int n = 0, rc = 0;

	if (c->strict && c->size[0] != c->size[1]) {
		c->verdict = SIZES;
		return 0;
	}
	for (; n < THREADS && !rc; n++) {
		w[n].c = c;
		rc = posix_memalign((void **)&w[n].buf[0], 4096, CHUNK) ||
			posix_memalign((void **)&w[n].buf[1], 4096, CHUNK);
	}
	if (rc) {
		c->code = 4;
		c->rc = blk_error_set(&c->e, BLK_ERR_FAILED, ENOMEM,
				      "no memory");
	} else {
		image_progress_start(c->r, c->end);
		compare_by_threads(c, w, n);
		image_progress_end(c->r);
	}
	while (n--) {
		free(w[n].buf[0]);
		free(w[n].buf[1]);
	}
	if (c->rc) {
		if (c->code)
			c->r->cli->exit_code = c->code;
		*e = c->e;
	}
	return c->rc;
}

static void print(const struct compare *c)
{
	static const char *const texts[] = { "", "size", "status", "content" };
	json_t *doc;

	if (c->verdict != SAME)
		c->r->cli->exit_code = 1;
	if (c->r->cli->json) {
		doc = json_pack("{s:b}", "identical", c->verdict == SAME);
		if (c->verdict != SAME)
			json_object_set_new(doc, "mismatch",
					    json_string(texts[c->verdict]));
		if (c->verdict == STATUS || c->verdict == CONTENT)
			json_object_set_new(doc, "offset", json_integer(c->at));
		out_document(c->r->cli, "compare", doc);
		return;
	}
	/* as long as they are the same that far */
	if (c->verdict != SIZES && c->size[0] != c->size[1] &&
	    (c->verdict == SAME || c->at >= c->size[0] ||
	     c->at >= c->size[1]))
		image_say(c->r, "Warning: Image size mismatch!\n");
	if (c->verdict == SAME)
		image_say(c->r, "Images are identical.\n");
	else if (c->verdict == SIZES)
		image_say(c->r, "Strict mode: Image size mismatch!\n");
	else if (c->verdict == STATUS)
		image_say(c->r, "Strict mode: Offset %" PRIu64
			  " block status mismatch!\n", c->at);
	else
		image_say(c->r, "Content mismatch at offset %" PRIu64 "!\n",
			  c->at);
}

static int open_both(struct compare *c, const struct compare_args *a,
		     struct blk_error *e)
{
	unsigned int flags = image_flags(c->r, false);
	int rc;

	rc = image_open(c->r, a->first, flags, &c->m[0], e);
	if (!rc)
		rc = image_open_as(c->r, a->second, a->second_format, flags,
				   &c->m[1], e);
	if (rc) {
		c->r->cli->exit_code = 2;
		return rc;
	}
	for (int i = 0; i < 2; i++)
		c->size[i] = blk_img_size(c->m[i]);
	c->end = BLK_MAX(c->size[0], c->size[1]);
	return 0;
}

static int work(struct image_run *r, const struct compare_args *a,
		struct blk_error *e)
{
	struct compare c = {
		.r = r, .strict = a->strict,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	int rc = open_both(&c, a, e);

	if (!rc)
		rc = compare(&c, e);
	if (!rc)
		print(&c);
	for (int i = 0; i < 2; i++)
		blk_img_close(c.m[i], NULL);
	return rc;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct compare_args *a = args;
	struct image_run r;
	int rc = image_begin(cli, &a->common, &r, e);

	if (rc)
		cli->exit_code = 2;
	else
		rc = work(&r, a, e);
	return image_end(&r, rc, e);
}

const struct verb verb_image_compare = {
	.name = "compare",
	.of = "image",
	.summary = "say whether two images have the same content",
	.opts = compare_opts,
	.qemu_codes = true,
	.args_size = sizeof(struct compare_args),
	.run = run,
};
