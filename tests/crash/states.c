// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Owns the rules of what a disk with a volatile cache may lose: what ended
 * before a flush began is there, and so is a FUA write that has ended; of all
 * other writes any part may be there, in sectors. What was discarded has any
 * content: here it is poison again.
 *
 * dm-log-writes has a flush behind those writes that ended before it began. But
 * it has a FUA write before all others since the last flush, even those that
 * ended earlier: writer.c sees to it that these never overlap.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "states.h"

#define LIES 20		/* writes that a disk that lies has not written yet */

const char *const cut_names[CUT_MODES] = {
	[CUT_ALL] = "all", [CUT_NONE] = "none", [CUT_HALF] = "half",
	[CUT_FEW] = "few", [CUT_MOST] = "most", [CUT_TORN] = "torn",
};

/* --- where to cut --------------------------------------------------------------- */

static int compare_cuts(const void *a, const void *b)
{
	const struct cut *x = a, *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->seed < y->seed ? -1 : x->seed > y->seed;
}

/* The n-th of the log's flushes and FUA writes; the first is number 0. */
static size_t count_flushes(const struct log *log, uint32_t *at)
{
	size_t n = 0;

	for (size_t i = 0; i < log->n; i++) {
		if (!(log->v[i].flags & (LOG_FLUSH | LOG_FUA)))
			continue;
		if (at)
			at[n] = i;
		n++;
	}
	return n;
}

/*
 * Somewhere between two flushes; all stretches are as likely, the long ones of
 * data as well as the short ones of a commit; often at the end, where most
 * writes may be there or not.
 */
static uint32_t somewhere(const struct log *log, const uint32_t *flush, size_t n,
			  struct rnd *rnd)
{
	size_t k = rnd_below(rnd, n + 1);
	uint32_t from = k ? flush[k - 1] + 1 : 0;
	uint32_t to = k < n ? flush[k] : log->n;

	if (from >= to || rnd_percent(rnd, 50))
		return to;
	return from + 1 + rnd_below(rnd, to - from);
}

struct cut *cuts_choose(const struct log *log, struct rnd *rnd, size_t wanted,
			size_t *n, size_t *flushes)
{
	uint32_t *flush = malloc((log->n + 1) * sizeof(*flush));
	struct cut *cuts = calloc(wanted + 1, sizeof(*cuts));
	size_t all, k;

	*n = 0;
	if (!flush || !cuts) {
		free(flush);
		free(cuts);
		return NULL;
	}
	*flushes = all = count_flushes(log, flush);
	k = all < wanted / 3 ? all : wanted / 3;
	for (size_t i = 0; i < k; i++)
		cuts[(*n)++] = (struct cut){ .at = flush[i * all / k] + 1 };
	while (*n < wanted)
		cuts[(*n)++] = (struct cut){
			.at = somewhere(log, flush, all, rnd),
			.mode = 1 + rnd_below(rnd, CUT_MODES - 1),
			.seed = rnd_next(rnd),
		};
	qsort(cuts, *n, sizeof(*cuts), compare_cuts);
	free(flush);
	return cuts;
}

/* --- the disk --------------------------------------------------------------------- */

int disk_load(struct disk *d, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	ssize_t n = 0;

	*d = (struct disk){ .lies = d->lies };
	if (fd < 0 || fstat(fd, &st))
		return -errno;
	d->bytes = st.st_size;
	d->data = malloc(d->bytes);
	if (!d->data)
		return -ENOMEM;
	for (uint64_t at = 0; at < d->bytes; at += n) {
		n = pread(fd, d->data + at, d->bytes - at, at);
		if (n <= 0)
			return -EIO;
	}
	close(fd);
	return 0;
}

void disk_free(struct disk *d)
{
	disk_restore(d);
	free(d->undo);
	free(d->data);
}

static void keep(struct disk *d, uint64_t at, uint64_t len)
{
	struct piece *p;

	if (d->n_undo == d->undo_room) {
		d->undo_room = 2 * d->undo_room + 64;
		d->undo = realloc(d->undo, d->undo_room * sizeof(*d->undo));
		if (!d->undo)
			abort();
	}
	p = &d->undo[d->n_undo++];
	*p = (struct piece){ .at = at, .len = len, .old = malloc(len) };
	if (!p->old)
		abort();
	memcpy(p->old, d->data + at, len);
}

/* Sectors [from, to) of an entry */
static void apply(struct disk *d, const struct entry *e, uint64_t from,
		  uint64_t to, bool undo)
{
	uint64_t at = (e->sector + from) * SECTOR, len = (to - from) * SECTOR;

	if (at + len > d->bytes || at + len < at)
		return;
	if (undo)
		keep(d, at, len);
	if (!(e->flags & LOG_DISCARD)) {
		memcpy(d->data + at, e->data + from * SECTOR, len);
		return;
	}
	for (uint64_t s = from; s < to; s++)
		sector_poison(d->data + (e->sector + s) * SECTOR, e->sector + s);
}

static void apply_sectors(struct disk *d, const struct entry *e, struct rnd *rnd)
{
	for (uint64_t s = 0; s < e->count; s++)
		if (rnd_percent(rnd, 50))
			apply(d, e, s, s + 1, true);
}

static void apply_maybe(struct disk *d, const struct entry *e,
			const struct cut *cut, struct rnd *rnd)
{
	static const unsigned char percent[CUT_MODES] = {
		[CUT_ALL] = 100, [CUT_HALF] = 50, [CUT_FEW] = 15, [CUT_MOST] = 85,
	};

	if (cut->mode == CUT_TORN)
		apply_sectors(d, e, rnd);
	else if (rnd_percent(rnd, percent[cut->mode]))
		apply(d, e, 0, e->count, true);
}

void disk_cut(struct disk *d, const struct log *log, const struct cut *cut)
{
	struct rnd rnd = { .state = cut->seed };
	size_t flushed = cut->at;

	disk_restore(d);
	while (flushed && (d->lies ? cut->at - flushed < LIES :
			   !(log->v[flushed - 1].flags & LOG_FLUSH)))
		flushed--;
	/* what a flush carries itself comes behind it */
	if (flushed && log->v[flushed - 1].count)
		flushed--;
	for (; d->done < flushed; d->done++)
		apply(d, &log->v[d->done], 0, log->v[d->done].count, false);
	for (size_t i = flushed; i < cut->at; i++) {
		const struct entry *e = &log->v[i];
		/* the last one may not have ended */
		bool sure = e->flags & LOG_FUA && !d->lies &&
			(i + 1 < cut->at || cut->mode == CUT_ALL);

		if (sure)
			apply(d, e, 0, e->count, true);
		else if (e->count)
			apply_maybe(d, e, cut, &rnd);
	}
}

void disk_restore(struct disk *d)
{
	while (d->n_undo) {
		struct piece *p = &d->undo[--d->n_undo];

		memcpy(d->data + p->at, p->old, p->len);
		free(p->old);
	}
}
