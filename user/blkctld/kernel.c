// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Looking at the kernel's devices.
 *
 * Owns: two netlink sockets, once the module is there.
 * Must not: adopt, grant or change anything: that is the attachments' business.
 * Threads: the loop's; kernel_list() any.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "export_dm.h"
#include "kernel.h"
#include "log.h"

struct kernel {
	struct server *s;
	struct blk_genl *events;
	struct blk_genl *get;
	struct blk_ev_io io;
};

static void on_event(void *opaque, uint64_t dev, uint32_t events)
{
	struct kernel *k = opaque;

	export_dm_kernel_event(k->s, dev, events);
}

static void on_readable(struct blk_ev_io *io, unsigned int events)
{
	struct kernel *k = blk_container_of(io, struct kernel, io);
	int ret;

	(void)events;
	ret = blk_genl_events_read(k->events, on_event, k);
	if (ret == -ENOBUFS) {
		export_dm_look_at_all(k->s);
	} else if (ret < 0 && ret != -EAGAIN) {
		log_error("kernel events can't be read any more (%d)", -ret);
		return;
	}
	blk_ev_io_arm(k->s->ev, &k->io, POLLIN);
}

void kernel_watch(struct server *s)
{
	struct blk_error e = { .msg = "" };
	struct kernel *k;

	if (s->kernel)
		return;
	k = calloc(1, sizeof(*k));
	if (!k)
		return;
	k->s = s;
	if (blk_genl_open(&k->get, &e))
		goto fail;
	if (blk_genl_events_open(&k->events, &e))
		goto close;
	k->io.fd = blk_genl_fd(k->events);
	k->io.fn = on_readable;
	if (blk_ev_io_arm(s->ev, &k->io, POLLIN))
		goto close_both;
	s->kernel = k;
	return;

close_both:
	blk_genl_close(k->events);
close:
	blk_genl_close(k->get);
fail:
	free(k);
	log_warn("kernel events are not received: %s", e.msg);
}

void kernel_unwatch(struct server *s)
{
	struct kernel *k = s->kernel;

	if (!k)
		return;
	blk_ev_io_stop(s->ev, &k->io);
	blk_genl_close(k->events);
	blk_genl_close(k->get);
	free(k);
	s->kernel = NULL;
}

int kernel_get(struct server *s, uint64_t dev, struct blk_kdev *out,
	       struct blk_error *e)
{
	kernel_watch(s);
	if (!s->kernel)
		return blk_error_set(e, BLK_ERR_UNAVAILABLE, ENOTCONN,
				     "the kernel module can't be reached");
	return blk_genl_get(s->kernel->get, dev, 0, out, e);
}

int kernel_list(struct blk_kdev **list, size_t *n, struct blk_error *e)
{
	struct blk_genl *g;
	int ret;

	*list = NULL;
	*n = 0;
	ret = blk_genl_open(&g, e);
	if (ret == -ENOENT && access("/sys/module/dm_qcow", F_OK))
		return 0;
	if (ret)
		return ret;
	ret = blk_genl_list(g, list, n, e);
	blk_genl_close(g);
	return ret;
}

const char *kernel_mode_name(enum dm_qcow_mode mode)
{
	static const char *const names[] = {
		[DM_QCOW_MODE_WRITE] = "rw",
		[DM_QCOW_MODE_OUT_OF_SPACE] = "out_of_space",
		[DM_QCOW_MODE_READ_ONLY] = "ro",
		[DM_QCOW_MODE_FAIL] = "fail",
	};

	return (unsigned int)mode < sizeof(names) / sizeof(names[0]) ?
		names[mode] : "fail";
}
