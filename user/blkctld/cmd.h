/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The commands' handlers, as struct qmp_command's fn says.
 */
#ifndef BLKCTLD_CMD_H
#define BLKCTLD_CMD_H

#include <jansson.h>

#include "base/error.h"

struct qmp_request;

#define CMD(name) \
	int name(struct qmp_request *rq, json_t **ret, struct blk_error *e)

CMD(cmd_qmp_capabilities);
CMD(cmd_query_version);
CMD(cmd_query_commands);
CMD(cmd_query_qmp_schema);
CMD(cmd_quit);
CMD(cmd_object_add);
CMD(cmd_object_del);
CMD(cmd_blockdev_add);
CMD(cmd_blockdev_del);
CMD(cmd_query_named_block_nodes);
CMD(cmd_block_resize);
CMD(cmd_block_export_add);
CMD(cmd_block_export_del);
CMD(cmd_query_block_exports);
CMD(cmd_query_device_mapper);

#undef CMD

#endif
