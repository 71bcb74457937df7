/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The generic netlink family "dm_qcow": see linux/dm_qcow.h.
 */
#ifndef QCOW_NETLINK_H
#define QCOW_NETLINK_H

#include <linux/types.h>

int qcow_netlink_init(void);
void qcow_netlink_exit(void);

/* Rings the doorbell; process context; may be lost. */
void qcow_netlink_event(u64 dev, u32 events);

#endif
