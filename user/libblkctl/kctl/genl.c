// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The generic netlink family "dm_qcow": one request, its replies, its end.
 *
 * Owns: the sockets, and one message and one receive buffer per socket that
 * are allocated when it is opened; so granting clusters allocates nothing
 * (libnl's own receive path allocates per message and is not used).
 * Must not: know what a session is for, retry, or log.
 * Threads: any; the mutex of a socket covers one request with its replies.
 * The kernel answers inside sendmsg(), so a reply that is not there within
 * the receive timeout was lost: -ETIMEDOUT or -ENOBUFS tell the caller that
 * the outcome is unknown.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/netlink.h>
#include <netlink/attr.h>
#include <netlink/errno.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include "kctl/genl.h"

#define BUFFER_BYTES	(64 << 10)	/* over the largest message, 32 KiB */
#define SOCKET_BYTES	(512 << 10)
#define REPLY_SECONDS	10
#define WHY_BYTES	128
#define LIST_TRIES	8

struct blk_genl {
	pthread_mutex_t lock;
	struct nl_sock *sk;
	struct nl_msg *msg;
	int family;
	uint32_t seq;
	bool overflow;			/* the message had no room */
	char why[WHY_BYTES];		/* the kernel's words for an error */
	void *buf;
};

typedef int (*reply_fn)(struct nlattr **tb, void *opaque);

static const struct nla_policy policy[DM_QCOW_A_MAX + 1] = {
	[DM_QCOW_A_DEV] = { .type = NLA_U64 },
	[DM_QCOW_A_SESSION] = { .type = NLA_U64 },
	[DM_QCOW_A_SEQ] = { .type = NLA_U64 },
	[DM_QCOW_A_FD] = { .type = NLA_U32 },
	[DM_QCOW_A_LABEL] = { .type = NLA_NUL_STRING },
	[DM_QCOW_A_COOKIE] = { .type = NLA_U64 },
	[DM_QCOW_A_EVENTS] = { .type = NLA_U32 },
	[DM_QCOW_A_NAME] = { .type = NLA_NUL_STRING },
	[DM_QCOW_A_MODE] = { .type = NLA_U32 },
	[DM_QCOW_A_STATE] = { .type = NLA_U32 },
	[DM_QCOW_A_ERROR] = { .type = NLA_U32 },
	[DM_QCOW_A_GENERATION] = { .type = NLA_U64 },
	[DM_QCOW_A_CLUSTER_BITS] = { .type = NLA_U32 },
	[DM_QCOW_A_GRANTED] = { .type = NLA_U64 },
	[DM_QCOW_A_CONSUMED] = { .type = NLA_U64 },
	[DM_QCOW_A_ZEROED] = { .type = NLA_U64 },
	[DM_QCOW_A_FREED] = { .type = NLA_U64 },
	[DM_QCOW_A_PARKED] = { .type = NLA_U64 },
	[DM_QCOW_A_PENDING] = { .type = NLA_U32 },
};

static unsigned int dev_major(uint64_t dev)
{
	return dev >> 32;
}

static unsigned int dev_minor(uint64_t dev)
{
	return (uint32_t)dev;
}

/*
 * Errors
 */

static int fail_no_family(struct blk_error *e)
{
	if (!access("/sys/module/dm_qcow", F_OK)) {
		blk_error_set(e, BLK_ERR_UNAVAILABLE, ENOENT,
			      "the kernel's dm_qcow netlink family is not "
			      "visible in this network namespace");
		blk_error_hint(e, "run it in the host's network namespace");
		return -ENOENT;
	}
	blk_error_set(e, BLK_ERR_UNAVAILABLE, ENOENT,
		      "the kernel module dm-qcow is not loaded");
	blk_error_hint(e, "modprobe dm-qcow; \"dkms status\" says whether it was "
		       "built for this kernel");
	return -ENOENT;
}

static int fail_privilege(struct blk_error *e)
{
	blk_error_set(e, BLK_ERR_UNAVAILABLE, EPERM,
		      "not allowed to control dm-qcow devices");
	blk_error_hint(e, "run it as root outside of containers: it takes "
		       "CAP_NET_ADMIN and CAP_SYS_ADMIN");
	return -EPERM;
}

/* @what: "grant clusters to"; @err: positive errno */
static int fail(struct blk_genl *g, struct blk_error *e, int err,
		const char *what, uint64_t dev)
{
	enum blk_error_class cls = BLK_ERR_FAILED;
	const char *text = g->why[0] ? g->why : strerror(err);

	if (err == EPERM || err == EACCES)
		return fail_privilege(e);
	if (err == ENODEV || err == ENXIO) {
		cls = BLK_ERR_NOT_FOUND;
		text = "it is not a dm-qcow device";
	} else if (err == ESTALE) {
		text = "another daemon controls it now";
	} else if (err == EBUSY) {
		cls = BLK_ERR_BUSY;
	} else if (err == ETIMEDOUT || err == ENOBUFS) {
		text = "the kernel's answer was lost";
	}
	return blk_error_set(e, cls, err, "cannot %s device %u:%u: %s", what,
			     dev_major(dev), dev_minor(dev), text);
}

/*
 * Sockets
 */

static int socket_setup(struct nl_sock *sk)
{
	struct timeval tv = { .tv_sec = REPLY_SECONDS };
	int one = 1, fd = nl_socket_get_fd(sk);

	/* a child that kept the socket would keep the session */
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) ||
	    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)))
		return -errno;
	/* only for better words: failure does no harm */
	setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
	return 0;
}

static int socket_connect(struct blk_genl *g, struct blk_error *e)
{
	int ret;

	g->sk = nl_socket_alloc();
	g->msg = nlmsg_alloc_size(BUFFER_BYTES);
	g->buf = malloc(BUFFER_BYTES);
	if (!g->sk || !g->msg || !g->buf)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = genl_connect(g->sk);
	if (!ret)
		ret = nl_socket_set_buffer_size(g->sk, SOCKET_BYTES,
						SOCKET_BYTES);
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, EPROTO,
				     "cannot open a netlink socket: %s",
				     nl_geterror(ret));
	ret = socket_setup(g->sk);
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "cannot set up a netlink socket: %s",
				     strerror(-ret));
	g->family = genl_ctrl_resolve(g->sk, DM_QCOW_GENL_NAME);
	if (g->family < 0)
		return fail_no_family(e);
	return 0;
}

int blk_genl_open(struct blk_genl **out, struct blk_error *e)
{
	struct blk_genl *g = calloc(1, sizeof(*g));
	int ret;

	*out = NULL;
	if (!g)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	pthread_mutex_init(&g->lock, NULL);
	ret = socket_connect(g, e);
	if (ret) {
		blk_genl_close(g);
		return ret;
	}
	*out = g;
	return 0;
}

void blk_genl_close(struct blk_genl *g)
{
	if (!g)
		return;
	if (g->sk)
		nl_socket_free(g->sk);
	nlmsg_free(g->msg);
	free(g->buf);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

int blk_genl_fd(const struct blk_genl *g)
{
	return nl_socket_get_fd(g->sk);
}

/*
 * One request
 */

/* Takes the lock; request_end() drops it. */
static void request_begin(struct blk_genl *g, enum dm_qcow_cmd cmd, int flags)
{
	pthread_mutex_lock(&g->lock);
	nlmsg_hdr(g->msg)->nlmsg_len = NLMSG_HDRLEN;
	g->why[0] = '\0';
	g->seq++;
	g->overflow = !genlmsg_put(g->msg,
				   nl_socket_get_local_port(g->sk), g->seq,
				   g->family, 0, NLM_F_REQUEST | flags, cmd,
				   DM_QCOW_GENL_VERSION);
}

static void put_u64(struct blk_genl *g, enum dm_qcow_attr attr, uint64_t v)
{
	if (nla_put_u64(g->msg, attr, v) < 0)
		g->overflow = true;
}

static void put_u32(struct blk_genl *g, enum dm_qcow_attr attr, uint32_t v)
{
	if (nla_put_u32(g->msg, attr, v) < 0)
		g->overflow = true;
}

static void put_runs(struct blk_genl *g, const struct dm_qcow_run *runs,
		     size_t n)
{
	if (n && (n > DM_QCOW_MAX_RUNS ||
		  nla_put(g->msg, DM_QCOW_A_RUNS, n * sizeof(*runs), runs) < 0))
		g->overflow = true;
}

/* A request of the session's owner. */
static void session_begin(struct blk_genl *g, enum dm_qcow_cmd cmd,
			  uint64_t dev, uint64_t session)
{
	request_begin(g, cmd, NLM_F_ACK);
	put_u64(g, DM_QCOW_A_DEV, dev);
	put_u64(g, DM_QCOW_A_SESSION, session);
}

/* Keeps the kernel's words; the request itself is not in the message (CAP). */
static void keep_why(struct blk_genl *g, struct nlmsghdr *nlh)
{
	struct nlmsgerr *err = nlmsg_data(nlh);
	struct nlattr *tb[NLMSGERR_ATTR_MAX + 1];
	size_t skip = sizeof(*err);

	if (!(nlh->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(nlh->nlmsg_flags & NLM_F_CAPPED)) {
		if (err->msg.nlmsg_len < sizeof(err->msg))
			return;
		skip += NLMSG_ALIGN(err->msg.nlmsg_len - sizeof(err->msg));
	}
	if ((size_t)nlmsg_datalen(nlh) < skip ||
	    nlmsg_parse(nlh, skip, tb, NLMSGERR_ATTR_MAX, NULL) < 0)
		return;
	if (tb[NLMSGERR_ATTR_MSG])
		nla_strlcpy(g->why, tb[NLMSGERR_ATTR_MSG], sizeof(g->why));
}

/* The message that ends a request: an acknowledgement or the end of a dump. */
static int end_code(struct blk_genl *g, struct nlmsghdr *nlh)
{
	int err = 0;

	if (nlmsg_datalen(nlh) >= (int)sizeof(err))
		memcpy(&err, nlmsg_data(nlh), sizeof(err));
	if (err && nlh->nlmsg_type == NLMSG_ERROR &&
	    nlmsg_datalen(nlh) >= (int)sizeof(struct nlmsgerr))
		keep_why(g, nlh);
	return err > 0 ? -EPROTO : err;
}

/*
 * One datagram's messages.  Return: 1 when the request has ended with *code,
 * 0 to go on.  The first error of @fn is kept in *code.
 */
static int messages(struct blk_genl *g, int len, reply_fn fn, void *opaque,
		    int *code)
{
	struct nlattr *tb[DM_QCOW_A_MAX + 1];
	struct nlmsghdr *nlh;
	int err;

	for (nlh = g->buf; nlmsg_ok(nlh, len); nlh = nlmsg_next(nlh, &len)) {
		if (nlh->nlmsg_seq != g->seq)
			continue;	/* an answer that came too late */
		if (nlh->nlmsg_flags & NLM_F_DUMP_INTR && !*code)
			*code = -EINTR;
		if (nlh->nlmsg_type == NLMSG_ERROR ||
		    nlh->nlmsg_type == NLMSG_DONE) {
			err = end_code(g, nlh);
			*code = err ? err : *code;
			return 1;
		}
		if (nlh->nlmsg_type != g->family || !fn)
			continue;
		err = genlmsg_parse(nlh, 0, tb, DM_QCOW_A_MAX, policy);
		err = err < 0 ? -EPROTO : fn(tb, opaque);
		*code = *code ? *code : err;
	}
	return 0;
}

static int receive(struct blk_genl *g, reply_fn fn, void *opaque)
{
	struct sockaddr_nl from;
	int code = 0;

	for (;;) {
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(blk_genl_fd(g), g->buf, BUFFER_BYTES,
				     MSG_TRUNC, (struct sockaddr *)&from,
				     &from_len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		if (from.nl_pid)
			continue;	/* not from the kernel */
		if (n > BUFFER_BYTES)
			return -ENOBUFS;
		if (messages(g, n, fn, opaque, &code))
			return code;
	}
}

/* Sends the message, gives each reply to @fn, drops the lock. */
static int request_end(struct blk_genl *g, reply_fn fn, void *opaque,
		       const char *what, uint64_t dev, struct blk_error *e)
{
	struct nlmsghdr *nlh = nlmsg_hdr(g->msg);
	int ret;

	if (g->overflow) {
		ret = -EMSGSIZE;
	} else {
		do {
			ret = send(blk_genl_fd(g), nlh, nlh->nlmsg_len, 0) < 0 ?
				-errno : 0;
		} while (ret == -EINTR);
		if (!ret)
			ret = receive(g, fn, opaque);
	}
	if (ret)
		fail(g, e, -ret, what, dev);
	pthread_mutex_unlock(&g->lock);
	return ret;
}

/*
 * Replies
 */

static void get_u64(struct nlattr *a, uint64_t *v)
{
	if (a)
		*v = nla_get_u64(a);
}

static void get_u32(struct nlattr *a, uint32_t *v)
{
	if (a)
		*v = nla_get_u32(a);
}

static void get_string(struct nlattr *a, char *v, size_t room)
{
	if (a)
		nla_strlcpy(v, a, room);
}

static int kdev_parse(struct nlattr **tb, void *opaque)
{
	struct blk_kdev *k = opaque;
	uint32_t mode = DM_QCOW_MODE_FAIL;
	int n;

	memset(k, 0, sizeof(*k));
	if (!tb[DM_QCOW_A_DEV] || !tb[DM_QCOW_A_STATE] || !tb[DM_QCOW_A_MODE])
		return -EPROTO;
	get_u64(tb[DM_QCOW_A_DEV], &k->dev);
	get_string(tb[DM_QCOW_A_NAME], k->name, sizeof(k->name));
	get_string(tb[DM_QCOW_A_LABEL], k->label, sizeof(k->label));
	get_u32(tb[DM_QCOW_A_MODE], &mode);
	k->mode = mode;
	get_u32(tb[DM_QCOW_A_STATE], &k->state);
	get_u32(tb[DM_QCOW_A_ERROR], &k->error);
	get_u32(tb[DM_QCOW_A_CLUSTER_BITS], &k->cluster_bits);
	get_u32(tb[DM_QCOW_A_PENDING], &k->pending);
	get_u64(tb[DM_QCOW_A_GENERATION], &k->generation);
	get_u64(tb[DM_QCOW_A_GRANTED], &k->granted);
	get_u64(tb[DM_QCOW_A_CONSUMED], &k->consumed);
	k->zeroed = k->granted;
	get_u64(tb[DM_QCOW_A_ZEROED], &k->zeroed);
	get_u64(tb[DM_QCOW_A_FREED], &k->freed);
	get_u64(tb[DM_QCOW_A_PARKED], &k->parked);
	get_u64(tb[DM_QCOW_A_SEQ], &k->seq);
	get_u64(tb[DM_QCOW_A_COOKIE], &k->cookie);
	if (tb[DM_QCOW_A_STATS]) {
		n = nla_len(tb[DM_QCOW_A_STATS]);
		memcpy(&k->stats, nla_data(tb[DM_QCOW_A_STATS]),
		       n < (int)sizeof(k->stats) ? (size_t)n :
		       sizeof(k->stats));
	}
	return 0;
}

int blk_genl_get(struct blk_genl *g, uint64_t dev, uint64_t session,
		 struct blk_kdev *out, struct blk_error *e)
{
	request_begin(g, DM_QCOW_CMD_GET, NLM_F_ACK);
	put_u64(g, DM_QCOW_A_DEV, dev);
	if (session)
		put_u64(g, DM_QCOW_A_SESSION, session);
	return request_end(g, kdev_parse, out, "look at", dev, e);
}

struct kdev_list {
	struct blk_kdev *v;
	size_t n;
};

static int kdev_append(struct nlattr **tb, void *opaque)
{
	struct kdev_list *l = opaque;
	struct blk_kdev *v = realloc(l->v, (l->n + 1) * sizeof(*v));
	int ret;

	if (!v)
		return -ENOMEM;
	l->v = v;
	ret = kdev_parse(tb, &l->v[l->n]);
	if (!ret)
		l->n++;
	return ret;
}

int blk_genl_list(struct blk_genl *g, struct blk_kdev **list, size_t *n,
		  struct blk_error *e)
{
	struct kdev_list l = { 0 };
	int ret, tries = LIST_TRIES;

	do {
		l.n = 0;
		request_begin(g, DM_QCOW_CMD_GET, NLM_F_DUMP);
		ret = request_end(g, kdev_append, &l, "list", 0, NULL);
		/* -EINTR: a device came or went meanwhile */
	} while (ret == -EINTR && --tries);
	*list = NULL;
	*n = 0;
	if (ret == -EPERM || ret == -EACCES)
		ret = fail_privilege(e);
	else if (ret)
		blk_error_set(e, BLK_ERR_FAILED, -ret,
			      "cannot list the dm-qcow devices: %s",
			      strerror(-ret));
	if (ret) {
		free(l.v);
		return ret;
	}
	*list = l.v;
	*n = l.n;
	return 0;
}

/* What the short replies may hold. */
struct reply {
	uint64_t session, seq, granted, generation;
	uint32_t fd;
	bool has_fd;
	struct dm_qcow_run *runs;
	size_t n;
};

static int reply_parse(struct nlattr **tb, void *opaque)
{
	struct reply *r = opaque;
	struct nlattr *a = tb[DM_QCOW_A_RUNS];

	get_u64(tb[DM_QCOW_A_SESSION], &r->session);
	get_u64(tb[DM_QCOW_A_SEQ], &r->seq);
	get_u64(tb[DM_QCOW_A_GRANTED], &r->granted);
	get_u64(tb[DM_QCOW_A_GENERATION], &r->generation);
	get_u32(tb[DM_QCOW_A_FD], &r->fd);
	r->has_fd = tb[DM_QCOW_A_FD];
	if (a && r->runs) {
		r->n = nla_len(a) / sizeof(*r->runs);
		if (r->n > DM_QCOW_MAX_RUNS)
			return -EPROTO;
		memcpy(r->runs, nla_data(a), r->n * sizeof(*r->runs));
	}
	return 0;
}

int blk_genl_adopt(struct blk_genl *g, uint64_t dev, const char *label,
		   uint64_t *session, uint64_t *seq, struct blk_error *e)
{
	struct reply r = { 0 };
	int ret;

	request_begin(g, DM_QCOW_CMD_ADOPT, NLM_F_ACK);
	put_u64(g, DM_QCOW_A_DEV, dev);
	if (label && nla_put_string(g->msg, DM_QCOW_A_LABEL, label) < 0)
		g->overflow = true;
	ret = request_end(g, reply_parse, &r, "take control of", dev, e);
	if (ret == -EBUSY)
		blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			      "another daemon controls device %u:%u",
			      dev_major(dev), dev_minor(dev));
	*session = r.session;
	*seq = r.seq;
	return ret;
}

int blk_genl_claim(struct blk_genl *g, uint64_t dev, uint64_t session,
		   const struct dm_qcow_run *runs, size_t n, bool anew,
		   struct blk_error *e)
{
	uint32_t flags = anew ? DM_QCOW_CLAIM_ANEW : 0;
	size_t part;
	int ret = 0;

	for (; n && !ret; runs += part, n -= part) {
		part = n < DM_QCOW_MAX_RUNS ? n : DM_QCOW_MAX_RUNS;
		session_begin(g, DM_QCOW_CMD_CLAIM, dev, session);
		put_runs(g, runs, part);
		if (anew && part == n)
			flags |= DM_QCOW_CLAIM_ALL;
		if (flags)
			put_u32(g, DM_QCOW_A_FLAGS, flags);
		flags = 0;
		ret = request_end(g, NULL, NULL, "claim metadata of", dev, e);
	}
	if (ret == -EUCLEAN)
		blk_error_set(e, BLK_ERR_FAILED, EUCLEAN,
			      "the image is corrupt: a cluster of its metadata "
			      "is in use for something else");
	return ret;
}

int blk_genl_grant(struct blk_genl *g, uint64_t dev, uint64_t session,
		   uint64_t seq, const struct dm_qcow_run *runs, size_t n,
		   uint32_t flags, uint64_t *granted, struct blk_error *e)
{
	struct reply r = { 0 };
	int ret;

	session_begin(g, DM_QCOW_CMD_GRANT, dev, session);
	put_u64(g, DM_QCOW_A_SEQ, seq);
	put_runs(g, runs, n);
	if (flags)
		put_u32(g, DM_QCOW_A_FLAGS, flags);
	ret = request_end(g, reply_parse, &r, "grant clusters to", dev, e);
	if (!ret && granted)
		*granted = r.granted;
	return ret;
}

int blk_genl_take(struct blk_genl *g, uint64_t dev, uint64_t session,
		  uint32_t what, struct dm_qcow_run *runs, size_t *n,
		  struct blk_error *e)
{
	struct reply r = { .runs = runs };
	int ret;

	session_begin(g, DM_QCOW_CMD_TAKE, dev, session);
	put_u32(g, DM_QCOW_A_FLAGS, what);
	ret = request_end(g, reply_parse, &r, "take clusters from", dev, e);
	*n = r.n;
	return ret;
}

int blk_genl_commit(struct blk_genl *g, uint64_t dev, uint64_t session,
		    uint64_t cookie, struct blk_error *e)
{
	session_begin(g, DM_QCOW_CMD_COMMIT, dev, session);
	put_u64(g, DM_QCOW_A_COOKIE, cookie);
	return request_end(g, NULL, NULL, "start a commit of", dev, e);
}

int blk_genl_handover(struct blk_genl *g, uint64_t dev, uint64_t session,
		      uint64_t *generation, struct blk_error *e)
{
	struct reply r = { 0 };
	int ret;

	session_begin(g, DM_QCOW_CMD_HANDOVER, dev, session);
	ret = request_end(g, reply_parse, &r, "take over the metadata of", dev,
			  e);
	if (generation)
		*generation = r.generation;
	return ret;
}

int blk_genl_hold_file(struct blk_genl *g, uint64_t dev, uint64_t session,
		       uint32_t layer, uint32_t flags, int fd,
		       struct blk_error *e)
{
	session_begin(g, DM_QCOW_CMD_HOLD_FILE, dev, session);
	put_u32(g, DM_QCOW_A_LAYER, layer);
	put_u32(g, DM_QCOW_A_FD, fd);
	if (flags)
		put_u32(g, DM_QCOW_A_FLAGS, flags);
	return request_end(g, NULL, NULL, "lend the image's file to", dev, e);
}

int blk_genl_get_file(struct blk_genl *g, uint64_t dev, uint64_t session,
		      uint32_t layer, uint32_t flags, int *fd,
		      struct blk_error *e)
{
	struct reply r = { 0 };
	int ret;

	*fd = -1;
	session_begin(g, DM_QCOW_CMD_GET_FILE, dev, session);
	put_u32(g, DM_QCOW_A_LAYER, layer);
	if (flags)
		put_u32(g, DM_QCOW_A_FLAGS, flags);
	ret = request_end(g, reply_parse, &r, "get the image's file of", dev,
			  e);
	if (ret)
		return ret;
	if (!r.has_fd)
		return fail(g, e, EPROTO, "get the image's file of", dev);
	*fd = r.fd;
	return 0;
}

/*
 * Events
 */

int blk_genl_events_open(struct blk_genl **out, struct blk_error *e)
{
	struct blk_genl *g;
	int group, ret;

	ret = blk_genl_open(&g, e);
	*out = NULL;
	if (ret)
		return ret;
	group = genl_ctrl_resolve_grp(g->sk, DM_QCOW_GENL_NAME,
				      DM_QCOW_MCGRP_EVENTS);
	if (group < 0) {
		blk_genl_close(g);
		return fail_no_family(e);
	}
	if (setsockopt(blk_genl_fd(g), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP,
		       &group, sizeof(group))) {
		ret = -errno;
		blk_genl_close(g);
		if (ret == -EPERM)
			return fail_privilege(e);
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "cannot listen to dm-qcow events: %s",
				     strerror(-ret));
	}
	*out = g;
	return 0;
}

void blk_genl_events_only(struct blk_genl *g, uint64_t dev)
{
	uint32_t half[2];
	struct sock_filter code[] = {
		/* the attributes begin behind both headers */
		BPF_STMT(BPF_LD | BPF_IMM, NLMSG_HDRLEN + GENL_HDRLEN),
		BPF_STMT(BPF_LDX | BPF_IMM, DM_QCOW_A_DEV),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, SKF_AD_OFF + SKF_AD_NLATTR),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 5, 0),
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_IND, NLA_HDRLEN),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_IND, NLA_HDRLEN + 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog prog = {
		.len = sizeof(code) / sizeof(code[0]),
		.filter = code,
	};

	memcpy(half, &dev, sizeof(half));
	code[6].k = __builtin_bswap32(half[0]);
	code[8].k = __builtin_bswap32(half[1]);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	code[6].k = half[0];
	code[8].k = half[1];
#endif
	/* without it every device's events arrive: slower, not wrong */
	setsockopt(blk_genl_fd(g), SOL_SOCKET, SO_ATTACH_FILTER, &prog,
		   sizeof(prog));
}

static void event_parse(struct blk_genl *g, int len,
			void (*cb)(void *opaque, uint64_t dev, uint32_t events),
			void *opaque)
{
	struct nlattr *tb[DM_QCOW_A_MAX + 1];
	struct nlmsghdr *nlh;

	for (nlh = g->buf; nlmsg_ok(nlh, len); nlh = nlmsg_next(nlh, &len)) {
		if (nlh->nlmsg_type != g->family ||
		    genlmsg_parse(nlh, 0, tb, DM_QCOW_A_MAX, policy) < 0)
			continue;
		if (cb && tb[DM_QCOW_A_DEV] && tb[DM_QCOW_A_EVENTS])
			cb(opaque, nla_get_u64(tb[DM_QCOW_A_DEV]),
			   nla_get_u32(tb[DM_QCOW_A_EVENTS]));
	}
}

int blk_genl_events_read(struct blk_genl *g,
			 void (*cb)(void *opaque, uint64_t dev, uint32_t events),
			 void *opaque)
{
	struct sockaddr_nl from;
	socklen_t from_len;
	ssize_t n;
	int ret = 0;

	pthread_mutex_lock(&g->lock);
	for (;;) {
		from_len = sizeof(from);
		n = recvfrom(blk_genl_fd(g), g->buf, BUFFER_BYTES,
			     MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == ENOBUFS) {
			ret = -ENOBUFS;	/* and there may be more to read */
			continue;
		}
		if (n < 0)
			break;
		if (!from.nl_pid)
			event_parse(g, n, cb, opaque);
	}
	if (n < 0 && errno != EAGAIN && !ret)
		ret = -errno;
	pthread_mutex_unlock(&g->lock);
	return ret;
}
