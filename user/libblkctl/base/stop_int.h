/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Places where a test can have the daemon die: "make user STOP_POINTS=1" builds
 * them into programs of their own, and BLK_STOP_AT=NAME, or NAME:N for the N-th
 * time, in the environment says where. In all other builds there is nothing.
 */
#ifndef BLK_BASE_STOP_INT_H
#define BLK_BASE_STOP_INT_H

#ifdef BLK_STOP_POINTS
/* Any thread. Does not return if this is the place. */
void blk_stop_point(const char *name);
#else
#define blk_stop_point(name) do { } while (0)
#endif

#endif
