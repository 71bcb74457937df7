// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The drivers: how a node's file or image is opened.
 *
 * Owns: nothing; what is opened hangs on the node.
 * Must not: look at the graph or at nodes other than its own and its child.
 * Threads: each node by one thread at a time; all of this may block.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "graph/driver.h"
#include "graph/encrypt.h"
#include "io/lock.h"

/*
 * file, host_device
 */

static int check_kind(const struct blk_node *n, mode_t mode,
		      struct blk_error *e)
{
	const char *name = n->opts.filename;

	if (!strcmp(n->drv->name, "file")) {
		if (S_ISREG(mode))
			return 0;
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "'file' driver requires '%s' to be a regular file",
			      name);
		if (S_ISBLK(mode))
			blk_error_hint(e, "use driver 'host_device'");
		return -EINVAL;
	}
	if (S_ISBLK(mode))
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "'host_device' driver requires '%s' to be a block device",
		      name);
	if (S_ISREG(mode))
		blk_error_hint(e, "use driver 'file'");
	return -EINVAL;
}

static int check_name(const struct blk_node *n, struct blk_error *e)
{
	const char *name = n->opts.filename;

	if (!*name)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "The '%s' block driver requires a file name",
				     n->drv->name);
	if (*name == '/')
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "The file name '%s' is relative", name);
	blk_error_hint(e, "the daemon has a working directory of its own: give an absolute path");
	return -EINVAL;
}

static int stat_error(const char *name, int err, struct blk_error *e)
{
	bool absent = err == ENOENT || err == ENOTDIR;

	return blk_error_set(e, absent ? BLK_ERR_NOT_FOUND : BLK_ERR_FAILED,
			     err, "Could not open '%s': %s", name,
			     strerror(err));
}

static int file_open(struct blk_node *n, struct blk_error *e)
{
	unsigned int flags = n->read_only ? 0 : BLK_FILE_WRITE;
	struct stat st;
	int ret;

	ret = check_name(n, e);
	if (ret)
		return ret;
	if (stat(n->opts.filename, &st))
		return stat_error(n->opts.filename, errno, e);
	if (S_ISDIR(st.st_mode))
		return stat_error(n->opts.filename, EISDIR, e);
	ret = check_kind(n, st.st_mode, e);
	if (ret)
		return ret;
	ret = blk_file_open(n->opts.filename, flags, &n->file, e);
	if (ret && flags && n->opts.auto_read_only &&
	    (ret == -EACCES || ret == -EROFS || ret == -EPERM)) {
		n->read_only = true;
		ret = blk_file_open(n->opts.filename, 0, &n->file, e);
	}
	if (ret)
		return ret;
	/* The name may have been given to something else meanwhile */
	ret = check_kind(n, n->file->is_bdev ? S_IFBLK : S_IFREG, e);
	if (ret) {
		blk_file_close(n->file);
		n->file = NULL;
	}
	return ret;
}

static void file_close(struct blk_node *n)
{
	blk_file_close(n->file);
	n->file = NULL;
}

/*
 * qcow2
 */

/* Options that can only be judged when the header is known */
static int qcow2_check_options(const struct blk_node *n, struct blk_error *e)
{
	const struct qcow2_header *h = blk_qcow2_header(n->image);
	int lazy = !!(h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS);

	if (n->opts.lazy_refcounts >= 0 && n->opts.lazy_refcounts != lazy)
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "Parameter 'lazy-refcounts' must be what the image's header says (%s)",
				     lazy ? "true" : "false");
	return 0;
}

static int lost(const struct blk_node *n, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EIO,
			     "The file of node '%s' was lost", n->child->name);
}

static int qcow2_open(struct blk_node *n, struct blk_error *e)
{
	struct blk_file *file = n->child->file;
	int ret;

	if (!file)
		return lost(n, e);
	if (!n->read_only && n->child->read_only) {
		if (!n->opts.auto_read_only)
			return blk_error_set(e, BLK_ERR_FAILED, EROFS,
					     "Block node is read-only");
		n->read_only = true;
	}
	ret = n->locks & 1U << BLK_ROLE_FILE ?
		blk_lock_image(file->fd, file->path, !n->read_only, e) : 0;
	if (ret)
		return ret;
	ret = blk_qcow2_open(file, &n->image, e);
	if (ret)
		return ret;
	n->header = *blk_qcow2_header(n->image);
	ret = qcow2_check_options(n, e);
	if (!ret)
		ret = blk_encrypt_unlock(n, e);
	if (ret) {
		blk_qcow2_close(n->image);
		n->image = NULL;
	}
	return ret;
}

static void qcow2_close(struct blk_node *n)
{
	if (n->image)
		blk_qcow2_close(n->image);
	n->image = NULL;
	blk_luks_free(n->key);
	n->key = NULL;
}

/*
 * raw: a disk as it is; nobody writes to it through here
 */

static int raw_open(struct blk_node *n, struct blk_error *e)
{
	const struct blk_file *file = n->child->file;

	if (!file)
		return lost(n, e);
	if (n->child->read_only)
		n->read_only = true;
	return n->locks & 1U << BLK_ROLE_FILE ?
		blk_lock_image(file->fd, file->path, false, e) : 0;
}

static void raw_close(struct blk_node *n)
{
	(void)n;
}

static const struct blk_driver drivers[] = {
	{ "file",	 true,	false,	file_open,	file_close },
	{ "host_device", true,	false,	file_open,	file_close },
	{ "qcow2",	 false,	true,	qcow2_open,	qcow2_close },
	{ "raw",	 false,	false,	raw_open,	raw_close },
};

const struct blk_driver *blk_driver_find(const char *name)
{
	size_t i;

	for (i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (!strcmp(drivers[i].name, name))
			return &drivers[i];
	return NULL;
}
