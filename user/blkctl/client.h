/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A synchronous QMP client.
 */
#ifndef BLKCTL_CLIENT_H
#define BLKCTL_CLIENT_H

#include <jansson.h>

#include "base/error.h"

struct client;

/**
 * client_open - connect, read the greeting, negotiate capabilities
 * Class UNAVAILABLE when nobody listens at @path or the caller may not talk
 * to who does.
 */
int client_open(const char *path, struct client **out, struct blk_error *e);
void client_close(struct client *c);
static inline void client_closep(struct client **c)
{
	client_close(*c);
}
#define client_auto_t struct client __attribute__((cleanup(client_closep)))

/**
 * client_call - execute one command and wait for its answer
 * @args: an object, or NULL; the reference is taken
 * @ret: new reference to what the command returns; may be NULL
 * Return: -errno; the error is the daemon's, or about the connection.
 */
int client_call(struct client *c, const char *command, json_t *args,
		json_t **ret, struct blk_error *e);

/**
 * client_wait - wait for an event whose data has "id" equal to @id
 * Events that came since client_open() count.
 * @data: new reference to the event's data; may be NULL
 */
int client_wait(struct client *c, const char *event, const char *id,
		json_t **data, struct blk_error *e);

#endif
