// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Signals, and the targets that must not be left half-made.
 *
 * Owns: what the handlers see, which can be nowhere but in variables of this
 * file.  Handlers set flags; only that of a second SIGINT does more, and that
 * by what a handler may call.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/image.h"

#define TARGETS_MAX 4

static atomic_int ended_by;
static atomic_bool progress_asked;
static char *targets[TARGETS_MAX];
static volatile sig_atomic_t ntargets;

static void on_end(int sig)
{
	if (atomic_exchange(&ended_by, sig)) {
		image_targets_remove();
		_exit(128 + sig);
	}
}

static void on_usr1(int sig)
{
	progress_asked = true;
}

void image_signals(void)
{
	static const struct {
		int sig;
		void (*handler)(int sig);
	} all[] = {
		{ SIGINT, on_end }, { SIGTERM, on_end }, { SIGHUP, on_end },
		{ SIGUSR1, on_usr1 },
	};
	struct sigaction sa = { .sa_flags = SA_RESTART }, old;
	size_t i;

	for (i = 0; i < sizeof(all) / sizeof(*all); i++) {
		sa.sa_handler = all[i].handler;
		/* nohup's stays */
		if (!sigaction(all[i].sig, NULL, &old) &&
		    old.sa_handler == SIG_IGN)
			continue;
		sigaction(all[i].sig, &sa, NULL);
	}
	/* of a descriptor that nobody reads, a write fails */
	signal(SIGPIPE, SIG_IGN);
}

int image_interrupted(struct blk_error *e)
{
	return !ended_by ? 0 : blk_error_set(e, BLK_ERR_FAILED, EINTR,
					     "interrupted");
}

int image_signal(void)
{
	return ended_by;
}

bool image_progress_asked(void)
{
	return progress_asked && atomic_exchange(&progress_asked, false);
}

void image_target_add(const char *path)
{
	char *copy = strdup(path);

	if (!copy || ntargets == TARGETS_MAX)
		return;
	targets[ntargets] = copy;
	ntargets++;
}

/* Also in a handler */
void image_targets_remove(void)
{
	int i;

	for (i = 0; i < ntargets; i++)
		unlink(targets[i]);
	ntargets = 0;
}

void image_targets_keep(void)
{
	ntargets = 0;
}
