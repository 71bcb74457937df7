/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * L2 tables: new ones, and copies of those that snapshots share.
 */
#ifndef QCOW_L2TABLE_H
#define QCOW_L2TABLE_H

#include <linux/types.h>

struct qcow_target;

/**
 * qcow_l2table_make - give a guest offset an L2 table that may be written
 * Makes one if there is none, copies it if it is shared.  From the worker of
 * the image's owner, the only thread that changes L1; sleeps.
 * Return: 0; -ENOSPC: no grant; -ENOMEM; -EIO: the old one can't be read or
 * the new one not be written.
 */
int qcow_l2table_make(struct qcow_target *t, u64 guest);

#endif
