/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making a qcow2 image.
 */
#ifndef BLK_FMT_QCOW2_CREATE_H
#define BLK_FMT_QCOW2_CREATE_H

#include "fmt/luks.h"
#include "fmt/qcow2.h"

/**
 * struct blk_qcow2_new - what it shall be
 * @size: of the disk, bytes, a multiple of 512
 * @version: 2 or 3
 * @cluster_size: bytes, a power of two from 512 to 2 MiB
 * @refcount_bits: a power of two from 1 to 64; version 2: 16
 * @zstd: how clusters are compressed; else zlib
 * @backing_file, @backing_format, @data_file: names for the header, or NULL
 * @data_raw: the data file is a raw image of the whole disk
 * @luks: or NULL
 */
struct blk_qcow2_new {
	uint64_t size;
	unsigned int version;
	uint32_t cluster_size;
	unsigned int refcount_bits;
	bool extended_l2;
	bool lazy_refcounts;
	bool zstd;
	bool data_raw;
	const char *backing_file;
	const char *backing_format;
	const char *data_file;
	const struct blk_luks_new *luks;
};

/* QEMU's defaults: version 3, 64 KiB, 16 bits */
void blk_qcow2_new_init(struct blk_qcow2_new *n);

/**
 * blk_qcow2_new_check - do these go together?
 * Return: 0, or class USAGE with what does not
 */
int blk_qcow2_new_check(const struct blk_qcow2_new *n, struct blk_error *e);

/**
 * blk_qcow2_create - write an empty image
 * @f: open for writing and empty: what is in it is lost; a device keeps what is
 *     behind the metadata
 * The header is written last: a crash before leaves no image.
 */
int blk_qcow2_create(struct blk_file *f, const struct blk_qcow2_new *n,
		     struct blk_error *e);

#endif
