// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * QMP over a unix socket, one command at a time.
 *
 * Owns the connection and the events that arrived while it waited for
 * something else.  Knows the protocol and no command.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "client.h"

#define GREETING_TIMEOUT 10	/* seconds until a daemon counts as hung */

struct client {
	FILE *in;
	int fd;
	char *line;
	size_t room;
	long long next_id;
	json_t *events;		/* array, oldest first */
};

static int lost(struct blk_error *e, int err)
{
	blk_error_set(e, BLK_ERR_UNAVAILABLE, err ? err : ECONNRESET,
		      err == EAGAIN ? "blkctld does not answer"
				    : "blkctld closed the connection");
	blk_error_hint(e, "journalctl -u blkctld");
	return -(err ? err : ECONNRESET);
}

static int receive(struct client *c, json_t **out, struct blk_error *e)
{
	json_error_t je;

	errno = 0;
	if (getline(&c->line, &c->room, c->in) < 0)
		return lost(e, errno);
	*out = json_loads(c->line, 0, &je);
	if (!json_is_object(*out)) {
		json_decref(*out);
		*out = NULL;
		return blk_error_set(e, BLK_ERR_FAILED, EPROTO,
				     "blkctld sent no JSON object: %s",
				     je.text);
	}
	return 0;
}

static int transmit(struct client *c, const json_t *msg, struct blk_error *e)
{
	char *text = json_dumps(msg, JSON_COMPACT);
	size_t done = 0, len;
	ssize_t n;

	if (!text)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	len = strlen(text);
	text[len++] = '\n';	/* in place of the nul */
	while (done < len) {
		n = send(c->fd, text + done, len - done, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break;
		done += n;
	}
	explicit_bzero(text, len);	/* it may have a passphrase in it */
	free(text);
	return done < len ? lost(e, errno) : 0;
}

/* QMP's error object has a class and a description; ours has more in "data". */
static int remote_error(const json_t *error, struct blk_error *e)
{
	const char *class = "", *desc = "unknown error", *code = "failed";
	const char *hint = "";
	int err = EIO;

	json_unpack((json_t *)error, "{s?s, s?s, s?{s?s, s?s, s?i}}",
		    "class", &class, "desc", &desc, "data", "code", &code,
		    "hint", &hint, "errno", &err);
	if (!strcmp(class, "CommandNotFound"))
		code = "usage";
	if (err <= 0)
		err = EIO;
	blk_error_set(e, blk_error_class_parse(code), err, "%s", desc);
	if (*hint)
		blk_error_hint(e, "%s", hint);
	return -err;
}

/* Reads until the answer to request @id; keeps the events in between. */
static int answer(struct client *c, long long id, json_t **ret,
		  struct blk_error *e)
{
	for (;;) {
		json_auto_t *msg = NULL;
		json_t *value;
		int rc;

		rc = receive(c, &msg, e);
		if (rc)
			return rc;
		if (json_object_get(msg, "event")) {
			json_array_append(c->events, msg);
			continue;
		}
		value = json_object_get(msg, "error");
		if (value)
			return remote_error(value, e);
		if (json_integer_value(json_object_get(msg, "id")) != id)
			continue;
		value = json_object_get(msg, "return");
		if (!value)
			return blk_error_set(e, BLK_ERR_FAILED, EPROTO,
					     "blkctld sent neither an answer nor an error");
		if (ret)
			*ret = json_incref(value);
		return 0;
	}
}

int client_call(struct client *c, const char *command, json_t *args,
		json_t **ret, struct blk_error *e)
{
	long long id = ++c->next_id;
	json_auto_t *msg = NULL;
	int rc;

	msg = json_pack("{s:s, s:o*, s:I}", "execute", command,
			"arguments", args, "id", (json_int_t)id);
	if (!msg)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	rc = transmit(c, msg, e);
	return rc ? rc : answer(c, id, ret, e);
}

static bool event_is(const json_t *msg, const char *event, const char *id)
{
	const char *name = "", *of = "";

	json_unpack((json_t *)msg, "{s?s, s?{s?s}}", "event", &name,
		    "data", "id", &of);
	return !strcmp(name, event) && !strcmp(of, id);
}

static void take_data(const json_t *msg, json_t **data)
{
	if (data)
		*data = json_incref(json_object_get(msg, "data"));
}

int client_wait(struct client *c, const char *event, const char *id,
		json_t **data, struct blk_error *e)
{
	json_t *old;
	size_t i;

	json_array_foreach(c->events, i, old) {
		if (!event_is(old, event, id))
			continue;
		take_data(old, data);
		json_array_remove(c->events, i);
		return 0;
	}
	for (;;) {
		json_auto_t *msg = NULL;
		int rc = receive(c, &msg, e);

		if (rc)
			return rc;
		if (event_is(msg, event, id)) {
			take_data(msg, data);
			return 0;
		}
		if (json_object_get(msg, "event"))
			json_array_append(c->events, msg);
	}
}

static int connect_error(const char *path, int err, struct blk_error *e)
{
	if (err == EACCES || err == EPERM) {
		blk_error_set(e, BLK_ERR_UNAVAILABLE, err,
			      "no permission to talk to blkctld at '%s'", path);
		blk_error_hint(e, "only root may; try sudo");
	} else if (err == ENOENT || err == ECONNREFUSED) {
		blk_error_set(e, BLK_ERR_UNAVAILABLE, err,
			      "blkctld is not running (nobody listens at '%s')",
			      path);
		blk_error_hint(e, "systemctl start blkctld");
	} else {
		blk_error_set(e, BLK_ERR_UNAVAILABLE, err,
			      "cannot talk to blkctld at '%s': %s", path,
			      strerror(err));
	}
	return -err;
}

static int connect_to(struct client *c, const char *path, struct blk_error *e)
{
	struct timeval limit = { .tv_sec = GREETING_TIMEOUT };
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(a.sun_path))
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "socket path '%s' is too long", path);
	strcpy(a.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return connect_error(path, errno, e);
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(c->fd, (struct sockaddr *)&a, sizeof(a)))
		return connect_error(path, errno, e);
	c->in = fdopen(c->fd, "r");
	c->events = json_array();
	return c->in && c->events ? 0
		: blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

static int greet(struct client *c, const char *path, struct blk_error *e)
{
	struct timeval forever = { 0 };
	json_auto_t *greeting = NULL;
	int rc;

	rc = receive(c, &greeting, e);
	if (rc)
		return rc;
	if (!json_object_get(greeting, "QMP"))
		return blk_error_set(e, BLK_ERR_UNAVAILABLE, EPROTO,
				     "'%s' is no QMP socket", path);
	rc = client_call(c, "qmp_capabilities", NULL, NULL, e);
	/* Commands may take long: a detach writes back, an attach reads. */
	setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &forever, sizeof(forever));
	return rc;
}

int client_open(const char *path, struct client **out, struct blk_error *e)
{
	client_auto_t *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	c->fd = -1;
	rc = connect_to(c, path, e);
	if (!rc)
		rc = greet(c, path, e);
	if (rc)
		return rc;
	*out = c;
	c = NULL;
	return 0;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	if (c->in)
		fclose(c->in);
	else if (c->fd >= 0)
		close(c->fd);
	json_decref(c->events);
	free(c->line);
	free(c);
}
