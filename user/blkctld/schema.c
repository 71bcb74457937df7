// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The table of commands and the table of events.  A new command is one row.
 *
 * Owns: tables, nothing else.  Threads: constant data.
 */
#include <string.h>

#include "cmd.h"
#include "types.h"

const struct qmp_type qmp_str = { .kind = QMP_STR, .name = "string" };
const struct qmp_type qmp_int = { .kind = QMP_INT, .name = "integer" };
const struct qmp_type qmp_number = { .kind = QMP_NUMBER, .name = "number" };
const struct qmp_type qmp_bool = { .kind = QMP_BOOL, .name = "boolean" };
const struct qmp_type qmp_null = { .kind = QMP_NULL, .name = "null" };
const struct qmp_type qmp_any = { .kind = QMP_ANY, .name = "value" };

/* There is no capability to enable: commands never wait for each other */
ENUM(capability, "QMPCapability", NULL);
static const struct qmp_type capability_list = {
	.kind = QMP_ARRAY, .elem = &capability,
};
OBJECT(capabilities_args, "q_obj_qmp_capabilities-arg",
	OPT("enable", &capability_list));

OBJECT(version_triple, "VersionTriple",
	REQ("major", &qmp_int),
	REQ("minor", &qmp_int),
	REQ("micro", &qmp_int));
OBJECT(version_info, "VersionInfo",
	REQ("qemu", &version_triple),
	REQ("package", &qmp_str));

OBJECT(command_info, "CommandInfo",
	REQ("name", &qmp_str));
static const struct qmp_type command_list = {
	.kind = QMP_ARRAY, .elem = &command_info,
};

/* The schema's own type is recursive in QEMU too; nobody reads it from here */
static const struct qmp_type schema_list = {
	.kind = QMP_ARRAY, .elem = &qmp_any,
};

OBJECT(node_name_args, "q_obj_blockdev-del-arg",
	REQ("node-name", &qmp_str));
OBJECT(query_nodes_args, "q_obj_query-named-block-nodes-arg",
	OPT("flat", &qmp_bool));
OBJECT(query_dm_args, "q_obj_query-device-mapper-arg",
	OPT("id", &qmp_str));
/* "shrink" is ours: data may be lost only where it was asked for */
OBJECT(resize_args, "q_obj_block_resize-arg",
	OPT("device", &qmp_str),
	OPT("node-name", &qmp_str),
	REQ("size", &qmp_int),
	OPT("shrink", &qmp_bool));
/* "warning" is ours: gone, but something about it failed */
OBJECT(export_deleted, "q_obj_BLOCK_EXPORT_DELETED-arg",
	REQ("id", &qmp_str),
	OPT("warning", &qmp_str));

const struct qmp_command qmp_commands[] = {
	{ "qmp_capabilities", &capabilities_args, NULL,
	  cmd_qmp_capabilities },
	{ "query-version", NULL, &version_info, cmd_query_version },
	{ "query-commands", NULL, &command_list, cmd_query_commands },
	{ "query-qmp-schema", NULL, &schema_list, cmd_query_qmp_schema },
	{ "quit", NULL, NULL, cmd_quit },
	{ "object-add", &qmp_object_options, NULL, cmd_object_add },
	{ "object-del", &qmp_object_del_args, NULL, cmd_object_del },
	{ "blockdev-add", &qmp_blockdev_options, NULL, cmd_blockdev_add },
	{ "blockdev-del", &node_name_args, NULL, cmd_blockdev_del },
	{ "query-named-block-nodes", &query_nodes_args,
	  &qmp_block_device_info_list, cmd_query_named_block_nodes },
	{ "block_resize", &resize_args, NULL, cmd_block_resize },
	{ "block-export-add", &qmp_export_options, NULL,
	  cmd_block_export_add },
	{ "block-export-del", &qmp_export_del_args, NULL,
	  cmd_block_export_del },
	{ "query-block-exports", NULL, &qmp_export_info_list,
	  cmd_query_block_exports },
	{ "query-device-mapper", &query_dm_args, &qmp_device_mapper_info_list,
	  cmd_query_device_mapper },
	{ .name = NULL }
};

const struct qmp_event qmp_events[] = {
	{ "BLOCK_EXPORT_DELETED", &export_deleted },
	{ "BLOCK_IMAGE_CORRUPTED", &qmp_image_corrupted },
	{ "DEVICE_MAPPER_STATE_CHANGE", &qmp_device_mapper_state },
	{ NULL, NULL }
};

const struct qmp_command *qmp_command_find(const char *name)
{
	const struct qmp_command *c;

	for (c = qmp_commands; c->name; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}
