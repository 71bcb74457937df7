// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Connections: bytes in, requests out; messages in, bytes out.
 *
 * Owns: sockets, their buffers.
 * Must not: block, or grow without bound: while a request is under way or
 * OUT_HIGH bytes wait for a slow reader nothing more is read; a client that lets events
 * pile up to OUT_MAX is disconnected.
 * Threads: the loop's only.
 *
 * A connection that ends is taken off the list at once and freed by a posted
 * callback, so that nobody up the stack loses it under his feet.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "conn.h"
#include "frame.h"
#include "log.h"
#include "qmp.h"

#define MAX_CONNS	64
#define ACCEPT_WAIT_MS	1000	/* when there are no descriptors */
#define IN_BYTES	16384
#define OUT_HIGH	65536
#define OUT_MAX		(4 * 1024 * 1024)

struct conn {
	struct server *s;
	struct conn *next;
	int fd;
	struct blk_ev_io in;
	struct blk_ev_io out;
	struct blk_ev_post reap;
	struct frame frame;
	bool negotiated;
	bool busy;
	bool eof;		/* nothing more will come */
	bool closing;		/* when all is written */
	bool dead;
	bool feeding;		/* feed() is on the stack */
	struct conn **request;	/* who points to us */
	size_t in_pos, in_len;
	char *obuf;
	size_t opos, olen, ocap;
	char ibuf[IN_BYTES];
};

static void pump(struct conn *c);

/*
 * End
 */

static void reap(struct blk_ev_post *p)
{
	struct conn *c = blk_container_of(p, struct conn, reap);
	struct server *s = c->s;

	frame_free(&c->frame);
	explicit_bzero(c->ibuf, sizeof(c->ibuf));
	free(c->obuf);
	free(c);
	server_check_stopped(s);
}

static void kill_conn(struct conn *c)
{
	struct conn **p;

	if (c->dead)
		return;
	c->dead = true;
	blk_ev_io_stop(c->s->ev, &c->in);
	blk_ev_io_stop(c->s->ev, &c->out);
	shutdown(c->fd, SHUT_RDWR);
	close(c->fd);
	if (c->request)
		*c->request = NULL;
	c->request = NULL;
	for (p = &c->s->conns; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	c->s->nconns--;
	c->reap.fn = reap;
	blk_ev_post(c->s->ev, &c->reap);
}

/*
 * Output
 */

static size_t pending_out(const struct conn *c)
{
	return c->olen - c->opos;
}

static void flush_out(struct conn *c)
{
	ssize_t n;

	while (!c->dead && pending_out(c)) {
		n = send(c->fd, c->obuf + c->opos, pending_out(c),
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			if (blk_ev_io_arm(c->s->ev, &c->out, POLLOUT))
				kill_conn(c);
			return;
		}
		if (n < 0) {
			kill_conn(c);
			return;
		}
		c->opos += (size_t)n;
	}
	c->opos = 0;
	c->olen = 0;
	if (c->ocap > OUT_HIGH) {
		free(c->obuf);
		c->obuf = NULL;
		c->ocap = 0;
	}
	if (!c->dead && c->closing)
		kill_conn(c);
}

static bool reserve(struct conn *c, size_t n)
{
	size_t cap = c->ocap ? c->ocap : 4096;
	char *buf;

	if (c->opos) {
		memmove(c->obuf, c->obuf + c->opos, pending_out(c));
		c->olen -= c->opos;
		c->opos = 0;
	}
	while (cap < c->olen + n)
		cap *= 2;
	if (cap == c->ocap)
		return true;
	buf = realloc(c->obuf, cap);
	if (!buf)
		return false;
	c->obuf = buf;
	c->ocap = cap;
	return true;
}

static void queue_text(struct conn *c, const char *text, bool is_event)
{
	size_t n = strlen(text);

	if (c->dead || c->closing)
		return;
	if (is_event && pending_out(c) + n > OUT_MAX) {
		log_warn("a client that does not read its events is disconnected");
		kill_conn(c);
		return;
	}
	if (!reserve(c, n + 2)) {
		kill_conn(c);
		return;
	}
	memcpy(c->obuf + c->olen, text, n);
	memcpy(c->obuf + c->olen + n, "\r\n", 2);
	c->olen += n + 2;
	flush_out(c);
}

void conn_send(struct conn *c, json_t *msg)
{
	char *text = msg ? json_dumps(msg, JSON_ENSURE_ASCII) : NULL;

	json_decref(msg);
	if (text)
		queue_text(c, text, false);
	else
		kill_conn(c);	/* no memory: better than no answer */
	free(text);
}

void conn_broadcast(struct server *s, json_t *msg)
{
	char *text = json_dumps(msg, JSON_ENSURE_ASCII);
	struct conn *c, *next;

	for (c = s->conns; text && c; c = next) {
		next = c->next;
		if (c->negotiated)
			queue_text(c, text, true);
	}
	free(text);
}

static void on_out(struct blk_ev_io *io, unsigned int events)
{
	struct conn *c = blk_container_of(io, struct conn, out);

	(void)events;
	flush_out(c);
	pump(c);
	server_check_stopped(c->s);
}

/*
 * Input
 */

static bool may_read(const struct conn *c)
{
	return !c->dead && !c->closing && !c->busy && !c->s->stopping &&
		pending_out(c) < OUT_HIGH;
}

static void fatal(struct conn *c, const char *why)
{
	qmp_protocol_error(c, why);
	if (c->dead)
		return;
	c->closing = true;
	flush_out(c);
}

/* Hands out requests as long as there are some and the client keeps up */
static void feed(struct conn *c)
{
	json_t *val = NULL;
	char why[256];
	size_t used;

	while (may_read(c) && c->in_pos < c->in_len) {
		enum frame_result res =
			frame_feed(&c->frame, c->ibuf + c->in_pos,
				   c->in_len - c->in_pos, &used, &val, why);

		c->in_pos += used;
		switch (res) {
		case FRAME_VALUE:
			qmp_dispatch(c, val);
			break;
		case FRAME_ERROR:
			qmp_protocol_error(c, why);
			break;
		case FRAME_FATAL:
			fatal(c, why);
			break;
		default:
			break;
		}
	}
}

/* One buffer's worth; more is read when the loop comes by again */
static void pump(struct conn *c)
{
	if (c->feeding)
		return;
	c->feeding = true;
	feed(c);
	c->feeding = false;
	if (c->in_pos == c->in_len) {	/* it may have been a passphrase */
		explicit_bzero(c->ibuf, c->in_len);
		c->in_pos = c->in_len = 0;
	}
	if (c->dead || c->in_pos < c->in_len || c->busy)
		return;
	if (c->eof) {
		c->closing = true;
		flush_out(c);
		return;
	}
	if (may_read(c) && blk_ev_io_arm(c->s->ev, &c->in, POLLIN))
		kill_conn(c);
}

static void on_in(struct blk_ev_io *io, unsigned int events)
{
	struct conn *c = blk_container_of(io, struct conn, in);
	ssize_t n;

	(void)events;
	if (!may_read(c))
		return;		/* pump() arms it again */
	n = recv(c->fd, c->ibuf, sizeof(c->ibuf), MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN && errno != EINTR) {
		kill_conn(c);
		return;
	}
	c->in_pos = 0;
	c->in_len = n > 0 ? (size_t)n : 0;
	if (!n)
		c->eof = true;
	pump(c);
}

void conn_set_busy(struct conn *c, bool busy)
{
	c->busy = busy;
	if (!busy) {
		c->request = NULL;
		pump(c);
	}
}

void conn_set_request(struct conn *c, struct conn **ref)
{
	c->request = ref;
}

bool conn_negotiated(const struct conn *c)
{
	return c->negotiated;
}

void conn_set_negotiated(struct conn *c)
{
	c->negotiated = true;
}

struct server *conn_server(const struct conn *c)
{
	return c->s;
}

/*
 * Beginning
 */

/* Root, and whoever runs the daemon; the socket's mode says the same */
static bool permitted(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof(cred);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return false;
	if (cred.uid == 0 || cred.uid == geteuid())
		return true;
	log_warn("a connection of uid %u (pid %d) was refused",
		 (unsigned int)cred.uid, (int)cred.pid);
	return false;
}

static void new_conn(struct server *s, int fd)
{
	struct conn *c;

	if (!permitted(fd)) {
		close(fd);
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return;
	}
	c->s = s;
	c->fd = fd;
	c->in.fd = fd;
	c->in.fn = on_in;
	c->out.fd = fd;
	c->out.fn = on_out;
	c->next = s->conns;
	s->conns = c;
	if (s->nconns++ >= MAX_CONNS) {
		fatal(c, "Too many connections");
		return;
	}
	conn_send(c, qmp_greeting());
	pump(c);
}

static void listen_again(struct blk_ev_timer *t)
{
	struct server *s = blk_container_of(t, struct server, listen_timer);

	if (s->stopping)
		return;
	if (blk_ev_io_arm(s->ev, &s->listen, POLLIN))
		blk_ev_timer_start(s->ev, t, ACCEPT_WAIT_MS);
}

static void on_listen(struct blk_ev_io *io, unsigned int events)
{
	struct server *s = blk_container_of(io, struct server, listen);
	int fd;

	(void)events;
	fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		new_conn(s, fd);
	if (fd >= 0 || errno == EAGAIN || errno == EINTR ||
	    errno == ECONNABORTED) {
		listen_again(&s->listen_timer);
		return;
	}
	log_error("connections can't be accepted: %s", strerror(errno));
	blk_ev_timer_start(s->ev, &s->listen_timer, ACCEPT_WAIT_MS);
}

int conn_listen(struct server *s, int fd, struct blk_error *e)
{
	s->listen.fd = fd;
	s->listen.fn = on_listen;
	s->listen_timer.fn = listen_again;
	if (!blk_ev_io_arm(s->ev, &s->listen, POLLIN))
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

void conn_listen_stop(struct server *s)
{
	if (!s->listen.fn)
		return;
	blk_ev_io_stop(s->ev, &s->listen);
	blk_ev_timer_stop(s->ev, &s->listen_timer);
	close(s->listen.fd);
	s->listen.fn = NULL;
}

bool conn_all_flushed(const struct server *s)
{
	const struct conn *c;

	for (c = s->conns; c; c = c->next)
		if (pending_out(c) || c->busy)
			return false;
	return true;
}

void conn_close_all(struct server *s)
{
	while (s->conns)
		kill_conn(s->conns);
}
