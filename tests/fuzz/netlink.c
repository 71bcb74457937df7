// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes what the daemon makes of the kernel's netlink messages: replies with
 * devices, with runs, errors with words, and events. The first byte chooses.
 * Whatever comes, strings end and runs lie within the caller's array.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../user/libblkctl/kctl/genl.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void event(void *opaque, uint64_t dev, uint32_t events)
{
	*(uint64_t *)opaque += dev ^ events;
}

static void check_string(const char *s, size_t room)
{
	if (strnlen(s, room) == room)
		abort();
}

static void replies(struct blk_genl *g, int len, unsigned int what)
{
	struct dm_qcow_run runs[DM_QCOW_MAX_RUNS];
	struct reply r = { .runs = what & 4 ? runs : NULL };
	struct kdev_list l = { 0 };
	struct blk_kdev k;
	int code = 0;

	switch (what & 3) {
	case 0:
		memset(&k, 0, sizeof(k));
		messages(g, len, kdev_parse, &k, &code);
		check_string(k.name, sizeof(k.name));
		check_string(k.label, sizeof(k.label));
		break;
	case 1:
		messages(g, len, kdev_append, &l, &code);
		free(l.v);
		break;
	case 2:
		messages(g, len, reply_parse, &r, &code);
		if (r.n > DM_QCOW_MAX_RUNS || (r.n && !r.runs))
			abort();
		break;
	default:
		messages(g, len, NULL, NULL, &code);
	}
	if (code > 0)
		abort();
	check_string(g->why, sizeof(g->why));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct blk_genl g = { .family = 0x1c, .seq = 1 };
	struct nlmsghdr *nlh;
	uint64_t sum = 0;
	int len;

	if (size < 2 || size > BUFFER_BYTES)
		return 0;
	len = (int)size - 1;
	/* exactly as long as the datagram: what reads behind it is found */
	g.buf = malloc(len);
	if (!g.buf)
		abort();
	memcpy(g.buf, data + 1, len);
	/* the family's number and the sequence are the kernel's, not guessed */
	nlh = g.buf;
	if (data[0] & 0x80 && len >= (int)sizeof(*nlh)) {
		nlh->nlmsg_seq = 1;
		if (data[0] & 0x40)
			nlh->nlmsg_type = 0x1c;
	}
	if (data[0] & 8)
		event_parse(&g, len, event, &sum);
	else
		replies(&g, len, data[0] & 7);
	free(g.buf);
	return 0;
}
