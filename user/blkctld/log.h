/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages for the administrator: to stderr in the foreground, else to syslog.
 * Writing happens in a thread of its own, so that nobody waits for a log daemon
 * whose disk may be one of our devices.
 */
#ifndef BLKCTLD_LOG_H
#define BLKCTLD_LOG_H

#include <stdbool.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* Before it, messages go to stderr at once.  -errno */
int log_start(enum log_level level, bool to_syslog);
/* Writes what is queued, for at most a second. */
void log_stop(void);
/* -1: no such level */
int log_level_parse(const char *name);

void log_msg(enum log_level level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_error(...)	log_msg(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)	log_msg(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...)	log_msg(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)	log_msg(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
