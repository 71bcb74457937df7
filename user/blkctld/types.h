/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The types of the block commands' arguments, replies and events.
 */
#ifndef BLKCTLD_TYPES_H
#define BLKCTLD_TYPES_H

#include "schema.h"

/*
 * Words for the tables
 */
#define END { .name = NULL }
#define OPT(n, t)	{ .name = n, .type = t, .optional = true }
#define REQ(n, t)	{ .name = n, .type = t }
#define ONLY(n, t, v)	{ .name = n, .type = t, .optional = true, .only = v }

#define ENUM(var, qname, ...)						\
	static const struct qmp_type var = {				\
		.kind = QMP_ENUM, .name = qname,			\
		.values = (const char *const []){ __VA_ARGS__, NULL },	\
	}
#define OBJECT(var, qname, ...)						\
	static const struct qmp_type var = {				\
		.kind = QMP_OBJECT, .name = qname,			\
		.members = (const struct qmp_member []){ __VA_ARGS__, END }, \
	}
#define ALTERNATE(var, qname, ...)					\
	static const struct qmp_type var = {				\
		.kind = QMP_ALTERNATE, .name = qname,			\
		.alts = (const struct qmp_type *const []){ __VA_ARGS__, NULL }, \
	}

extern const struct qmp_type qmp_object_options;
extern const struct qmp_type qmp_object_del_args;
extern const struct qmp_type qmp_blockdev_options;
extern const struct qmp_type qmp_block_device_info_list;
extern const struct qmp_type qmp_export_options;
extern const struct qmp_type qmp_export_del_args;
extern const struct qmp_type qmp_export_info_list;
extern const struct qmp_type qmp_device_mapper_info_list;
extern const struct qmp_type qmp_device_mapper_state;
extern const struct qmp_type qmp_image_corrupted;

#endif
