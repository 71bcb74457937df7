// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Sends random messages to the "dm_qcow" family, about a live device: every
 * command, attributes of wrong kinds, sizes and values, and whole sequences that
 * make sense until one of them does not. Whatever the kernel answers is fine.
 *
 *   netlink-fuzz MAJOR MINOR BYTES SEED SECONDS
 *
 * BYTES: of the device below, where clusters of 64 KiB are claimed and granted.
 * Prints how many messages of each command there were, and how many succeeded.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <linux/dm_qcow.h>

#define CLUSTER		65536ULL
#define BUFFER		(64 << 10)
#define CMDS		16

struct message {
	char *buf;
	size_t len;
};

static uint64_t state;
static int family;
static uint64_t dev, bytes, session, seq, cookie;
static unsigned long sent[CMDS], good[CMDS];
static int fds[4];

static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state * 0x2545f4914f6cdd1dULL >> 11;
}

static unsigned int below(unsigned int n)
{
	return rnd() % n;
}

static uint64_t any64(void)
{
	static const uint64_t values[] = {
		0, 1, 2, 3, 255, 4096, CLUSTER, UINT32_MAX, 1ULL << 32,
		INT64_MAX, 1ULL << 63, UINT64_MAX,
	};

	if (below(2))
		return values[below(sizeof(values) / sizeof(values[0]))];
	return rnd() << below(40);
}

static void put(struct message *m, int type, const void *data, size_t len)
{
	struct nlattr a = { .nla_type = type, .nla_len = NLA_HDRLEN + len };

	if (m->len + NLA_HDRLEN + NLA_ALIGN(len) > BUFFER)
		return;
	memcpy(m->buf + m->len, &a, sizeof(a));
	memcpy(m->buf + m->len + NLA_HDRLEN, data, len);
	memset(m->buf + m->len + NLA_HDRLEN + len, 0, NLA_ALIGN(len) - len);
	m->len += NLA_HDRLEN + NLA_ALIGN(len);
}

static void put_u64(struct message *m, int type, uint64_t v)
{
	put(m, type, &v, sizeof(v));
}

static void put_u32(struct message *m, int type, uint32_t v)
{
	put(m, type, &v, sizeof(v));
}

/* Runs that are likely to be taken, and some that must not be. */
static void put_runs(struct message *m)
{
	static struct dm_qcow_run runs[DM_QCOW_MAX_RUNS + 8];
	unsigned int n = below(8) ? below(12) : below(DM_QCOW_MAX_RUNS + 8);
	size_t len = n * sizeof(runs[0]);
	unsigned int i;

	for (i = 0; i < n; i++) {
		runs[i].offset = rnd() % (bytes / CLUSTER) * CLUSTER;
		runs[i].length = (1 + below(4)) * CLUSTER;
		runs[i].flags = below(4) ? 0 : DM_QCOW_RUN_ZEROED;
		runs[i].reserved = 0;
		if (!below(40))
			runs[i].offset = any64();
		if (!below(40))
			runs[i].length = any64();
		if (!below(60))
			runs[i].flags = any64();
		if (!below(60))
			runs[i].reserved = any64();
	}
	if (!below(30))
		len = len ? len - below(24) - 1 : 3;
	put(m, DM_QCOW_A_RUNS, runs, len);
}

static void put_junk(struct message *m)
{
	static unsigned char junk[3000];
	size_t n = below(4) ? below(24) : below(sizeof(junk)), i;

	for (i = 0; i < n; i++)
		junk[i] = rnd();
	put(m, below(DM_QCOW_A_MAX + 4) | (below(10) ? 0 : NLA_F_NESTED), junk,
	    n);
}

static void put_label(struct message *m)
{
	static char label[DM_QCOW_LABEL_MAX + 16];
	size_t n = below(5) ? below(40) : below(sizeof(label));

	memset(label, 'x', sizeof(label));
	label[n ? n - 1 : 0] = below(8) ? 0 : 'y';
	put(m, DM_QCOW_A_LABEL, label, n);
}

static void put_attribute(struct message *m, int type)
{
	switch (type) {
	case DM_QCOW_A_DEV:
		put_u64(m, type, below(40) ? dev : any64());
		break;
	case DM_QCOW_A_SESSION:
		put_u64(m, type, below(20) ? session : any64());
		break;
	case DM_QCOW_A_SEQ:
		put_u64(m, type, below(2000) ? ++seq : any64() >> 8);
		break;
	case DM_QCOW_A_COOKIE:
		put_u64(m, type, below(2000) ? ++cookie : any64() >> 8);
		break;
	case DM_QCOW_A_RUNS:
		put_runs(m);
		break;
	case DM_QCOW_A_FLAGS:
		put_u32(m, type, below(10) ? below(4) : any64());
		break;
	case DM_QCOW_A_LAYER:
		put_u32(m, type, below(4) ? 0 : any64());
		break;
	case DM_QCOW_A_FD:
		put_u32(m, type, below(4) ? (uint32_t)fds[below(4)] : any64());
		break;
	case DM_QCOW_A_LABEL:
		put_label(m);
		break;
	default:
		put_junk(m);
	}
}

/* What each command wants; most messages have it. */
static const int wants[DM_QCOW_CMD_MAX + 1][5] = {
	[DM_QCOW_CMD_ADOPT] = { DM_QCOW_A_LABEL },
	[DM_QCOW_CMD_CLAIM] = { DM_QCOW_A_SESSION, DM_QCOW_A_RUNS,
				DM_QCOW_A_FLAGS },
	[DM_QCOW_CMD_GRANT] = { DM_QCOW_A_SESSION, DM_QCOW_A_SEQ,
				DM_QCOW_A_RUNS },
	[DM_QCOW_CMD_TAKE] = { DM_QCOW_A_SESSION, DM_QCOW_A_FLAGS },
	[DM_QCOW_CMD_COMMIT] = { DM_QCOW_A_SESSION, DM_QCOW_A_COOKIE },
	[DM_QCOW_CMD_HANDOVER] = { DM_QCOW_A_SESSION },
	[DM_QCOW_CMD_HOLD_FILE] = { DM_QCOW_A_SESSION, DM_QCOW_A_LAYER,
				    DM_QCOW_A_FD, DM_QCOW_A_FLAGS },
	[DM_QCOW_CMD_GET_FILE] = { DM_QCOW_A_SESSION, DM_QCOW_A_LAYER,
				   DM_QCOW_A_FLAGS },
};

static void make(struct message *m, int cmd)
{
	struct nlmsghdr *h = (void *)m->buf;
	struct genlmsghdr *g = NLMSG_DATA(h);
	unsigned int i;

	memset(m->buf, 0, NLMSG_HDRLEN + GENL_HDRLEN);
	m->len = NLMSG_HDRLEN + GENL_HDRLEN;
	g->cmd = cmd;
	g->version = below(20) ? DM_QCOW_GENL_VERSION : rnd();
	if (below(50))
		put_attribute(m, DM_QCOW_A_DEV);
	for (i = 0; cmd <= DM_QCOW_CMD_MAX && i < 5 && wants[cmd][i]; i++)
		if (below(30))
			put_attribute(m, wants[cmd][i]);
	for (i = below(12) ? 0 : below(6); i; i--)
		put_attribute(m, below(DM_QCOW_A_MAX + 3));
	h->nlmsg_len = m->len;
	h->nlmsg_type = family;
	h->nlmsg_flags = NLM_F_REQUEST | (below(3) ? NLM_F_ACK : 0) |
		(below(30) ? 0 : NLM_F_DUMP);
	/* as it was made, or not quite */
	for (i = below(15) ? 0 : 1 + below(4); i; i--)
		m->buf[NLMSG_HDRLEN + below(m->len - NLMSG_HDRLEN)] = rnd();
	if (!below(60))
		h->nlmsg_len -= below(m->len - NLMSG_HDRLEN);
}

static int open_socket(void)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	struct timeval tv = { .tv_sec = 5 };

	if (fd < 0 || connect(fd, (void *)&to, sizeof(to)))
		exit(1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static void look_for(struct nlattr *a, size_t len)
{
	while (len >= NLA_HDRLEN && a->nla_len >= NLA_HDRLEN &&
	       a->nla_len <= len) {
		size_t step = NLA_ALIGN(a->nla_len);
		void *v = (char *)a + NLA_HDRLEN;
		int fd;

		if (a->nla_type == DM_QCOW_A_SESSION)
			memcpy(&session, v, 8);
		if (a->nla_type == DM_QCOW_A_SEQ)
			memcpy(&seq, v, 8);
		if (a->nla_type == DM_QCOW_A_FD) {
			memcpy(&fd, v, sizeof(fd));
			if (fd > 2)
				close(fd);
		}
		if (step >= len)
			return;
		a = (void *)((char *)a + step);
		len -= step;
	}
}

static void read_answers(int fd, int cmd)
{
	static char buf[1 << 17];
	ssize_t n;

	while ((n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0) {
		struct nlmsghdr *h = (void *)buf;

		for (; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			struct nlmsgerr *e = NLMSG_DATA(h);

			if (h->nlmsg_type == NLMSG_ERROR)
				good[cmd] += !e->error;
			else if (h->nlmsg_type == family &&
				 h->nlmsg_len > NLMSG_HDRLEN + GENL_HDRLEN)
				look_for((void *)((char *)h + NLMSG_HDRLEN +
						  GENL_HDRLEN), h->nlmsg_len -
					 NLMSG_HDRLEN - GENL_HDRLEN);
		}
	}
}

static void find_family(void)
{
	char buf[4096] = { 0 };
	struct message m = { .buf = buf, .len = NLMSG_HDRLEN + GENL_HDRLEN };
	struct nlmsghdr *h = (void *)buf;
	struct genlmsghdr *g = NLMSG_DATA(h);
	struct nlattr *a = (void *)(buf + m.len);
	int fd = open_socket();
	ssize_t n;

	g->cmd = CTRL_CMD_GETFAMILY;
	g->version = 1;
	put(&m, CTRL_ATTR_FAMILY_NAME, DM_QCOW_GENL_NAME,
	    sizeof(DM_QCOW_GENL_NAME));
	h->nlmsg_len = m.len;
	h->nlmsg_type = GENL_ID_CTRL;
	h->nlmsg_flags = NLM_F_REQUEST;
	if (send(fd, buf, m.len, 0) < 0)
		exit(1);
	n = recv(fd, buf, sizeof(buf), 0);
	for (n -= NLMSG_HDRLEN + GENL_HDRLEN; n > 0 && a->nla_len;
	     n -= NLA_ALIGN(a->nla_len),
	     a = (void *)((char *)a + NLA_ALIGN(a->nla_len)))
		if (a->nla_type == CTRL_ATTR_FAMILY_ID)
			family = *(uint16_t *)((char *)a + NLA_HDRLEN);
	close(fd);
	if (!family)
		exit(1);
}

static int pick_command(void)
{
	if (!below(40))
		return below(CMDS);
	return below(3) ? DM_QCOW_CMD_CLAIM + below(7) :
		DM_QCOW_CMD_GET + below(2);
}

static void run(time_t end)
{
	static char buf[BUFFER];
	struct message m = { .buf = buf };
	int fd = open_socket();

	while (time(NULL) < end) {
		int cmd = pick_command();

		make(&m, cmd);
		if (send(fd, buf, m.len, 0) < 0)
			continue;
		sent[cmd]++;
		read_answers(fd, cmd);
		if (!below(300)) {
			close(fd);
			fd = open_socket();
		}
	}
	close(fd);
}

int main(int argc, char **argv)
{
	unsigned long all = 0;
	unsigned int i;

	if (argc != 6)
		return 2;
	dev = DM_QCOW_DEV(strtoul(argv[1], NULL, 0), strtoul(argv[2], NULL, 0));
	bytes = strtoull(argv[3], NULL, 0);
	state = strtoull(argv[4], NULL, 0) * 2 + 1;
	find_family();
	fds[0] = open("/dev/null", O_RDWR | O_CLOEXEC);
	fds[1] = open("/", O_RDONLY | O_CLOEXEC);
	fds[2] = eventfd(0, EFD_CLOEXEC);
	fds[3] = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	run(time(NULL) + strtoul(argv[5], NULL, 0));
	printf("seed %s:", argv[4]);
	for (i = 0; i < CMDS; all += sent[i++])
		if (sent[i])
			printf(" %u:%lu/%lu", i, good[i], sent[i]);
	printf("\n%lu messages\n", all);
	return 0;
}
