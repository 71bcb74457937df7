// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Stop points (stop_int.h); nothing in builds without them.
 *
 * Must not run any handler, flush or unlock anything: it is to be as sudden as
 * SIGKILL from outside.  Locking: none; one counter, changed by any thread.
 */
#include "base/stop_int.h"

#ifdef BLK_STOP_POINTS
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void blk_stop_point(const char *name)
{
	static atomic_uint passed;
	const char *at = getenv("BLK_STOP_AT");
	size_t len = at ? strcspn(at, ":") : 0;
	unsigned long nth = 1;

	if (!len || strlen(name) != len || strncmp(at, name, len))
		return;
	if (at[len])
		nth = strtoul(at + len + 1, NULL, 10);
	if (atomic_fetch_add(&passed, 1) + 1 < nth)
		return;
	for (;;)
		kill(getpid(), SIGKILL);
}
#endif
