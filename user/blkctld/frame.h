/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QMP's framing: JSON values that follow each other in a stream of bytes, cut
 * anywhere, with QEMU's extension (strings in single quotes) and its way to
 * synchronise again (the byte 0xFF).
 */
#ifndef BLKCTLD_FRAME_H
#define BLKCTLD_FRAME_H

#include <stddef.h>

#include <jansson.h>

#define FRAME_MAX_BYTES		(1024 * 1024)
#define FRAME_MAX_DEPTH		1024

enum frame_state {
	FRAME_BETWEEN,
	FRAME_ATOM,		/* a number or word that stands alone */
	FRAME_STRUCTURE,
	FRAME_STRING,
	FRAME_ESCAPE,		/* behind a backslash */
	FRAME_SKIP,		/* behind an error */
};

/* All zeroes is a good beginning. */
struct frame {
	enum frame_state state;
	char quote;
	int braces;
	int brackets;
	char *buf;
	size_t len;
	size_t cap;
};

enum frame_result {
	FRAME_MORE,		/* everything is used up */
	FRAME_VALUE,		/* *val is a new reference */
	FRAME_ERROR,		/* @why; the stream goes on */
	FRAME_FATAL,		/* @why; the stream can't go on */
};

/**
 * frame_feed - look at bytes until a value ends or something is wrong
 * @used: how many were looked at; go on behind them
 * @why: at least 256 bytes
 */
enum frame_result frame_feed(struct frame *f, const char *data, size_t n,
			     size_t *used, json_t **val, char *why);
void frame_free(struct frame *f);

#endif
