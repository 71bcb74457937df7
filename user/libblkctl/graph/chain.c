// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening and closing a node with all that hangs on it: its file, its data
 * file, and the images below it, down to the last one.
 *
 * Owns: the order; that a chain ends, and does not lead back into itself; that
 * a failure leaves nothing open.
 * Must not: touch the graph's list.  What a header names gets nodes that hang
 * on their parent alone; blk_node_add_end() brings them into the graph.
 * Threads: any; the nodes are OPENING or CLOSING, and those that they use by
 * reference do not change as long as they have parents.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "graph/driver.h"
#include "graph/node_int.h"
#include "io/lock.h"

/**
 * struct level - one image of the chain that is being opened
 * @up: the one above, whose backing node this is; NULL: the top
 * @depth: images from the top, this one included
 */
struct level {
	const struct level *up;
	struct blk_node *n;
	size_t depth;
};

static int open_level(struct level *l, struct blk_error *e);

/*
 * Loops
 */

static bool uses_file(const struct blk_node *n, const struct blk_file *f)
{
	const struct blk_file *own = blk_node_file(n);

	return (own && blk_file_same(own, f)) ||
		(n->data && n->data->file && blk_file_same(n->data->file, f));
}

/* Is it in use by one of these, from @l up? */
static int check_loop(const struct level *l, const struct blk_file *f,
		      struct blk_error *e)
{
	for (; l; l = l->up)
		if (uses_file(l->n, f))
			return blk_error_set(e, BLK_ERR_FAILED, ELOOP,
					     "the chain of images leads back to '%s'",
					     f->path);
	return 0;
}

static int check_depth(size_t depth, struct blk_error *e)
{
	return depth <= BLK_CHAIN_MAX ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, E2BIG,
			      "the chain has more than %d images",
			      BLK_CHAIN_MAX);
}

/* A backing node that was there before, with all that is below it. */
static int check_reference(const struct level *l, struct blk_error *e)
{
	const struct blk_node *n = l->n->backing;
	size_t depth = l->depth;
	int ret = 0;

	for (; n && !ret; n = n->backing) {
		if (!blk_node_file(n))
			return blk_error_set(e, BLK_ERR_FAILED, EIO,
					     "The file of node '%s' was lost",
					     n->name);
		ret = check_depth(++depth, e);
		if (!ret)
			ret = check_loop(l, blk_node_file(n), e);
		if (!ret && n->data && n->data->file)
			ret = check_loop(l, n->data->file, e);
	}
	return ret;
}

/*
 * The data file
 */

static int check_data_option(const struct blk_node *n, struct blk_error *e)
{
	bool wanted = n->header.incompatible_features &
		QCOW2_INCOMPAT_DATA_FILE;

	if (wanted == !!n->data)
		return 0;
	return blk_error_set(e, wanted ? BLK_ERR_FAILED : BLK_ERR_USAGE,
			     EINVAL, wanted ?
			     "the image has an external data file and does not say which: 'data-file' is required" :
			     "'data-file' can only be set for images with an external data file");
}

static int lock_data(const struct blk_node *n, struct blk_error *e)
{
	struct blk_node *data = n->data;

	if (!data->file)
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "The file of node '%s' was lost",
				     data->name);
	if (!n->read_only && !data->file->writable)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "the data file '%s' of '%s' is open read-only",
				     data->file->path,
				     n->child->file->path);
	if (!(n->locks & 1U << BLK_ROLE_DATA))
		return 0;
	return blk_lock_image(data->file->fd, data->file->path, !n->read_only,
			      e);
}

static int open_data(const struct level *l, struct blk_error *e)
{
	struct blk_node *n = l->n;
	bool named = false;
	int ret = 0;

	if (!n->data &&
	    n->header.incompatible_features & QCOW2_INCOMPAT_DATA_FILE) {
		ret = blk_named_child(n, BLK_ROLE_DATA, &n->data, e);
		n->locks |= 1U << BLK_ROLE_DATA;
		named = n->data;
	}
	if (!ret)
		ret = check_data_option(n, e);
	if (ret || !n->data)
		return ret;
	if (n->data->implicit)
		ret = n->data->drv->open(n->data, e);
	if (!ret && named)
		ret = blk_named_check(n, BLK_ROLE_DATA, n->data->file, e);
	if (!ret && n->data->file) {
		/* the image itself is no place for its data either */
		struct level above = *l;
		struct blk_node alone = { .child = n->child };

		above.n = &alone;
		ret = check_loop(&above, n->data->file, e);
	}
	return ret ? ret : lock_data(n, e);
}

/*
 * What is below
 */

/* A raw disk, be it a node of its own or a bare file. */
static int check_last(const struct blk_node *n, struct blk_error *e)
{
	return blk_node_is_qcow2(n) ? 0 :
		blk_file_check_sectors(blk_node_file(n), e);
}

static int lock_bare(const struct blk_node *n, struct blk_error *e)
{
	const struct blk_file *f = n->backing->file;

	if (!n->backing->drv->protocol ||
	    !(n->locks & 1U << BLK_ROLE_BACKING))
		return 0;
	return blk_lock_image(f->fd, f->path, false, e);
}

static int open_backing(const struct level *l, struct blk_error *e)
{
	struct blk_node *n = l->n;
	struct level below = { .up = l, .depth = l->depth + 1 };
	int ret = 0;

	if (!n->backing && !n->opts.no_backing)
		ret = blk_named_child(n, BLK_ROLE_BACKING, &n->backing, e);
	if (ret || !n->backing)
		return ret;
	if (n->backing->implicit) {
		below.n = n->backing;
		ret = open_level(&below, e);
	} else {
		ret = check_reference(l, e);
	}
	if (!ret)
		ret = lock_bare(n, e);
	return ret ? ret : check_last(n->backing, e);
}

/*
 * One image
 */

/* Was it named by the header above?  Such nodes are on no list yet. */
static bool is_named(const struct blk_node *n)
{
	return !*n->name;
}

static int open_file(const struct level *l, struct blk_error *e)
{
	struct blk_node *n = l->n, *file = n->drv->protocol ? n : n->child;
	int ret = 0;

	if (file->implicit || file == n)
		ret = file->drv->open(file, e);
	if (ret || !file->file)
		return ret;
	if (l->up && is_named(n))
		ret = blk_named_check(l->up->n, BLK_ROLE_BACKING, file->file,
				      e);
	return ret ? ret : check_loop(l->up, file->file, e);
}

static int open_own(const struct level *l, struct blk_error *e)
{
	struct blk_node *n = l->n;
	int ret = open_file(l, e);

	if (!ret && !n->drv->protocol)
		ret = n->drv->open(n, e);
	if (!ret && n->drv->chained)
		ret = open_data(l, e);
	if (ret && l->up)
		blk_error_prefix(e, "the backing file of '%.160s'",
				 blk_node_file(l->up->n)->path);
	return ret;
}

static int open_level(struct level *l, struct blk_error *e)
{
	int ret = check_depth(l->depth, e);

	if (!ret)
		ret = open_own(l, e);
	if (!ret && l->n->drv->chained)
		ret = open_backing(l, e);
	return ret;
}

/*
 * The whole
 */

static void close_implicit(struct blk_node *child)
{
	if (!child || !child->implicit)
		return;
	/* Closing is not enough: a loop device may still be on its way out */
	if (child->file)
		blk_unlock_image(child->file->fd);
	blk_chain_close(child);
}

void blk_chain_close(struct blk_node *n)
{
	close_implicit(n->backing);
	close_implicit(n->data);
	n->drv->close(n);
	close_implicit(n->child);
}

/* Nodes that nobody but their parent knows. */
static void free_named(struct blk_node *n)
{
	struct blk_node **child;
	enum blk_role role;

	for (role = 0; role < BLK_ROLES; role++) {
		child = blk_node_slot(n, role);
		if (!*child || !(*child)->implicit)
			continue;
		free_named(*child);
		if (!is_named(*child))
			continue;
		free((*child)->opts.filename);
		free(*child);
		*child = NULL;
	}
}

int blk_chain_open(struct blk_node *n, struct blk_error *e)
{
	struct level top = { .n = n, .depth = 1 };
	int ret = open_level(&top, e);

	if (ret) {
		blk_chain_close(n);
		free_named(n);
	}
	return ret;
}
