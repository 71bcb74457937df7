// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Types of blockdev-add and query-named-block-nodes, as QEMU's
 * qapi/block-core.json has them, as far as they exist here.
 *
 * Owns: tables, nothing else.  Threads: constant data.
 */
#include "types.h"

/*
 * Arguments
 */

ENUM(driver, "BlockdevDriver", "file", "host_device", "qcow2", "raw");
ENUM(discard, "BlockdevDiscardOptions", "ignore", "unmap");
ENUM(detect_zeroes, "BlockdevDetectZeroesOptions", "off", "on", "unmap");
ENUM(on_off_auto, "OnOffAuto", "auto", "on", "off");
ENUM(aio, "BlockdevAioOptions", "threads", "native", "io_uring");
ENUM(overlap_mode, "Qcow2OverlapCheckMode",
     "none", "constant", "cached", "all");

/* Direct I/O is what happens in any case */
OBJECT(cache, "BlockdevCacheOptions",
	OPT("direct", &qmp_bool),
	ONLY("no-flush", &qmp_bool, "false"));

ALTERNATE(blockdev_ref, "BlockdevRef", &qmp_blockdev_options, &qmp_str);
ALTERNATE(blockdev_ref_or_null, "BlockdevRefOrNull",
	  &qmp_blockdev_options, &qmp_str, &qmp_null);

OBJECT(overlap_flags, "Qcow2OverlapCheckFlags",
	OPT("template", &overlap_mode),
	OPT("main-header", &qmp_bool),
	OPT("active-l1", &qmp_bool),
	OPT("active-l2", &qmp_bool),
	OPT("refcount-table", &qmp_bool),
	OPT("refcount-block", &qmp_bool),
	OPT("snapshot-table", &qmp_bool),
	OPT("inactive-l1", &qmp_bool),
	OPT("inactive-l2", &qmp_bool),
	OPT("bitmap-directory", &qmp_bool));
ALTERNATE(overlap_checks, "Qcow2OverlapChecks",
	  &overlap_flags, &overlap_mode);

OBJECT(file_options, "BlockdevOptionsFile",
	REQ("filename", &qmp_str),
	ONLY("pr-manager", &qmp_str, ""),
	ONLY("locking", &on_off_auto, "\"auto\""),
	ONLY("aio", &aio, "\"threads\""),
	ONLY("aio-max-batch", &qmp_int, "0"),
	ONLY("drop-cache", &qmp_bool, "true"),
	ONLY("x-check-cache-dropped", &qmp_bool, "false"));

ENUM(encryption_format, "BlockdevQcow2EncryptionFormat", "aes", "luks");
/* "aes" is refused in words */
OBJECT(aes_options, "QCryptoBlockOptionsQCow",
	OPT("key-secret", &qmp_str));
OBJECT(luks_options, "QCryptoBlockOptionsLUKS",
	OPT("key-secret", &qmp_str));
static const struct qmp_type encryption = {
	.kind = QMP_OBJECT, .name = "BlockdevQcow2Encryption",
	.members = (const struct qmp_member []){
		REQ("format", &encryption_format),
		END
	},
	.tag = "format",
	.variants = (const struct qmp_variant []){
		{ "aes", &aes_options },
		{ "luks", &luks_options },
		{ NULL, NULL }
	},
};

OBJECT(qcow2_options, "BlockdevOptionsQcow2",
	REQ("file", &blockdev_ref),
	OPT("backing", &blockdev_ref_or_null),
	OPT("lazy-refcounts", &qmp_bool),
	ONLY("pass-discard-request", &qmp_bool, "false"),
	ONLY("pass-discard-snapshot", &qmp_bool, "true"),
	ONLY("pass-discard-other", &qmp_bool, "false"),
	ONLY("discard-no-unref", &qmp_bool, "false"),
	ONLY("overlap-check", &overlap_checks, "\"cached\""),
	ONLY("cache-size", &qmp_int, ""),
	ONLY("l2-cache-size", &qmp_int, ""),
	ONLY("l2-cache-entry-size", &qmp_int, ""),
	ONLY("refcount-cache-size", &qmp_int, ""),
	ONLY("cache-clean-interval", &qmp_int, "600"),
	OPT("encrypt", &encryption),
	OPT("data-file", &blockdev_ref),
	/* ours: the header may name files of other directories */
	OPT("allow-external", &qmp_bool));

OBJECT(raw_options, "BlockdevOptionsRaw",
	REQ("file", &blockdev_ref),
	ONLY("offset", &qmp_int, "0"),
	ONLY("size", &qmp_int, ""));

const struct qmp_type qmp_blockdev_options = {
	.kind = QMP_OBJECT, .name = "BlockdevOptions",
	.members = (const struct qmp_member []){
		REQ("driver", &driver),
		OPT("node-name", &qmp_str),
		ONLY("discard", &discard, "\"ignore\""),
		OPT("cache", &cache),
		ONLY("active", &qmp_bool, "true"),
		OPT("read-only", &qmp_bool),
		OPT("auto-read-only", &qmp_bool),
		ONLY("force-share", &qmp_bool, "false"),
		ONLY("detect-zeroes", &detect_zeroes, "\"off\""),
		END
	},
	.tag = "driver",
	.variants = (const struct qmp_variant []){
		{ "file", &file_options },
		{ "host_device", &file_options },
		{ "qcow2", &qcow2_options },
		{ "raw", &raw_options },
		{ NULL, NULL }
	},
};

/*
 * Replies
 */

ENUM(image_kind, "ImageInfoSpecificKind", "qcow2");
ENUM(compression, "Qcow2CompressionType", "zlib", "zstd");

OBJECT(child, "BlockdevChild",
	REQ("child", &qmp_str),
	REQ("node-name", &qmp_str));
static const struct qmp_type child_list = {
	.kind = QMP_ARRAY, .elem = &child,
};

OBJECT(qcow2_info, "ImageInfoSpecificQCow2",
	REQ("compat", &qmp_str),
	OPT("data-file", &qmp_str),
	OPT("data-file-raw", &qmp_bool),
	OPT("extended-l2", &qmp_bool),
	OPT("lazy-refcounts", &qmp_bool),
	OPT("corrupt", &qmp_bool),
	REQ("refcount-bits", &qmp_int),
	REQ("compression-type", &compression));
OBJECT(qcow2_wrapper, "ImageInfoSpecificQCow2Wrapper",
	REQ("data", &qcow2_info));
static const struct qmp_type image_specific = {
	.kind = QMP_OBJECT, .name = "ImageInfoSpecific",
	.members = (const struct qmp_member []){
		REQ("type", &image_kind),
		END
	},
	.tag = "type",
	.variants = (const struct qmp_variant []){
		{ "qcow2", &qcow2_wrapper },
		{ NULL, NULL }
	},
};

static const struct qmp_type image_info;
OBJECT(image_info, "ImageInfo",
	REQ("filename", &qmp_str),
	REQ("format", &qmp_str),
	OPT("dirty-flag", &qmp_bool),
	OPT("actual-size", &qmp_int),
	REQ("virtual-size", &qmp_int),
	OPT("cluster-size", &qmp_int),
	OPT("encrypted", &qmp_bool),
	OPT("compressed", &qmp_bool),
	OPT("backing-filename", &qmp_str),
	OPT("full-backing-filename", &qmp_str),
	OPT("backing-filename-format", &qmp_str),
	OPT("backing-image", &image_info),
	OPT("format-specific", &image_specific));

OBJECT(cache_info, "BlockdevCacheInfo",
	REQ("writeback", &qmp_bool),
	REQ("direct", &qmp_bool),
	REQ("no-flush", &qmp_bool));

OBJECT(block_device_info, "BlockDeviceInfo",
	REQ("file", &qmp_str),
	OPT("node-name", &qmp_str),
	REQ("ro", &qmp_bool),
	REQ("drv", &qmp_str),
	OPT("backing_file", &qmp_str),
	REQ("backing_file_depth", &qmp_int),
	REQ("children", &child_list),
	REQ("active", &qmp_bool),
	REQ("encrypted", &qmp_bool),
	REQ("detect_zeroes", &detect_zeroes),
	REQ("bps", &qmp_int),
	REQ("bps_rd", &qmp_int),
	REQ("bps_wr", &qmp_int),
	REQ("iops", &qmp_int),
	REQ("iops_rd", &qmp_int),
	REQ("iops_wr", &qmp_int),
	REQ("image", &image_info),
	REQ("cache", &cache_info),
	REQ("write_threshold", &qmp_int));

const struct qmp_type qmp_block_device_info_list = {
	.kind = QMP_ARRAY, .elem = &block_device_info,
};
