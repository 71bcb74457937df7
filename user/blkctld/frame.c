// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Finds the ends of JSON values in a stream and hands them to jansson.
 *
 * Owns: the text of the value that is being collected, at most FRAME_MAX_BYTES;
 * it may have a passphrase in it and is wiped.
 * Must not: judge what a value means, or recurse.
 * Threads: one for each stream.
 *
 *   BETWEEN --{ [--> STRUCTURE --" '--> STRING --\--> ESCAPE
 *      |  \--" '--> STRING (alone)         ^---------'
 *      \--else--> ATOM
 *   anything --bad byte--> SKIP --{ [ control--> BETWEEN
 *   anything --0xFE 0xFF--> BETWEEN, with an error
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "frame.h"

#define WHY_BYTES 256

static bool is_space(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_bad(unsigned char c)
{
	return (c < 0x20 && !is_space(c)) || c >= 0xfe;
}

/* -1: too long, or out of memory */
static int append(struct frame *f, char c)
{
	if (f->len == f->cap) {
		size_t cap = f->cap ? f->cap * 2 : 4096;
		char *buf;

		if (f->cap >= FRAME_MAX_BYTES)
			return -1;
		buf = malloc(cap);
		if (!buf)
			return -1;
		if (f->len)
			memcpy(buf, f->buf, f->len);
		frame_free(f);
		f->buf = buf;
		f->cap = cap;
	}
	f->buf[f->len++] = c;
	return 0;
}

/* Back to the beginning; a buffer that became large is not kept */
static void reset(struct frame *f, enum frame_state next)
{
	if (f->len)
		explicit_bzero(f->buf, f->len);
	f->state = next;
	f->len = 0;
	f->braces = 0;
	f->brackets = 0;
	if (f->cap > 65536)
		frame_free(f);
}

static enum frame_result fail(struct frame *f, enum frame_state next,
			      char *why, const char *what)
{
	snprintf(why, WHY_BYTES, "%s", what);
	reset(f, next);
	return FRAME_ERROR;
}

static enum frame_result decode(struct frame *f, json_t **val, char *why)
{
	json_error_t err;

	*val = json_loadb(f->buf, f->len, JSON_DECODE_ANY | JSON_ALLOW_NUL |
			  JSON_REJECT_DUPLICATES, &err);
	reset(f, FRAME_BETWEEN);
	if (*val)
		return FRAME_VALUE;
	snprintf(why, WHY_BYTES, "JSON parse error, %.200s", err.text);
	return FRAME_ERROR;
}

static bool begins_structure(unsigned char c)
{
	return c == '{' || c == '[';
}

/* One byte outside of strings and atoms that belongs to a structure */
static enum frame_result structure_byte(struct frame *f, unsigned char c,
					json_t **val, char *why)
{
	if (append(f, (char)c))
		return FRAME_FATAL;
	f->braces += (c == '{') - (c == '}');
	f->brackets += (c == '[') - (c == ']');
	if (c == '"' || c == '\'') {
		f->quote = (char)c;
		f->buf[f->len - 1] = '"';
		f->state = FRAME_STRING;
		return FRAME_MORE;
	}
	if (f->braces + f->brackets > FRAME_MAX_DEPTH)
		return fail(f, FRAME_BETWEEN, why,
			    "JSON nesting depth limit exceeded");
	if ((f->braces > 0 || f->brackets > 0) &&
	    f->braces >= 0 && f->brackets >= 0)
		return FRAME_MORE;
	return decode(f, val, why);
}

static enum frame_result string_byte(struct frame *f, unsigned char c,
				     json_t **val, char *why)
{
	if (c < 0x20)
		return fail(f, FRAME_SKIP, why,
			    "JSON parse error, control character in a string");
	if (c == '\\') {
		f->state = FRAME_ESCAPE;
		return append(f, '\\') ? FRAME_FATAL : FRAME_MORE;
	}
	if (c == '"' && f->quote == '\'')
		return append(f, '\\') || append(f, '"') ? FRAME_FATAL :
			FRAME_MORE;
	if (c != (unsigned char)f->quote)
		return append(f, (char)c) ? FRAME_FATAL : FRAME_MORE;
	if (append(f, '"'))
		return FRAME_FATAL;
	f->state = FRAME_STRUCTURE;
	if (f->braces || f->brackets)
		return FRAME_MORE;
	return decode(f, val, why);
}

static enum frame_result escape_byte(struct frame *f, unsigned char c,
				     char *why)
{
	if (c < 0x20)
		return fail(f, FRAME_SKIP, why,
			    "JSON parse error, control character in a string");
	f->state = FRAME_STRING;
	if (c == '\'') {	/* JSON has no such escape, QEMU has */
		f->buf[f->len - 1] = '\'';
		return FRAME_MORE;
	}
	return append(f, (char)c) ? FRAME_FATAL : FRAME_MORE;
}

static enum frame_result between_byte(struct frame *f, unsigned char c,
				      json_t **val, char *why)
{
	if (is_space(c))
		return FRAME_MORE;
	if (strchr("}],:", c))
		return fail(f, FRAME_BETWEEN, why,
			    "JSON parse error, expecting value");
	if (begins_structure(c) || c == '"' || c == '\'') {
		f->state = FRAME_STRUCTURE;
		return structure_byte(f, c, val, why);
	}
	f->state = FRAME_ATOM;
	return append(f, (char)c) ? FRAME_FATAL : FRAME_MORE;
}

/* *again: the byte was not used, only seen */
static enum frame_result one_byte(struct frame *f, unsigned char c,
				  bool *again, json_t **val, char *why)
{
	switch (f->state) {
	case FRAME_SKIP:
		if (!begins_structure(c) && c >= 0x20)
			return FRAME_MORE;
		f->state = FRAME_BETWEEN;
		*again = begins_structure(c);
		return FRAME_MORE;
	case FRAME_ATOM:
		if (!is_space(c) && !strchr("{}[],:\"'", c))
			return append(f, (char)c) ? FRAME_FATAL : FRAME_MORE;
		*again = true;
		return decode(f, val, why);
	case FRAME_STRING:
		return string_byte(f, c, val, why);
	case FRAME_ESCAPE:
		return escape_byte(f, c, why);
	case FRAME_STRUCTURE:
		return structure_byte(f, c, val, why);
	default:
		return between_byte(f, c, val, why);
	}
}

enum frame_result frame_feed(struct frame *f, const char *data, size_t n,
			     size_t *used, json_t **val, char *why)
{
	enum frame_result res;
	unsigned char c;
	bool again;
	size_t i;

	for (i = 0; i < n; i++) {
		c = (unsigned char)data[i];
		again = false;
		if (c >= 0xfe)
			res = fail(f, FRAME_BETWEEN, why,
				   "JSON parse error, stray '\\uFFFD'");
		else if (is_bad(c) && f->state != FRAME_SKIP &&
			 f->state != FRAME_STRING && f->state != FRAME_ESCAPE)
			res = fail(f, FRAME_SKIP, why,
				   "JSON parse error, stray control character");
		else
			res = one_byte(f, c, &again, val, why);
		if (again)
			i--;
		if (res == FRAME_MORE)
			continue;
		if (res == FRAME_FATAL)
			snprintf(why, WHY_BYTES,
				 "JSON token size limit exceeded: a request may have %d bytes",
				 FRAME_MAX_BYTES);
		*used = i + 1;
		return res;
	}
	*used = n;
	return FRAME_MORE;
}

void frame_free(struct frame *f)
{
	if (f->len)
		explicit_bzero(f->buf, f->len);
	free(f->buf);
	f->buf = NULL;
	f->cap = 0;
}
