// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Types of the export commands, of query-device-mapper and of the events.
 * What QEMU has is as in its qapi/block-export.json; "device-mapper" is ours.
 *
 * Owns: tables, nothing else.  Threads: constant data.
 */
#include "types.h"

ENUM(export_type, "BlockExportType", "device-mapper");
ENUM(remove_mode, "BlockExportRemoveMode", "safe", "hard");
/* The words of the target's status line */
ENUM(mode, "DeviceMapperMode", "rw", "out_of_space", "ro", "fail");

/*
 * Arguments
 */

OBJECT(dm_options, "BlockExportOptionsDeviceMapper",
	REQ("name", &qmp_str),
	{ .name = "no-space-timeout", .type = &qmp_int, .optional = true,
	  .max = 86400 },
	OPT("snapshot", &qmp_str),
	OPT("invalidate-bitmaps", &qmp_bool));

const struct qmp_type qmp_export_options = {
	.kind = QMP_OBJECT, .name = "BlockExportOptions",
	.members = (const struct qmp_member []){
		REQ("type", &export_type),
		REQ("id", &qmp_str),
		ONLY("fixed-iothread", &qmp_bool, "false"),
		ONLY("iothread", &qmp_str, ""),
		REQ("node-name", &qmp_str),
		OPT("writable", &qmp_bool),
		ONLY("writethrough", &qmp_bool, "false"),
		ONLY("allow-inactive", &qmp_bool, "false"),
		END
	},
	.tag = "type",
	.variants = (const struct qmp_variant []){
		{ "device-mapper", &dm_options },
		{ NULL, NULL }
	},
};

const struct qmp_type qmp_export_del_args = {
	.kind = QMP_OBJECT, .name = "q_obj_block-export-del-arg",
	.members = (const struct qmp_member []){
		REQ("id", &qmp_str),
		OPT("mode", &remove_mode),
		END
	},
};

/*
 * Replies
 */

OBJECT(dm_info, "BlockExportInfoDeviceMapper",
	REQ("name", &qmp_str),
	REQ("device", &qmp_str),
	REQ("writable", &qmp_bool),
	OPT("snapshot", &qmp_str));

static const struct qmp_type export_info = {
	.kind = QMP_OBJECT, .name = "BlockExportInfo",
	.members = (const struct qmp_member []){
		REQ("id", &qmp_str),
		REQ("type", &export_type),
		REQ("node-name", &qmp_str),
		REQ("shutting-down", &qmp_bool),
		END
	},
	.tag = "type",
	.variants = (const struct qmp_variant []){
		{ "device-mapper", &dm_info },
		{ NULL, NULL }
	},
};
const struct qmp_type qmp_export_info_list = {
	.kind = QMP_ARRAY, .elem = &export_info,
};

OBJECT(dm_stats, "DeviceMapperStats",
	REQ("read-mapped", &qmp_int),
	REQ("read-zero", &qmp_int),
	REQ("write-mapped", &qmp_int),
	REQ("write-alloc", &qmp_int),
	REQ("write-joined", &qmp_int),
	REQ("deferred", &qmp_int),
	REQ("flushes", &qmp_int),
	REQ("commits", &qmp_int),
	REQ("slices-written", &qmp_int),
	REQ("slice-loads", &qmp_int),
	REQ("slices-reclaimed", &qmp_int),
	REQ("filled", &qmp_int),
	REQ("parked", &qmp_int),
	REQ("io-errors", &qmp_int),
	REQ("read-below", &qmp_int),
	REQ("read-compressed", &qmp_int),
	REQ("decompressed", &qmp_int),
	REQ("discards", &qmp_int),
	REQ("write-zeroes", &qmp_int),
	REQ("tables-copied", &qmp_int));

OBJECT(dm_image, "DeviceMapperImage",
	REQ("filename", &qmp_str),
	REQ("format", &qmp_str),
	REQ("virtual-size", &qmp_int),
	REQ("cluster-size", &qmp_int),
	REQ("file-node-name", &qmp_str),
	REQ("backing-depth", &qmp_int));

/* The top first; "data-file": where its data is, if that is another file */
OBJECT(dm_layer, "DeviceMapperLayer",
	REQ("filename", &qmp_str),
	REQ("format", &qmp_str),
	REQ("node-name", &qmp_str),
	OPT("data-file", &qmp_str));
static const struct qmp_type dm_layer_list = {
	.kind = QMP_ARRAY, .elem = &dm_layer,
};

/*
 * Without id, node-name, image, size and layers: a device that this daemon does
 * not manage
 */
OBJECT(device_mapper_info, "DeviceMapperInfo",
	OPT("id", &qmp_str),
	OPT("node-name", &qmp_str),
	REQ("name", &qmp_str),
	REQ("device", &qmp_str),
	REQ("major", &qmp_int),
	REQ("minor", &qmp_int),
	REQ("managed", &qmp_bool),
	REQ("mode", &mode),
	REQ("writable", &qmp_bool),
	REQ("active", &qmp_bool),
	REQ("session", &qmp_bool),
	REQ("host-full", &qmp_bool),
	REQ("leaked", &qmp_bool),
	REQ("corrupt", &qmp_bool),
	REQ("errno", &qmp_int),
	REQ("cluster-size", &qmp_int),
	REQ("pending", &qmp_int),
	REQ("generation", &qmp_int),
	REQ("granted", &qmp_int),
	REQ("consumed", &qmp_int),
	REQ("freed", &qmp_int),
	REQ("parked", &qmp_int),
	REQ("seq", &qmp_int),
	REQ("cookie", &qmp_int),
	REQ("stats", &dm_stats),
	OPT("image", &dm_image),
	OPT("size", &qmp_int),
	OPT("snapshot", &qmp_str),
	OPT("layers", &dm_layer_list),
	OPT("label", &qmp_str));
const struct qmp_type qmp_device_mapper_info_list = {
	.kind = QMP_ARRAY, .elem = &device_mapper_info,
};

/*
 * Events
 */

const struct qmp_type qmp_device_mapper_state = {
	.kind = QMP_OBJECT, .name = "q_obj_DEVICE_MAPPER_STATE_CHANGE-arg",
	.members = (const struct qmp_member []){
		REQ("id", &qmp_str),
		REQ("node-name", &qmp_str),
		REQ("name", &qmp_str),
		REQ("mode", &mode),
		REQ("host-full", &qmp_bool),
		REQ("errno", &qmp_int),
		END
	},
};

const struct qmp_type qmp_image_corrupted = {
	.kind = QMP_OBJECT, .name = "q_obj_BLOCK_IMAGE_CORRUPTED-arg",
	.members = (const struct qmp_member []){
		REQ("device", &qmp_str),
		OPT("node-name", &qmp_str),
		REQ("msg", &qmp_str),
		OPT("offset", &qmp_int),
		OPT("size", &qmp_int),
		REQ("fatal", &qmp_bool),
		END
	},
};
