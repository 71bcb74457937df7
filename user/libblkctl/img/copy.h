/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copying disks, by several threads: what "convert" does.
 */
#ifndef BLK_IMG_COPY_H
#define BLK_IMG_COPY_H

#include "img/build.h"

/**
 * struct blk_copy - what goes where
 * @src, @n_src: disks, one behind the other
 * @build: a fresh qcow2 target; or
 * @over: one that has something, or is preallocated; or
 * @raw: a raw one
 * @zeroed: @over or @raw reads as zeroes already, or as what is below it
 * @unit: bytes of a cluster; any power of two for @raw
 * @own: take only what the source's own layer maps: the target has the same
 *       image below
 * @hide: zeroes must be written as such: something else is below the target
 * @no_zeroes: @build has no other zeroes than those it writes as data
 * @compress: @type as in the header
 * @sparse: so many bytes of zeroes are not written, 0: all are
 * @threads: 1 to 16
 * @in_order: give out places in the order of the disk
 * @offload: the host may copy what is in files as it is on the disk, zeroes
 *           included (copy_file_range(2)); not for an encrypted @build, and not
 *           with @compress
 * @total: bytes to copy
 * @done: called by any thread, with bytes that are done since the last call,
 *        and whether they were moved or passed over; -errno with @e set ends
 *        the copy
 * @bad: NULL: what cannot be read ends the copy; else these bytes become zeroes,
 *       and it is called, by any thread
 */
struct blk_copy {
	struct blk_img **src;
	size_t n_src;
	struct blk_build *build;
	struct blk_img *over;
	struct blk_file *raw;
	bool zeroed;
	uint64_t unit;
	bool own;
	bool hide;
	bool no_zeroes;
	bool compress;
	unsigned int type;
	uint64_t sparse;
	unsigned int threads;
	bool in_order;
	bool offload;
	uint64_t total;
	int (*done)(void *opaque, uint64_t n, bool moved, struct blk_error *e);
	void (*bad)(void *opaque, uint64_t off, uint64_t n,
		    const struct blk_error *e);
	void *opaque;
};

int blk_copy_run(const struct blk_copy *c, struct blk_error *e);

#endif
