// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Setting up the process.
 *
 * Owns: nothing after it has returned.
 * Must not: be called when threads are running (environment, limits, umask).
 * Threads: the first one.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <jansson.h>

#include "log.h"
#include "setup.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

#define LISTEN_FD_FIRST	3
#define BACKLOG		64
#define THREAD_STACK	(1024 * 1024)

static int fail(struct blk_error *e, int err, const char *what,
		const char *path)
{
	return blk_error_set(e, BLK_ERR_FAILED, err, "%s %s: %s", what, path,
			     strerror(err));
}

int setup_lock(const char *path, int *fd, struct blk_error *e)
{
	int err;

	*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (*fd < 0)
		return fail(e, errno, "can't open the lock file", path);
	if (!flock(*fd, LOCK_EX | LOCK_NB))
		return 0;
	err = errno;
	close(*fd);
	*fd = -1;
	if (err != EWOULDBLOCK)
		return fail(e, err, "can't lock", path);
	return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			     "another blkctld is running (it holds %s)", path);
}

/* sd_listen_fds(3); -1: none was given */
static int activated_socket(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	socklen_t len = sizeof(int);
	int listening = 0, domain = 0;

	if (!pid || !fds || atoi(pid) != getpid() || atoi(fds) < 1)
		return -1;
	if (atoi(fds) > 1)
		log_warn("systemd gave %s sockets; only the first is used",
			 fds);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (getsockopt(LISTEN_FD_FIRST, SOL_SOCKET, SO_ACCEPTCONN, &listening,
		       &len) ||
	    getsockopt(LISTEN_FD_FIRST, SOL_SOCKET, SO_DOMAIN, &domain, &len) ||
	    !listening || domain != AF_UNIX) {
		log_warn("what systemd gave is no listening unix socket");
		return -1;
	}
	fcntl(LISTEN_FD_FIRST, F_SETFD, FD_CLOEXEC);
	fcntl(LISTEN_FD_FIRST, F_SETFL, O_NONBLOCK);
	return LISTEN_FD_FIRST;
}

int setup_socket(const char *path, int *fd, bool *own, struct blk_error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct stat st;
	mode_t mask;
	int ret;

	*own = false;
	*fd = activated_socket();
	if (*fd >= 0)
		return 0;
	if (strlen(path) >= sizeof(addr.sun_path))
		return fail(e, ENAMETOOLONG, "can't listen on", path);
	strcpy(addr.sun_path, path);
	/* Left behind by a daemon that is no more: we have the lock */
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
		unlink(path);
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (*fd < 0)
		return fail(e, errno, "can't listen on", path);
	mask = umask(0177);
	ret = bind(*fd, (struct sockaddr *)&addr, sizeof(addr)) ||
		listen(*fd, BACKLOG) ? errno : 0;
	umask(mask);
	*own = !ret;
	if (!ret)
		return 0;
	close(*fd);
	*fd = -1;
	return fail(e, ret, "can't listen on", path);
}

int setup_pidfile(const char *path, struct blk_error *e)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC |
		      O_NOFOLLOW, 0644);
	int ret;

	if (fd < 0)
		return fail(e, errno, "can't write", path);
	ret = dprintf(fd, "%d\n", (int)getpid()) < 0 ? errno : 0;
	if (close(fd) && !ret)
		ret = errno;
	return ret ? fail(e, ret, "can't write", path) : 0;
}

static void set_oom_score(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-1000", 5) != 5)
		log_warn("can't become exempt from the OOM killer: %s",
			 strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void raise_open_files(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim))
		return;
	lim.rlim_cur = lim.rlim_max;
	setrlimit(RLIMIT_NOFILE, &lim);
}

/* Requests have passphrases in them: nothing of JSON stays in memory */
static void wipe_and_free(void *p)
{
	if (p)
		explicit_bzero(p, malloc_usable_size(p));
	free(p);
}

void setup_process(void)
{
	pthread_attr_t attr;

	json_set_alloc_funcs(malloc, wipe_and_free);
	raise_open_files();
	/* Locked memory is real memory: small stacks, few arenas */
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
	mallopt(M_ARENA_MAX, 2);
	if (geteuid()) {
		log_warn("not root: devices can't be made, and memory is not locked");
		return;
	}
	set_oom_score();
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0))
		log_warn("PR_SET_IO_FLUSHER: %s", strerror(errno));
	if (mlockall(MCL_CURRENT | MCL_FUTURE))
		log_warn("can't lock memory: %s", strerror(errno));
}

void setup_notify(const char *text)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	const char *path = getenv("NOTIFY_SOCKET");
	socklen_t len;
	int fd;

	if (!path || (*path != '/' && *path != '@') ||
	    strlen(path) >= sizeof(addr.sun_path))
		return;
	strcpy(addr.sun_path, path);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) +
			  strlen(path));
	if (*path == '@')
		addr.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, text, strlen(text), MSG_NOSIGNAL,
		   (struct sockaddr *)&addr, len) < 0)
		log_warn("can't tell systemd %s: %s", text, strerror(errno));
	close(fd);
}
