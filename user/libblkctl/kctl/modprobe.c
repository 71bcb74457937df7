// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Runs modprobe and keeps what it says.
 *
 * Owns: one child process at a time, with its pipe.
 * Must not: interpret the module's name.
 * Threads: any; it blocks until modprobe has ended.
 */
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kctl/modprobe.h"

static const char *const paths[] = {
	"/sbin/modprobe", "/usr/sbin/modprobe", "/bin/modprobe",
};

/* Reads until the child closes its end; keeps the first line. */
static void first_line(int fd, char *why, size_t room)
{
	char buf[512];
	size_t used = 0;
	char *text;
	ssize_t n;

	while ((n = read(fd, buf + used, sizeof(buf) - 1 - used)) > 0 ||
	       (n < 0 && errno == EINTR)) {
		if (n > 0)
			used += n;
		if (used == sizeof(buf) - 1)
			break;
	}
	buf[used] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	text = strstr(buf, "ERROR: ");
	text = text ? text + strlen("ERROR: ") :
		!strncmp(buf, "modprobe: ", 10) ? buf + 10 : buf;
	snprintf(why, room, "%s", text);
}

static int spawn(const char *path, const char *module, int out, pid_t *pid)
{
	char *const argv[] = { "modprobe", (char *)module, NULL };
	char *const env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C",
			      NULL };
	posix_spawn_file_actions_t fa;
	int err;

	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&fa, out, 1);
	posix_spawn_file_actions_adddup2(&fa, out, 2);
	err = posix_spawn(pid, path, &fa, NULL, argv, env);
	posix_spawn_file_actions_destroy(&fa);
	return err;
}

int blk_modprobe(const char *module, char *why, size_t room)
{
	int fds[2], status = 0, err = ENOENT;
	size_t i;
	pid_t pid;

	if (room)
		why[0] = '\0';
	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	for (i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		err = spawn(paths[i], module, fds[1], &pid);
		if (err != ENOENT)
			break;
	}
	close(fds[1]);
	if (!err) {
		first_line(fds[0], why, room);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
		if (status)
			err = EIO;
	}
	close(fds[0]);
	return -err;
}
