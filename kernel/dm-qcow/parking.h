/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Lists of bios that wait: for the worker, for a grant, for a commit.
 * The calls that other files make are in device.h.
 */
#ifndef QCOW_PARKING_H
#define QCOW_PARKING_H

#include <linux/blk_types.h>

struct qcow_device;

void qcow_parking_init(struct qcow_device *dev);
void qcow_parking_exit(struct qcow_device *dev);
/* Ends all parked bios. */
void qcow_parking_fail(struct qcow_device *dev, blk_status_t status);
/* A commit has ended: throttled bios try again. */
void qcow_parking_unthrottle(struct qcow_device *dev);

#endif
