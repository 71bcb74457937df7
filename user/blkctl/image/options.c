// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What -o can name for each format: tables, nothing else.
 */
#include <string.h>

#include "image/image.h"

const struct image_key image_qcow2_keys[] = {
	{ "backing_file", "name of the image below", NULL, false },
	{ "backing_fmt", "format of the image below", NULL, false },
	{ "cluster_size", "512 to 2M, default 64k", .size = true },
	{ "compat", "version of the format: 0.10 or 1.1",
	  .words = "0.10 v2 1.1 v3" },
	{ "compression_type", "how clusters are compressed",
	  .words = "zlib zstd" },
	{ "data_file", "a raw file that has the data", NULL, false },
	{ "data_file_raw", "the data file is a valid raw image",
	  .words = "on off" },
	{ "encrypt.format", "how data is encrypted", .words = "luks" },
	{ "encrypt.key-secret", "id of the secret with the passphrase", NULL, false },
	{ "encrypt.cipher-alg", "default aes-256", NULL, false },
	{ "encrypt.cipher-mode", "default xts", NULL, false },
	{ "encrypt.hash-alg", "default sha256", NULL, false },
	{ "encrypt.iter-time", "milliseconds that a guess takes", NULL, false },
	{ "encrypt.ivgen-alg", "default plain64", NULL, false },
	{ "encrypt.ivgen-hash-alg", "for ivgen-alg=essiv", NULL, false },
	{ "extended_l2", "parts of clusters are allocated", .words = "on off" },
	{ "lazy_refcounts", "reference counts are written late",
	  .words = "on off" },
	{ "nocow", "no copy-on-write by the file system (btrfs)",
	  .words = "on off" },
	{ "preallocation", "what is allocated at once",
	  .words = "off metadata falloc full" },
	{ "refcount_bits", "1 to 64, default 16",
	  .words = "1 2 4 8 16 32 64" },
	{ "size", "size of the disk", .size = true },
	{}
};

const struct image_key image_raw_keys[] = {
	{ "nocow", "no copy-on-write by the file system (btrfs)",
	  .words = "on off" },
	{ "preallocation", "what is allocated at once",
	  .words = "off falloc full" },
	{ "size", "size of the disk", .size = true },
	{}
};

const struct image_key *image_format_keys(const char *format)
{
	return format && !strcmp(format, "qcow2") ? image_qcow2_keys :
		image_raw_keys;
}
