// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sectors that describe themselves: each word follows from the sector's place
 * and the operation that wrote it. Pure.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "crash.h"

#define WORDS (SECTOR / sizeof(uint64_t))
#define MAGIC 0x6174616420656e66ULL
#define POISON 0x9015090150901509ULL

static uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void fill(uint64_t *w, uint64_t magic, uint64_t where, uint64_t seq)
{
	uint64_t state = magic ^ where << 32 ^ (seq + 1);

	w[0] = magic;
	w[1] = where;
	w[2] = seq;
	for (size_t i = 3; i < WORDS; i++)
		w[i] = next(&state);
}

void sector_make(void *buf, uint32_t where, uint32_t seq)
{
	uint64_t w[WORDS];

	fill(w, MAGIC, where, seq);
	memcpy(buf, w, SECTOR);
}

void sector_poison(void *buf, uint64_t where)
{
	uint64_t w[WORDS];

	fill(w, POISON, where, 0);
	memcpy(buf, w, SECTOR);
}

bool sector_parse(const void *buf, uint32_t where, uint32_t *seq)
{
	uint64_t w[WORDS];

	memcpy(w, buf, 3 * sizeof(w[0]));
	if (w[0] != MAGIC || w[1] != where || w[2] > UINT32_MAX)
		return false;
	*seq = w[2];
	fill(w, MAGIC, where, w[2]);
	return !memcmp(w, buf, SECTOR);
}

bool sector_is_zero(const void *buf)
{
	const uint8_t *p = buf;

	return !p[0] && !memcmp(p, p + 1, SECTOR - 1);
}

void sector_describe(const void *buf, char *text, size_t room)
{
	uint64_t w[3];
	uint32_t seq;

	memcpy(w, buf, sizeof(w));
	if (sector_is_zero(buf))
		snprintf(text, room, "zeroes");
	else if (w[0] == MAGIC && w[1] <= UINT32_MAX)
		snprintf(text, room, "what operation %" PRIu64
			 " wrote to sector %" PRIu64 "%s", w[2], w[1],
			 sector_parse(buf, w[1], &seq) ? "" : ", damaged");
	else if (w[0] == POISON)
		snprintf(text, room, "what was in sector %" PRIu64
			 " of the host's disk before", w[1]);
	else
		snprintf(text, room, "something else (%016" PRIx64
			 " %016" PRIx64 " ...)", w[0], w[1]);
}
