// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The log: a ring of lines and the thread that writes them.
 *
 * Owns: the ring, the thread.
 * Must not: block the caller, or allocate.  When the ring is full, lines are
 * dropped and counted.
 * Threads: log_msg() from any; @lock protects the ring.
 */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define LINES		256
#define LINE_BYTES	768

static struct {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_cond_t idle;
	pthread_t thread;
	enum log_level level;
	bool running;
	bool stop;
	bool to_syslog;
	unsigned int head;	/* next to write out */
	unsigned int count;
	unsigned int dropped;
	struct {
		enum log_level level;
		char text[LINE_BYTES];
	} line[LINES];
} ring = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER,
	.idle = PTHREAD_COND_INITIALIZER,
	.level = LOG_LEVEL_INFO,
};

static const struct {
	const char *name;
	int priority;
} levels[] = {
	[LOG_LEVEL_ERROR] = { "error", LOG_ERR },
	[LOG_LEVEL_WARNING] = { "warning", LOG_WARNING },
	[LOG_LEVEL_INFO] = { "info", LOG_INFO },
	[LOG_LEVEL_DEBUG] = { "debug", LOG_DEBUG },
};

int log_level_parse(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (!strcmp(levels[i].name, name))
			return (int)i;
	return -1;
}

static void write_line(enum log_level level, const char *text)
{
	if (ring.to_syslog)
		syslog(levels[level].priority, "%s", text);
	else
		dprintf(STDERR_FILENO, "blkctld: %s: %s\n",
			levels[level].name, text);
}

static void *writer(void *arg)
{
	char text[LINE_BYTES];
	enum log_level level;

	(void)arg;
	pthread_mutex_lock(&ring.lock);
	for (;;) {
		while (!ring.count && !ring.stop)
			pthread_cond_wait(&ring.wake, &ring.lock);
		if (!ring.count)
			break;
		level = ring.line[ring.head].level;
		memcpy(text, ring.line[ring.head].text, sizeof(text));
		ring.head = (ring.head + 1) % LINES;
		ring.count--;
		if (ring.dropped && !ring.count) {
			snprintf(text, sizeof(text), "%u messages were lost",
				 ring.dropped);
			ring.dropped = 0;
		}
		pthread_mutex_unlock(&ring.lock);
		write_line(level, text);
		pthread_mutex_lock(&ring.lock);
	}
	ring.running = false;
	pthread_cond_signal(&ring.idle);
	pthread_mutex_unlock(&ring.lock);
	return NULL;
}

int log_start(enum log_level level, bool to_syslog)
{
	int err;

	ring.level = level;
	ring.to_syslog = to_syslog;
	if (to_syslog)
		openlog("blkctld", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	err = pthread_create(&ring.thread, NULL, writer, NULL);
	if (err)
		return -err;
	pthread_mutex_lock(&ring.lock);
	ring.running = true;
	pthread_mutex_unlock(&ring.lock);
	return 0;
}

void log_stop(void)
{
	struct timespec until;
	bool ended;

	pthread_mutex_lock(&ring.lock);
	if (!ring.running) {
		pthread_mutex_unlock(&ring.lock);
		return;
	}
	ring.stop = true;
	pthread_cond_signal(&ring.wake);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	while (ring.running &&
	       !pthread_cond_timedwait(&ring.idle, &ring.lock, &until))
		;
	ended = !ring.running;
	pthread_mutex_unlock(&ring.lock);
	if (ended)
		pthread_join(ring.thread, NULL);
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	char text[LINE_BYTES];
	unsigned int i;
	va_list ap;

	if (level > ring.level)
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	pthread_mutex_lock(&ring.lock);
	if (!ring.running) {
		pthread_mutex_unlock(&ring.lock);
		write_line(level, text);
		return;
	}
	if (ring.count == LINES) {
		ring.dropped++;
	} else {
		i = (ring.head + ring.count++) % LINES;
		ring.line[i].level = level;
		memcpy(ring.line[i].text, text, sizeof(text));
		pthread_cond_signal(&ring.wake);
	}
	pthread_mutex_unlock(&ring.lock);
}
