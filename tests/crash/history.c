// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a disk may hold after a power cut: for each sector, what the last
 * operation left there that was acknowledged as durable, or any later one,
 * and nothing else.
 *
 * Each sector has its history, the operations on it in their order (those that
 * ran at once never touch the same sector), and the place in it that is durable.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crash.h"

#define NONE UINT32_MAX

struct history {
	struct rec *ops;	/* number n is ops[n - 1] */
	uint32_t n;
	uint32_t sectors;
	uint32_t *first;	/* of each sector, in history; and one more */
	uint32_t *numbers;	/* numbers of operations */
	uint32_t *durable;	/* of each sector, in history; NONE */
	uint32_t *zeroed;	/* the last that may have left zeroes; NONE */
	uint32_t acknowledged;
	uint64_t size;		/* that is durable */
	uint64_t initial_bytes;
	const uint8_t *initial;
};

static bool load(struct history *m, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		perror(path);
		return false;
	}
	m->n = st.st_size / sizeof(*m->ops);
	m->ops = malloc(st.st_size + 1);
	if (!m->ops || read(fd, m->ops, st.st_size) != st.st_size)
		m->n = 0;
	close(fd);
	return m->ops;
}

/* The sectors that an operation changes; a smaller disk loses its end. */
static void range_of(const struct history *m, const struct rec *op,
		     uint32_t *from, uint32_t *to)
{
	*from = op->sector;
	*to = op->kind == REC_RESIZE ? m->sectors : op->sector + op->count;
}

static bool may_zero(const struct rec *op)
{
	return op->kind != REC_WRITE;
}

static bool build(struct history *m)
{
	uint32_t from, to, *next;
	size_t total = 0;

	m->first = calloc(m->sectors + 1, sizeof(*m->first));
	m->durable = malloc((m->sectors + 1) * sizeof(*m->durable));
	m->zeroed = malloc((m->sectors + 1) * sizeof(*m->zeroed));
	next = calloc(m->sectors + 1, sizeof(*next));
	for (uint32_t i = 0; i < m->n; i++) {
		range_of(m, &m->ops[i], &from, &to);
		total += to - from;
		for (uint32_t s = from; s < to; s++)
			m->first[s + 1]++;
	}
	for (uint32_t s = 0; s < m->sectors; s++) {
		m->first[s + 1] += m->first[s];
		m->durable[s] = m->zeroed[s] = NONE;
		next[s] = m->first[s];
	}
	m->numbers = malloc((total + 1) * sizeof(*m->numbers));
	for (uint32_t i = 0; i < m->n; i++) {
		range_of(m, &m->ops[i], &from, &to);
		for (uint32_t s = from; s < to; s++) {
			if (may_zero(&m->ops[i]))
				m->zeroed[s] = next[s];
			m->numbers[next[s]++] = i + 1;
		}
	}
	free(next);
	return true;
}

struct history *history_open(const char *journal, const uint8_t *initial,
			 uint64_t bytes)
{
	struct history *m = calloc(1, sizeof(*m));

	if (!m || !load(m, journal)) {
		free(m);
		return NULL;
	}
	m->initial = initial;
	m->initial_bytes = m->size = bytes;
	m->sectors = bytes / SECTOR;
	for (uint32_t i = 0; i < m->n; i++) {
		const struct rec *op = &m->ops[i];
		uint32_t end = op->sector + op->count;

		m->sectors = end > m->sectors ? end : m->sectors;
	}
	build(m);
	return m;
}

void history_close(struct history *m)
{
	free(m->ops);
	free(m->first);
	free(m->numbers);
	free(m->durable);
	free(m->zeroed);
	free(m);
}

uint64_t history_room(const struct history *m)
{
	return (uint64_t)m->sectors * SECTOR;
}

/* The place in the history of sector @s that operation @nr has, or NONE */
static uint32_t find(const struct history *m, uint32_t s, uint32_t nr)
{
	uint32_t a = m->first[s], b = m->first[s + 1];

	while (a < b) {
		uint32_t mid = a + (b - a) / 2;

		if (m->numbers[mid] == nr)
			return mid;
		if (m->numbers[mid] < nr)
			a = mid + 1;
		else
			b = mid;
	}
	return NONE;
}

/* The last one that ended before a cut, of those before operation @nr */
static uint32_t last_cut(const struct history *m, uint32_t nr)
{
	while (nr && m->ops[nr - 1].kind != REC_CUT)
		nr--;
	return nr;
}

/* A discard may be ignored: what was there before it may stay. */
static void make_durable(struct history *m, uint32_t nr)
{
	const struct rec *op = &m->ops[nr - 1];
	uint32_t from, to;

	if (op->kind == REC_DISCARD || op->kind == REC_CUT)
		return;
	if (op->kind == REC_RESIZE)
		m->size = (uint64_t)op->sector * SECTOR;
	range_of(m, op, &from, &to);
	for (uint32_t s = from; s < to; s++) {
		uint32_t at = find(m, s, nr);

		if (m->durable[s] == NONE || m->durable[s] < at)
			m->durable[s] = at;
	}
}

void history_mark(struct history *m, const char *text, size_t len)
{
	char buf[32] = "";
	uint32_t nr;

	memcpy(buf, text, len < sizeof(buf) - 1 ? len : sizeof(buf) - 1);
	nr = strtoul(buf + 1, NULL, 10);
	if (nr > m->n)
		return;
	if (buf[0] == MARK_ONE && nr)
		make_durable(m, nr);
	if (buf[0] != MARK_ALL)
		return;
	if (m->acknowledged < last_cut(m, nr))
		m->acknowledged = last_cut(m, nr);
	while (m->acknowledged < nr)
		make_durable(m, ++m->acknowledged);
}

static bool is_initial(const struct history *m, uint32_t s, const uint8_t *p)
{
	if ((uint64_t)(s + 1) * SECTOR > m->initial_bytes)
		return sector_is_zero(p);
	return !memcmp(p, m->initial + (uint64_t)s * SECTOR, SECTOR);
}

static bool may_hold(const struct history *m, uint32_t s, const uint8_t *p)
{
	uint32_t durable = m->durable[s], nr, at;

	if (sector_is_zero(p) && m->zeroed[s] != NONE &&
	    (durable == NONE || m->zeroed[s] >= durable))
		return true;
	if (durable == NONE && is_initial(m, s, p))
		return true;
	if (!sector_parse(p, s, &nr) || !nr || nr > m->n ||
	    m->ops[nr - 1].kind != REC_WRITE)
		return false;
	at = find(m, s, nr);
	return at != NONE && (durable == NONE || at >= durable);
}

/* It has the durable size, or one that was asked for later. */
static bool size_is_right(const struct history *m, uint64_t bytes)
{
	bool right = bytes == m->size;

	for (uint32_t i = m->acknowledged; i < m->n; i++)
		right |= m->ops[i].kind == REC_RESIZE &&
			(uint64_t)m->ops[i].sector * SECTOR == bytes;
	return right;
}

bool history_verify(const struct history *m, const uint8_t *guest, uint64_t bytes,
		  char *why, size_t room)
{
	if (!size_is_right(m, bytes)) {
		snprintf(why, room, "the disk has %" PRIu64 " bytes, not %" PRIu64,
			 bytes, m->size);
		return false;
	}
	for (uint32_t s = 0; s < bytes / SECTOR; s++) {
		const uint8_t *p = guest + (uint64_t)s * SECTOR;
		char what[100];

		if (may_hold(m, s, p))
			continue;
		sector_describe(p, what, sizeof(what));
		snprintf(why, room, "sector %u holds %s; durable: operation %u", s,
			 what, m->durable[s] == NONE ? 0 :
			 m->numbers[m->durable[s]]);
		return false;
	}
	return true;
}
