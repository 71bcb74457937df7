// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sizes as people type them.
 *
 * Pure: text in, bytes out.
 */
#include "size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int bad_size(const char *text, struct blk_error *e)
{
	blk_error_set(e, BLK_ERR_USAGE, EINVAL, "'%s' is no size", text);
	blk_error_hint(e, "a number, perhaps with K, M, G or T after it, and + or - in front");
	return -EINVAL;
}

/* The digits behind the point, in units of 1 / (1 << @shift): rounded down. */
static uint64_t fraction(const char **text, unsigned int shift)
{
	uint64_t value = 0, scale = 1;
	const char *p = *text;

	for (; isdigit((unsigned char)*p); p++) {
		if (scale > 100000000)
			continue;	/* finer than a sector of a terabyte */
		value = 10 * value + (*p - '0');
		scale *= 10;
	}
	*text = p;
	/* value < 10^9 < 2^30: no overflow up to a terabyte */
	return shift > 30 ? ((value << 30) / scale) << (shift - 30) :
		(value << shift) / scale;
}

static unsigned int shift_of(char unit)
{
	static const char units[] = "BKMGTPE";
	const char *u = unit ? strchr(units, toupper((unsigned char)unit)) :
		units;

	return u ? 10 * (u - units) : UINT32_MAX;
}

/* @whole: for the message */
static int parse(const char *whole, const char *text, uint64_t *out,
		 struct blk_error *e)
{
	const char *point, *unit = text + strspn(text, "0123456789.");
	unsigned int shift = shift_of(*unit);
	uint64_t value, part = 0;
	char *end;

	if (!isdigit((unsigned char)*text) || shift == UINT32_MAX ||
	    (*unit && unit[1]))
		return bad_size(whole, e);
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || value > (uint64_t)INT64_MAX >> shift)
		return bad_size(whole, e);
	point = end;
	if (*point == '.') {
		point++;
		part = fraction(&point, shift) & ~511ULL;
	}
	if (point != unit)
		return bad_size(whole, e);
	*out = (value << shift) + part;
	return 0;
}

int size_parse(const char *text, uint64_t *out, struct blk_error *e)
{
	return parse(text, text, out, e);
}

int size_change(const char *what, const char *text, uint64_t old,
		uint64_t *out, struct blk_error *e)
{
	bool relative = *text == '+' || *text == '-';
	uint64_t size;
	int rc = parse(text, text + relative, &size, e);

	if (rc)
		return rc;
	if (*text == '-' && size >= old)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "%s has %" PRIu64
				     " bytes, which cannot be made smaller by %"
				     PRIu64, what, old, size);
	if (*text == '+')
		size = old + size;
	else if (*text == '-')
		size = old - size;
	if (size > INT64_MAX)
		return bad_size(text, e);
	*out = size;
	return 0;
}
