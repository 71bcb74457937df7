/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sizes as people type them: "1.5G", "+10M".
 */
#ifndef BLKCTL_SIZE_H
#define BLKCTL_SIZE_H

#include <stdint.h>

#include "base/error.h"

/**
 * size_parse - "1.5G": bytes
 * K, M, G, T, P, E after the number stand for powers of 1024; a fraction is
 * rounded down to whole sectors.
 * Return: 0, or -EINVAL with class USAGE
 */
int size_parse(const char *text, uint64_t *out, struct blk_error *e);

/**
 * size_change - a size, or "+10M" or "-10M" of @old
 * @what: what has @old bytes, for the message
 * May be any number of bytes up to INT64_MAX.
 */
int size_change(const char *what, const char *text, uint64_t old,
		uint64_t *out, struct blk_error *e);

#endif
