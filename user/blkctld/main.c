// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctld: options, start and end.
 *
 * Owns: the server object, lock file, socket file, pid file.
 * Must not: take a device down when it ends: they stay, and the next daemon
 * adopts them.
 * Threads: the loop's is the first one.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "adopt.h"
#include "conn.h"
#include "export.h"
#include "kernel.h"
#include "log.h"
#include "qmp.h"
#include "setup.h"
#include "version.h"

#define DEFAULT_SOCKET	"/run/blkctld.sock"
#define DEFAULT_EXTERNAL_DIRS	"/etc/blkctl/external-dirs"
#define STOP_MS		10000	/* for work under way when it ends */
#define ABANDON_S	20

/*
 * Options
 */

struct options {
	char *socket;
	char *pidfile;
	bool foreground;
	int log_level;
	char **allowed;
	size_t n_allowed;
	char *allow_list;
};

enum { OPT_SOCKET = 1, OPT_FOREGROUND, OPT_PIDFILE, OPT_LOG_LEVEL,
       OPT_ALLOW_EXTERNAL, OPT_EXTERNAL_DIRS, OPT_VERSION, OPT_HELP };

static const struct {
	const char *name;
	const char *arg;
	int val;
	const char *help;
} option_table[] = {
	{ "socket", "PATH", OPT_SOCKET,
	  "listen here (" DEFAULT_SOCKET ")" },
	{ "foreground", NULL, OPT_FOREGROUND,
	  "stay in the foreground, log to stderr" },
	{ "pidfile", "PATH", OPT_PIDFILE, "write the process id here" },
	{ "log-level", "LEVEL", OPT_LOG_LEVEL,
	  "error, warning, info (default) or debug" },
	{ "allow-external", "DIR", OPT_ALLOW_EXTERNAL,
	  "image headers may name files in this directory; repeatable" },
	{ "external-dirs", "FILE", OPT_EXTERNAL_DIRS,
	  "a list of such directories (" DEFAULT_EXTERNAL_DIRS ")" },
	{ "version", NULL, OPT_VERSION, "print the version" },
	{ "help", NULL, OPT_HELP, "print this" },
};
#define NR_OPTIONS (sizeof(option_table) / sizeof(option_table[0]))

static void print_help(void)
{
	char left[40];
	size_t i;

	puts("Usage: blkctld [OPTION]...\n"
	     "Serves qcow2 images as device-mapper devices, told so by QMP.\n");
	for (i = 0; i < NR_OPTIONS; i++) {
		snprintf(left, sizeof(left), "--%s%s%s", option_table[i].name,
			 option_table[i].arg ? " " : "",
			 option_table[i].arg ? option_table[i].arg : "");
		printf("  %-22s %s\n", left, option_table[i].help);
	}
}

/* The daemon changes its directory */
static char *absolute(const char *path)
{
	char *cwd, *out = NULL;

	if (*path == '/')
		return strdup(path);
	cwd = getcwd(NULL, 0);
	if (!cwd || asprintf(&out, "%s/%s", cwd, path) < 0)
		out = NULL;
	free(cwd);
	return out;
}

/* -1: go on; else the exit code */
static int add_allowed(struct options *o, const char *dir)
{
	char **v = realloc(o->allowed, (o->n_allowed + 1) * sizeof(*v));

	if (!v)
		return 1;
	o->allowed = v;
	v[o->n_allowed] = absolute(dir);
	return v[o->n_allowed++] ? -1 : 1;
}

/* -1: go on; else the exit code */
static int one_option(struct options *o, int val)
{
	switch (val) {
	case OPT_SOCKET:
		free(o->socket);
		o->socket = absolute(optarg);
		return o->socket ? -1 : 1;
	case OPT_PIDFILE:
		free(o->pidfile);
		o->pidfile = absolute(optarg);
		return o->pidfile ? -1 : 1;
	case OPT_ALLOW_EXTERNAL:
		return add_allowed(o, optarg);
	case OPT_EXTERNAL_DIRS:
		free(o->allow_list);
		o->allow_list = absolute(optarg);
		return o->allow_list ? -1 : 1;
	case OPT_FOREGROUND:
		o->foreground = true;
		return -1;
	case OPT_LOG_LEVEL:
		o->log_level = log_level_parse(optarg);
		if (o->log_level >= 0)
			return -1;
		fprintf(stderr, "blkctld: unknown log level '%s'\n", optarg);
		return 2;
	case OPT_VERSION:
		puts("blkctld " BLKCTL_VERSION);
		return 0;
	case OPT_HELP:
		print_help();
		return 0;
	default:
		return 2;
	}
}

static int parse_options(struct options *o, int argc, char **argv)
{
	struct option longopts[NR_OPTIONS + 1] = { 0 };
	int val, ret;
	size_t i;

	for (i = 0; i < NR_OPTIONS; i++) {
		longopts[i].name = option_table[i].name;
		longopts[i].has_arg = option_table[i].arg ?
			required_argument : no_argument;
		longopts[i].val = option_table[i].val;
	}
	o->log_level = LOG_LEVEL_INFO;
	o->socket = strdup(DEFAULT_SOCKET);
	while ((val = getopt_long(argc, argv, "", longopts, NULL)) != -1) {
		ret = one_option(o, val);
		if (ret >= 0)
			return ret;
	}
	if (optind < argc) {
		fprintf(stderr, "blkctld: unexpected argument '%s'\n",
			argv[optind]);
		return 2;
	}
	return o->socket ? -1 : 1;
}

/*
 * Background
 */

/* In the parent: waits for the daemon's word and exits with its code */
static void wait_for_daemon(int fd)
{
	unsigned char code = 1;

	if (read(fd, &code, 1) != 1)
		code = 1;
	_exit(code);
}

/* *ready: where the exit code of the parent is to be written */
static int into_background(int *ready)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC))
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid) {
		close(fds[1]);
		wait_for_daemon(fds[0]);
	}
	close(fds[0]);
	*ready = fds[1];
	setsid();
	signal(SIGHUP, SIG_IGN);
	return 0;
}

static void tell_parent(int *ready, unsigned char code)
{
	int null;

	if (*ready < 0)
		return;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0 && !code) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
	}
	if (null > STDERR_FILENO)
		close(null);
	if (write(*ready, &code, 1) != 1)
		log_debug("nobody waited for the start");
	close(*ready);
	*ready = -1;
}

/*
 * The server
 */

struct daemon {
	struct server s;
	struct blk_ev_io signals;
	int socket_fd;
	int ready;
	int lock_fd;
	bool own_socket;	/* to be removed */
	bool own_pidfile;
	const struct options *opts;
};

void server_check_stopped(struct server *s)
{
	if (s->stopping && !blk_ev_work_count(s->ev) && conn_all_flushed(s))
		blk_ev_stop(s->ev);
}

static void on_stop_timeout(struct blk_ev_timer *t)
{
	struct server *s = blk_container_of(t, struct server, stop_timer);

	blk_ev_stop(s->ev);
}

void server_stop(struct server *s)
{
	if (s->stopping)
		return;
	s->stopping = true;
	log_info("ending; devices stay");
	setup_notify("STOPPING=1");
	conn_listen_stop(s);
	s->stop_timer.fn = on_stop_timeout;
	blk_ev_timer_start(s->ev, &s->stop_timer, STOP_MS);
	server_check_stopped(s);
}

static void on_signal(struct blk_ev_io *io, unsigned int events)
{
	struct daemon *d = blk_container_of(io, struct daemon, signals);
	struct signalfd_siginfo info;

	(void)events;
	if (read(io->fd, &info, sizeof(info)) == sizeof(info)) {
		log_info("signal %u from pid %u", info.ssi_signo,
			 info.ssi_pid);
		server_stop(&d->s);
	}
	blk_ev_io_arm(d->s.ev, io, POLLIN);
}

static int watch_signals(struct daemon *d, struct blk_error *e)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	d->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	d->signals.fn = on_signal;
	if (d->signals.fd < 0 ||
	    blk_ev_io_arm(d->s.ev, &d->signals, POLLIN))
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "can't receive signals: %s",
				     strerror(errno));
	return 0;
}

static void on_adopted(struct server *s)
{
	struct daemon *d = blk_container_of(s, struct daemon, s);
	struct blk_error e = { .msg = "" };

	if (s->stopping)
		return;
	if (conn_listen(s, d->socket_fd, &e)) {
		log_error("%s", e.msg);
		server_stop(s);
		return;
	}
	d->socket_fd = -1;
	log_info("ready on %s", d->opts->socket);
	setup_notify("READY=1");
	tell_parent(&d->ready, 0);
}

static struct blk_graph *new_graph(const struct options *o)
{
	struct blk_graph *g = blk_graph_new();
	size_t i;
	int ret;

	if (!g)
		return NULL;
	ret = blk_graph_allow_list(g, o->allow_list ? o->allow_list :
				   DEFAULT_EXTERNAL_DIRS);
	for (i = 0; i < o->n_allowed && !ret; i++)
		ret = blk_graph_allow_dir(g, o->allowed[i]);
	if (!ret)
		return g;
	blk_graph_free(g);
	return NULL;
}

static int set_up(struct daemon *d, struct blk_error *e)
{
	char *lock = NULL;
	int ret;

	if (asprintf(&lock, "%s.lock", d->opts->socket) < 0)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = setup_lock(lock, &d->lock_fd, e);
	free(lock);
	if (!ret)
		ret = setup_socket(d->opts->socket, &d->socket_fd,
				   &d->own_socket, e);
	if (!ret && d->opts->pidfile) {
		ret = setup_pidfile(d->opts->pidfile, e);
		d->own_pidfile = !ret;
	}
	if (!ret)
		ret = blk_ev_new(&d->s.ev, e);
	if (!ret)
		ret = watch_signals(d, e);
	if (ret)
		return ret;
	d->s.graph = new_graph(d->opts);
	if (!d->s.graph)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	if (chdir("/"))
		return blk_error_set(e, BLK_ERR_FAILED, errno, "chdir /: %s",
				     strerror(errno));
	setup_process();
	ret = log_start(d->opts->log_level, !d->opts->foreground);
	return ret ? blk_error_set(e, BLK_ERR_FAILED, -ret,
				   "can't start the log: %s", strerror(-ret)) :
		0;
}

static void remove_files(const struct daemon *d)
{
	if (d->own_socket)
		unlink(d->opts->socket);
	if (d->own_pidfile)
		unlink(d->opts->pidfile);
}

/* The loop has ended; the kernel and the devices do not notice */
static void tear_down(struct daemon *d)
{
	struct server *s = &d->s;

	conn_listen_stop(s);
	remove_files(d);
	if (blk_ev_work_count(s->ev)) {
		log_warn("work under way is left behind");
		log_stop();
		_exit(1);
	}
	alarm(ABANDON_S);
	conn_close_all(s);
	blk_ev_drain(s->ev);
	export_abandon_all(s);
	kernel_unwatch(s);
	blk_graph_free(s->graph);
	blk_ev_io_stop(s->ev, &d->signals);
	blk_ev_free(s->ev);
	close(d->signals.fd);
	if (d->socket_fd >= 0)
		close(d->socket_fd);
	close(d->lock_fd);
	log_stop();
}

static int run(const struct options *opts)
{
	struct daemon d = {
		.opts = opts, .ready = -1, .lock_fd = -1, .socket_fd = -1,
	};
	struct blk_error e = { .msg = "" };
	int ret = 0;

	if (!opts->foreground)
		ret = into_background(&d.ready);
	if (ret) {
		fprintf(stderr, "blkctld: %s\n", strerror(-ret));
		return 1;
	}
	ret = set_up(&d, &e);
	if (ret) {
		fprintf(stderr, "blkctld: %s\n", e.msg);
		if (e.hint[0])
			fprintf(stderr, "hint: %s\n", e.hint);
		ret = blk_error_exit(e.cls);
		remove_files(&d);
		tell_parent(&d.ready, (unsigned char)ret);
		return ret;
	}
	adopt_all(&d.s, on_adopted);
	ret = blk_ev_run(d.s.ev);
	if (ret)
		log_error("the event loop failed: %s", strerror(-ret));
	tear_down(&d);
	tell_parent(&d.ready, 1);
	return ret ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct options opts = { .socket = NULL };
	int ret;

	ret = parse_options(&opts, argc, argv);
	if (ret < 0)
		ret = run(&opts);
	free(opts.socket);
	free(opts.pidfile);
	free(opts.allow_list);
	while (opts.n_allowed)
		free(opts.allowed[--opts.n_allowed]);
	free(opts.allowed);
	return ret;
}
