// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Errors in words.
 *
 * Owns nothing but the struct that the caller passes; must not allocate or
 * print.  No locking: a blk_error belongs to one thread.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const error_codes[] = {
	[BLK_ERR_FAILED] = "failed",
	[BLK_ERR_USAGE] = "usage",
	[BLK_ERR_UNAVAILABLE] = "unavailable",
	[BLK_ERR_BUSY] = "busy",
	[BLK_ERR_NOT_FOUND] = "not-found",
};

#define N_CODES (sizeof(error_codes) / sizeof(error_codes[0]))

int blk_error_set(struct blk_error *e, enum blk_error_class cls, int err,
		  const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return -err;
	e->cls = cls;
	e->err = err;
	e->hint[0] = '\0';
	e->held.path[0] = '\0';
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	return -err;
}

void blk_error_hint(struct blk_error *e, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return;
	va_start(ap, fmt);
	vsnprintf(e->hint, sizeof(e->hint), fmt, ap);
	va_end(ap);
}

void blk_error_prefix(struct blk_error *e, const char *fmt, ...)
{
	char old[sizeof(e->msg)];
	va_list ap;
	size_t n;

	if (!e)
		return;
	memcpy(old, e->msg, sizeof(old));
	old[sizeof(old) - 1] = '\0';
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	n = strlen(e->msg);
	snprintf(e->msg + n, sizeof(e->msg) - n, ": %s", old);
}

const char *blk_error_code(enum blk_error_class cls)
{
	return (size_t)cls < N_CODES ? error_codes[cls] : error_codes[0];
}

enum blk_error_class blk_error_class_parse(const char *code)
{
	for (size_t i = 0; i < N_CODES; i++)
		if (code && !strcmp(code, error_codes[i]))
			return (enum blk_error_class)i;
	return BLK_ERR_FAILED;
}

int blk_error_exit(enum blk_error_class cls)
{
	return (size_t)cls < N_CODES ? (int)cls + 1 : 1;
}
