/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of the crash test share. In a guest, writer.c writes sectors
 * that say where and when they were written; on the host, log.c reads what
 * dm-log-writes has recorded below the image, check.c makes what a power cut
 * may leave of it, image.c reads that, and history.c judges it.
 */
#ifndef TESTS_CRASH_H
#define TESTS_CRASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SECTOR 512u

/* --- sectors that describe themselves (sector.c) --------------------------- */

/* Sector @where of the guest's disk as operation @seq leaves it */
void sector_make(void *buf, uint32_t where, uint32_t seq);
/* Is it one of sector @where? Then @seq says which. */
bool sector_parse(const void *buf, uint32_t where, uint32_t *seq);
/* What a disk holds that nobody has written to yet */
void sector_poison(void *buf, uint64_t where);
bool sector_is_zero(const void *buf);
/* In words, for who has to find out where it came from */
void sector_describe(const void *buf, char *text, size_t room);

/* --- the journal: what the writer did (journal.c) ---------------------------- */

enum rec_kind {
	REC_WRITE,
	REC_ZERO,	/* reads as zeroes afterwards */
	REC_DISCARD,	/* reads as zeroes, or as before */
	REC_RESIZE,	/* to @sector sectors */
	REC_CUT,	/* all that was under way may never have happened */
};

/* Operation number n is the n-th of the file, counted from 1. */
struct rec {
	uint32_t kind;
	uint32_t sector;
	uint32_t count;
	uint32_t reserved;
};

/*
 * Marks in the log, or lines of a file: "aN": all operations up to N are durable; "fN": this one
 * is.
 */
#define MARK_ALL 'a'
#define MARK_ONE 'f'

/* --- the log (log.c) --------------------------------------------------------- */

#define LOG_FLUSH	1u
#define LOG_FUA		2u
#define LOG_DISCARD	4u
#define LOG_MARK	8u

struct entry {
	uint64_t sector, count;		/* of 512 bytes */
	uint64_t flags;
	const uint8_t *data;		/* of a write, or a mark's text */
	size_t bytes;
};

struct log {
	struct entry *v;
	size_t n;
	void *map;
	size_t mapped;
};

/* 0, or -errno after a message on standard error */
int log_open(struct log *log, const char *path);
void log_close(struct log *log);

/* --- codecs (codec.c) ------------------------------------------------------------ */

struct cipher;

bool codec_unpack(bool zstd, const uint8_t *in, size_t n, uint8_t *out, size_t len);
/* The key of a LUKS header that is alone in a file; NULL: it does not open */
struct cipher *cipher_open(const char *header, const char *passphrase, size_t len);
/* @at: where it is in the image */
bool cipher_decrypt(struct cipher *c, uint64_t at, uint8_t *buf, size_t len);

/* --- the image (image.c) ------------------------------------------------------- */

struct image {
	const uint8_t *disk;		/* what it is on, all of it */
	uint64_t bytes;
	const uint8_t *backing;		/* raw; NULL: none */
	uint64_t backing_bytes;
	const uint8_t *data;		/* external data file; NULL: none */
	uint64_t data_bytes;
	struct cipher *cipher;		/* NULL: encrypted clusters are not read */
	/* filled in by image_check() */
	uint64_t size;			/* of the guest's disk */
	uint32_t bits, version, l1_size, order, snapshots;
	uint64_t l1, rt, rt_n, snapshots_at, incompat;
	uint64_t luks_at, luks_bytes;	/* header of the encryption; 0: none */
	bool extl2, dirty, zstd, external;
	bool raw;			/* the data file is the disk */
	bool in_use;			/* marked so */
	uint32_t *refs;			/* references to each cluster */
	uint8_t *kinds;			/* what each is used for */
	uint64_t clusters, leaks;
	char why[200];			/* what is wrong */
};

/* Is it a sound image? Leaks are counted, and allowed. */
bool image_check(struct image *img);
/*
 * What a guest finds: of the active disk, or of snapshot @nr (from 0). @out has
 * @bytes; what lies behind the disk's end is zero.
 */
bool image_read(struct image *img, int nr, uint8_t *out, uint64_t bytes);
void image_free(struct image *img);

/* --- files of a file system in the image (files.c) ------------------------------- */

/* Marks: "s/NAME:BYTES": it is synced; "r/NAME": it will be removed. */
#define MARK_SYNCED 's'
#define MARK_GONE 'r'

struct files;

struct files *files_new(void);
void files_mark(struct files *f, const char *text, size_t len);
/* Makes a list of them, a line each: name, bytes */
bool files_save(const struct files *f, const char *path);
/* Are some of them in the file system in file @fs? */
bool files_verify(const struct files *f, const char *fs, uint64_t seed,
		  char *why, size_t room);

/* --- the history (history.c) --------------------------------------------------------- */

struct history;

struct history *history_open(const char *journal, const uint8_t *initial,
			 uint64_t bytes);
void history_close(struct history *m);
/* A mark that was there before the power cut */
void history_mark(struct history *m, const char *text, size_t len);
/* The largest disk that there ever was, in bytes */
uint64_t history_room(const struct history *m);
/* Is this what may be there after all these marks? */
bool history_verify(const struct history *m, const uint8_t *guest, uint64_t bytes,
		  char *why, size_t room);

#endif
