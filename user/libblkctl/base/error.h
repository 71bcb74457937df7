/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one way in which the library reports a failure to a person.
 */
#ifndef BLK_BASE_ERROR_H
#define BLK_BASE_ERROR_H

#include <stdbool.h>
#include <stdint.h>

/* Each class has one exit code of blkctl and one code in QMP errors. */
enum blk_error_class {
	BLK_ERR_FAILED,		/* exit 1, "failed" */
	BLK_ERR_USAGE,		/* exit 2, "usage": the request itself is wrong */
	BLK_ERR_UNAVAILABLE,	/* exit 3, "unavailable": no daemon, no module */
	BLK_ERR_BUSY,		/* exit 4, "busy": somebody holds it */
	BLK_ERR_NOT_FOUND,	/* exit 5, "not-found" */
};

/**
 * struct blk_held - the file that somebody else holds
 * @path: as it was named; "": the error is about something else
 * @dev, @ino: as in struct stat
 * @rdev: of a block device, otherwise 0
 * @writing: it was to be written
 */
struct blk_held {
	char path[256];
	uint64_t dev;
	uint64_t ino;
	uint64_t rdev;
	bool writing;
};

/**
 * struct blk_error - what went wrong, in words
 * @cls: which exit code
 * @err: positive errno behind it, or 0
 * @msg: one sentence without a final full stop: what failed and why
 * @hint: what to do about it, may be empty
 * @held: of class BUSY: the file, for who knows more about its holder
 *
 * Functions take it as their last argument and return -errno; a caller that
 * does not want the words passes NULL.
 */
struct blk_error {
	enum blk_error_class cls;
	int err;
	char msg[512];
	char hint[256];
	struct blk_held held;
};

/**
 * blk_error_set - describe a failure
 * @e: may be NULL
 * @err: positive errno
 * Return: -err, so that callers can write "return blk_error_set(...)".
 */
int blk_error_set(struct blk_error *e, enum blk_error_class cls, int err,
		  const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* Adds a hint to an error that was set. */
void blk_error_hint(struct blk_error *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Puts "fmt: " in front of the message. */
void blk_error_prefix(struct blk_error *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* "failed", "usage", "unavailable", "busy", "not-found"; and back (FAILED if unknown) */
const char *blk_error_code(enum blk_error_class cls);
enum blk_error_class blk_error_class_parse(const char *code);

/* The exit code of a class, 1..5. */
int blk_error_exit(enum blk_error_class cls);

#endif
