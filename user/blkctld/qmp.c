// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * QMP: what a request must look like, who answers it, and how.
 *
 * Owns: requests, from their arrival to their answer.
 * Must not: know any command, but for the one that negotiates.
 * Threads: the loop's only.
 *
 * Differences from QEMU: no capability is offered (there is nothing to do out of
 * band, as no command blocks the loop); errors have a member "data" with "code"
 * (a word for scripts), "hint" and "errno" beside "class" and "desc".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

#include "cmd.h"
#include "graph/json.h"
#include "qmp.h"
#include "version.h"

#define CLASS_GENERIC		"GenericError"
#define CLASS_NO_COMMAND	"CommandNotFound"

json_t *qmp_version(void)
{
	return json_pack("{s:{s:i, s:i, s:i}, s:s}",
			 "qemu", "major", QMP_COMPAT_MAJOR,
			 "minor", QMP_COMPAT_MINOR, "micro", 0,
			 "package", "blkctld " BLKCTL_VERSION);
}

json_t *qmp_greeting(void)
{
	return json_pack("{s:{s:o, s:[]}}", "QMP", "version", qmp_version(),
			 "capabilities");
}

/* @id is borrowed, may be NULL */
static void send_error(struct conn *c, json_t *id, const char *class,
		       const struct blk_error *e)
{
	json_t *msg = json_pack("{s:{s:s, s:s, s:{s:s, s:s, s:i}}}",
				"error", "class", class, "desc", "",
				"data", "code", blk_error_code(e->cls),
				"hint", "", "errno", e->err);
	json_t *error = json_object_get(msg, "error");

	/* Messages quote names, and these need not be UTF-8 */
	if (msg) {
		blk_json_put_str(error, "desc", e->msg);
		blk_json_put_str(json_object_get(error, "data"), "hint",
				 e->hint);
	}
	if (msg && id)
		json_object_set(msg, "id", id);
	conn_send(c, msg);
}

void qmp_protocol_error(struct conn *c, const char *why)
{
	struct blk_error e = { .msg = "" };

	blk_error_set(&e, BLK_ERR_USAGE, EINVAL, "%s", why);
	send_error(c, NULL, CLASS_GENERIC, &e);
}

void qmp_event(struct server *s, const char *name, json_t *data)
{
	struct timeval tv;
	json_t *msg;

	gettimeofday(&tv, NULL);
	msg = json_pack("{s:{s:I, s:I}, s:s, s:o}", "timestamp",
			"seconds", (json_int_t)tv.tv_sec,
			"microseconds", (json_int_t)tv.tv_usec,
			"event", name, "data", data);
	if (!msg)
		return;
	conn_broadcast(s, msg);
	json_decref(msg);
}

/*
 * Requests
 */

static void free_request(struct qmp_request *rq)
{
	json_decref(rq->id);
	json_decref(rq->args);
	free(rq);
}

void qmp_finish(struct qmp_request *rq, json_t *ret,
		const struct blk_error *e)
{
	struct server *s = rq->s;
	struct conn *c = rq->conn;
	json_t *msg;

	if (!c) {
		json_decref(ret);
	} else if (e) {
		json_decref(ret);
		send_error(c, rq->id, CLASS_GENERIC, e);
	} else {
		msg = json_pack("{s:o}", "return", ret ? ret : json_object());
		if (msg && rq->id)
			json_object_set(msg, "id", rq->id);
		conn_send(c, msg);
	}
	c = rq->conn;		/* the client may have gone just now */
	free_request(rq);
	if (c)
		conn_set_busy(c, false);
	server_check_stopped(s);
}

/* QEMU: qmp_dispatch_check_obj() */
static int check_request(const json_t *req, struct blk_error *e)
{
	const char *key;
	json_t *val;

	json_object_foreach((json_t *)req, key, val) {
		if (!strcmp(key, "id"))
			continue;
		if (!strcmp(key, "execute")) {
			if (json_is_string(val))
				continue;
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "QMP input member 'execute' must be a string");
		}
		if (!strcmp(key, "arguments")) {
			if (json_is_object(val))
				continue;
			return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
					     "QMP input member 'arguments' must be an object");
		}
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "QMP input member '%.80s' is unexpected",
				     key);
	}
	if (!json_object_get(req, "execute"))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "QMP input lacks member 'execute'");
	return 0;
}

static const struct qmp_command *find_command(struct conn *c,
					      const json_t *req,
					      struct blk_error *e)
{
	const char *name = json_string_value(json_object_get(req, "execute"));
	const struct qmp_command *cmd = qmp_command_find(name);
	bool negotiates = cmd && cmd->fn == cmd_qmp_capabilities;

	if (!conn_negotiated(c) && !negotiates)
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "Expecting capabilities negotiation with 'qmp_capabilities'");
	else if (conn_negotiated(c) && negotiates)
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "Capabilities negotiation is already complete, command ignored");
	else if (!cmd)
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "The command %.80s has not been found", name);
	else
		return cmd;
	return NULL;
}

/* *class: of the error, if it is one */
static int execute(struct conn *c, json_t *req, const char **class,
		   struct blk_error *e)
{
	json_t *args = json_object_get(req, "arguments"), *ret = NULL;
	const struct qmp_command *cmd;
	struct qmp_request *rq;
	int err;

	err = check_request(req, e);
	if (err)
		return err;
	cmd = find_command(c, req, e);
	if (!cmd) {
		*class = CLASS_NO_COMMAND;
		return -EINVAL;
	}
	err = qmp_validate(cmd->args, args, e);
	if (err)
		return err;
	rq = calloc(1, sizeof(*rq));
	if (!rq)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	rq->s = conn_server(c);
	rq->conn = c;
	rq->cmd = cmd;
	rq->id = json_incref(json_object_get(req, "id"));
	rq->args = args ? json_incref(args) : json_object();
	conn_set_busy(c, true);
	conn_set_request(c, &rq->conn);
	err = cmd->fn(rq, &ret, e);
	if (err != QMP_LATER)
		qmp_finish(rq, ret, err ? e : NULL);
	return 0;
}

void qmp_dispatch(struct conn *c, json_t *val)
{
	struct blk_error e = { .msg = "" };
	const char *class = CLASS_GENERIC;

	if (!json_is_object(val)) {
		json_decref(val);
		qmp_protocol_error(c, "QMP input must be a JSON object");
		return;
	}
	if (execute(c, val, &class, &e))
		send_error(c, json_object_get(val, "id"), class, &e);
	json_decref(val);
}
