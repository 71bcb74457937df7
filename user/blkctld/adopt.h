/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Taking over the devices that are there when the daemon starts.
 */
#ifndef BLKCTLD_ADOPT_H
#define BLKCTLD_ADOPT_H

#include "server.h"

/*
 * Begins; @done is called once, when every device has been adopted or has
 * failed, or after some seconds, whichever comes first.
 */
void adopt_all(struct server *s, void (*done)(struct server *s));

#endif
