// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The attachment as an object: making and freeing it, its connections with the
 * image's allocator and the device below, and what anybody may ask it.
 *
 * Owns: the memory, and the sockets and descriptors when it is freed.
 * Must not: know procedures; these are in attach.c, adopt.c and detach.c.
 * Threads: the callbacks of the allocator run in whatever thread allocates;
 * blk_attach_get() may be called from any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kctl/attachment.h"

struct blk_attachment *blk_attachment_new(struct blk_file *file,
					  struct blk_qcow2 *image)
{
	struct blk_attachment *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->file = file;
	a->image = image;
	a->loop.fd = -1;
	a->feeder.wake = -1;
	if (image)
		a->cluster_bits = blk_qcow2_header(image)->cluster_bits;
	pthread_mutex_init(&a->feeder.lock, NULL);
	pthread_cond_init(&a->feeder.cond, NULL);
	return a;
}

void blk_attachment_free(struct blk_attachment *a)
{
	if (!a)
		return;
	blk_feeder_exit(a);
	blk_genl_close(a->genl);
	blk_loop_close(&a->loop);
	pthread_cond_destroy(&a->feeder.cond);
	pthread_mutex_destroy(&a->feeder.lock);
	free(a);
}

static int claim(void *opaque, const struct dm_qcow_run *runs, size_t n)
{
	struct blk_attachment *a = opaque;

	return blk_genl_claim(a->genl, a->dev, a->session, runs, n, NULL);
}

static int grown(void *opaque, uint64_t size)
{
	struct blk_attachment *a = opaque;

	(void)size;
	return a->loop.fd < 0 ? 0 : blk_loop_set_capacity(&a->loop, NULL);
}

void blk_attachment_connect(struct blk_attachment *a)
{
	static const struct blk_qcow2_ops ops = {
		.claim = claim,
		.grown = grown,
	};

	blk_qcow2_set_ops(a->image, &ops, a);
}

void blk_attachment_session(struct blk_attachment *a)
{
	/* what an earlier session has used is smaller in any case */
	a->cookie = a->session << 32;
}

int blk_attachment_below(const struct blk_attachment *a, uint64_t *dev)
{
	struct stat st;

	if (a->loop.fd >= 0) {
		*dev = a->loop.dev;
		return 0;
	}
	if (fstat(a->file->fd, &st))
		return -errno;
	*dev = DM_QCOW_DEV(major(st.st_rdev), minor(st.st_rdev));
	return 0;
}

/*
 * Looking at it
 */

struct blk_file *blk_attach_file(struct blk_attachment *a)
{
	return a->file;
}

struct blk_qcow2 *blk_attach_image(struct blk_attachment *a)
{
	return a->image;
}

const char *blk_attach_name(const struct blk_attachment *a)
{
	return a->name;
}

bool blk_attach_writable(const struct blk_attachment *a)
{
	return a->writable;
}

uint64_t blk_attach_dev(const struct blk_attachment *a)
{
	return a->dev;
}

int blk_attach_get(struct blk_attachment *a, struct blk_kdev *out,
		   struct blk_error *e)
{
	return blk_genl_get(a->genl, a->dev, 0, out, e);
}
