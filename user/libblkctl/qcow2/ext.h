/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The header cluster of a qcow2 image behind the fixed header: extensions and
 * the feature name table.  Pure: bytes in, structures out.
 */
#ifndef BLK_QCOW2_EXT_H
#define BLK_QCOW2_EXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/qcow2_disk.h>

#define BLK_FEATURE_NAME_MAX	46
/* what the in-use extension needs: its header and its data */
#define BLK_EXT_IN_USE_BYTES	16U

/* A range inside the header cluster; len 0: absent */
struct blk_ext_range {
	uint32_t off;
	uint32_t len;
};

/**
 * struct blk_ext_info - what the extensions say, offsets in the header cluster
 * @start: where the first extension begins
 * @limit: the area's end: the backing file name or the cluster's end
 * @end: the END marker, or where the next extension would begin without one
 * @has_end: there is an END marker at @end
 * @backing_format, @data_file, @features: their data
 * @has_bitmaps: with the three fields that follow (n_bitmaps > 0)
 * @has_crypto: LUKS header at @crypto_offset, @crypto_length bytes
 * @in_use: offset of our extension (its header), 0 if none
 * @in_use_last: nothing but END follows it
 * @in_use_set: it says that the image is in use
 */
struct blk_ext_info {
	uint32_t start;
	uint32_t limit;
	uint32_t end;
	bool has_end;
	struct blk_ext_range backing_format;
	struct blk_ext_range data_file;
	struct blk_ext_range features;
	bool has_bitmaps;
	uint32_t n_bitmaps;
	uint64_t bitmap_dir_size;
	uint64_t bitmap_dir_offset;
	bool has_crypto;
	uint64_t crypto_offset;
	uint64_t crypto_length;
	uint32_t in_use;
	bool in_use_last;
	bool in_use_set;
};

/**
 * blk_ext_parse - walk the extensions
 * @head: the header cluster
 * @len: bytes of it, at least the cluster size
 * @h: decoded; cluster_bits, header_length and backing_file_offset are checked
 *     here once more, for callers that have not validated the header
 * Return: NULL, or a sentence fragment.
 */
const char *blk_ext_parse(const void *head, size_t len,
			  const struct qcow2_header *h,
			  struct blk_ext_info *out);

enum blk_feature_type {
	BLK_FEATURE_INCOMPATIBLE = 0,
	BLK_FEATURE_COMPATIBLE = 1,
	BLK_FEATURE_AUTOCLEAR = 2,
};

/**
 * blk_ext_feature_name - the image's own name of a feature bit
 * @name: filled in, printable, BLK_FEATURE_NAME_MAX + 1 bytes; without an
 *        entry in the table "bit N"
 */
void blk_ext_feature_name(const void *head, const struct blk_ext_info *info,
			  enum blk_feature_type type, unsigned int bit,
			  char *name);

/**
 * blk_ext_feature_names - a list of all bits in @mask, separated by ", "
 */
void blk_ext_feature_names(const void *head, const struct blk_ext_info *info,
			   enum blk_feature_type type, uint64_t mask,
			   char *buf, size_t len);

/* The in-use extension's bytes at @p (BLK_EXT_IN_USE_BYTES) */
void blk_ext_emit_in_use(void *p);

/**
 * blk_header_emit - the fixed header, from host order to disk
 * @buf: at least QCOW2_HEADER_MIN_READ bytes; fields that the version or
 *       header_length does not have are left alone
 */
void blk_header_emit(const struct qcow2_header *h, void *buf);

#endif
