// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel module: is it there, load it, and if not, why not.
 *
 * Owns the calls of modprobe.  Its output never reaches the terminal: the last
 * line of it becomes the reason in our own sentence.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "module.h"

#define MODPROBE "/sbin/modprobe"

bool module_read_line(const char *path, char *buf, size_t room)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fgets(buf, room, f);
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

bool module_loaded(void)
{
	return !access("/sys/module/dm_qcow", F_OK);
}

/* Keeps the last line that is not empty. */
static void last_line(int fd, char *buf, size_t room)
{
	FILE *f = fdopen(fd, "r");
	char line[256];

	if (!f) {
		close(fd);
		return;
	}
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (*line)
			snprintf(buf, room, "%s", line);
	}
	fclose(f);
}

/* Runs modprobe with one option; its exit code, or 127. */
static int modprobe(const char *option, char *said, size_t room)
{
	int p[2], status;
	pid_t pid;

	*said = '\0';
	if (pipe2(p, 0))
		return 127;
	pid = fork();
	if (!pid) {
		dup2(p[1], STDOUT_FILENO);
		dup2(p[1], STDERR_FILENO);
		close(p[0]);
		close(p[1]);
		execl(MODPROBE, "modprobe", option, MODULE_NAME, NULL);
		_exit(127);
	}
	close(p[1]);
	last_line(p[0], said, room);
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return 127;
	return WEXITSTATUS(status);
}

bool module_installed(void)
{
	char said[256];

	return !modprobe("--dry-run", said, sizeof(said));
}

int module_load(struct blk_error *e)
{
	char said[256];
	const char *why = said;
	int rc;

	if (module_loaded() || geteuid())
		return 0;
	rc = modprobe("--quiet", said, sizeof(said));
	if (!rc)
		return 0;
	if (!strncmp(why, "modprobe: ", 10))
		why += 10;
	if (!strncmp(why, "ERROR: ", 7) || !strncmp(why, "FATAL: ", 7))
		why += 7;
	blk_error_set(e, BLK_ERR_UNAVAILABLE, ENODEV,
		      "cannot load the kernel module " MODULE_NAME ": %s",
		      *why ? why : rc == 127 ? "cannot run " MODPROBE
					     : "it is not installed for this kernel");
	blk_error_hint(e, "blkctl doctor");
	return -ENODEV;
}
