/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a power cut may leave of a disk whose writes were logged (states.c). */
#ifndef TESTS_CRASH_STATES_H
#define TESTS_CRASH_STATES_H

#include "crash.h"
#include "../prop/prop.h"

/* Which writes after the last flush have reached the disk */
enum cut_mode {
	CUT_ALL,	/* in the order in which they ended */
	CUT_NONE,
	CUT_HALF,
	CUT_FEW,
	CUT_MOST,
	CUT_TORN,	/* each sector of each by itself */
	CUT_MODES
};

extern const char *const cut_names[CUT_MODES];

/**
 * struct cut - one power cut
 * @at: entries of the log that had ended
 */
struct cut {
	uint32_t at;
	enum cut_mode mode;
	uint64_t seed;
};

struct piece {
	uint64_t at, len;
	uint8_t *old;
};

/**
 * struct disk - the disk below the image
 * @done: entries of the log that are in it for good
 * @lies: it has lost its last writes, flushed or not
 * @undo: what the current cut has changed, the last change last
 */
struct disk {
	uint8_t *data;
	uint64_t bytes;
	size_t done;
	bool lies;
	struct piece *undo;
	size_t n_undo, undo_room;
};

/* Every flush and FUA write, and as many cuts in between, in the log's order */
struct cut *cuts_choose(const struct log *log, struct rnd *rnd, size_t wanted,
			size_t *n, size_t *flushes);
/* 0, or -errno */
int disk_load(struct disk *d, const char *path);
void disk_free(struct disk *d);
/* Brings it to @cut, which is not before the last one. */
void disk_cut(struct disk *d, const struct log *log, const struct cut *cut);
/* Without what may be missing after the next cut */
void disk_restore(struct disk *d);

#endif
