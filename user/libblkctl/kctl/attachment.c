// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The attachment as an object: making and freeing it, its connection with the
 * image's allocator, and what anybody may ask it.
 *
 * Owns: the memory, and the sockets and descriptors when it is freed.
 * Must not: know procedures; these are in attach.c, adopt.c and detach.c.
 * Threads: the callbacks of the allocator run in whatever thread allocates;
 * blk_attach_get() may be called from any thread.
 */
#include <stdlib.h>

#include "kctl/attachment.h"

struct blk_attachment *blk_attachment_new(void)
{
	struct blk_attachment *a = calloc(1, sizeof(*a));

	if (!a)
		return NULL;
	a->feeder.wake = -1;
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
	blk_layers_down(a);
	free(a->layers);
	pthread_cond_destroy(&a->feeder.cond);
	pthread_mutex_destroy(&a->feeder.lock);
	free(a);
}

static int claim(void *opaque, const struct dm_qcow_run *runs, size_t n)
{
	struct blk_attachment *a = opaque;

	return blk_genl_claim(a->genl, a->dev, a->session, runs, n, false,
			      NULL);
}

static int grown(void *opaque, uint64_t size)
{
	struct blk_attachment *a = opaque;
	struct blk_layer *l = &a->layers[0];
	int ret;

	(void)size;
	ret = l->loop.fd < 0 ? 0 : blk_loop_set_capacity(&l->loop, NULL);
	return ret ? ret : blk_crypt_resize(&l->crypt, NULL);
}

void blk_attachment_connect(struct blk_attachment *a)
{
	static const struct blk_qcow2_ops ops = {
		.claim = claim,
		.grown = grown,
	};

	blk_qcow2_set_ops(a->image, &ops, a);
}

int blk_attachment_claim(struct blk_attachment *a, bool anew,
			 struct blk_error *e)
{
	struct dm_qcow_run *runs = NULL;
	size_t n = 0;
	int ret;

	ret = blk_qcow2_metadata(a->image, &runs, &n, e);
	if (!ret)
		ret = blk_genl_claim(a->genl, a->dev, a->session, runs, n,
				     anew, e);
	free(runs);
	return ret;
}

void blk_attachment_connect_unclaimed(struct blk_attachment *a)
{
	static const struct blk_qcow2_ops ops = { .grown = grown };

	blk_qcow2_set_ops(a->image, &ops, a);
}

void blk_attachment_session(struct blk_attachment *a)
{
	/* what an earlier session has used is smaller in any case */
	a->cookie = a->session << 32;
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

size_t blk_attach_layers(const struct blk_attachment *a)
{
	return a->n_layers;
}

void blk_attach_layer(const struct blk_attachment *a, size_t i,
		      struct blk_attach_layer *out)
{
	*out = a->layers[i].is;
}

uint64_t blk_attach_size(const struct blk_attachment *a)
{
	return a->size;
}

bool blk_attach_repaired(const struct blk_attachment *a)
{
	return a->repaired;
}

void blk_attach_share_locks(struct blk_attachment *a)
{
	a->share_locks = true;
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
