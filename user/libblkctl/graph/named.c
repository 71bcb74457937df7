// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Files that an image's header names: backing files and data files.
 *
 * Owns: the rules by which a name becomes a file, and the policy of which
 * files an image may name at all.  Who can write to an image can write any
 * name into its header, and would get at that file's content by way of the
 * device: so only what is in the image's own directory, or below it, is
 * followed, unless the administrator said more.
 * Must not: guess a format.  Open anything: chain.c does.
 * Threads: any; of the graph only the policy is used, which is constant.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "graph/driver.h"
#include "graph/node_int.h"

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

static const char *what(enum blk_role role)
{
	return role == BLK_ROLE_DATA ? "data file" : "backing file";
}

static const struct blk_file *image_file(const struct blk_node *n)
{
	return n->child->file;
}

/*
 * The policy
 */

int blk_graph_allow_dir(struct blk_graph *g, const char *dir)
{
	char **v = realloc(g->allowed, (g->n_allowed + 1) * sizeof(*v));

	if (!v)
		return -ENOMEM;
	g->allowed = v;
	v[g->n_allowed] = strdup(dir);
	if (!v[g->n_allowed])
		return -ENOMEM;
	g->n_allowed++;
	return 0;
}

int blk_graph_allow_list(struct blk_graph *g, const char *list)
{
	free(g->allow_list);
	g->allow_list = strdup(list);
	return g->allow_list ? 0 : -ENOMEM;
}

/* Is the file in the directory, or below it?  Both are real paths. */
static bool is_inside(const char *dir, size_t len, const char *path)
{
	while (len && dir[len - 1] == '/')
		len--;
	return !strncmp(dir, path, len) && path[len] == '/';
}

/* A directory of the administrator's; one that does not exist permits nothing */
static bool is_permitted_by(const char *dir, const char *path)
{
	char *real blk_auto_free = *dir == '/' ? realpath(dir, NULL) : NULL;

	return real && is_inside(real, strlen(real), path);
}

static bool is_on_list(const char *list, const char *path)
{
	char *line = NULL;
	bool found = false;
	size_t room = 0, n;
	FILE *f = fopen(list, "re");

	if (!f)
		return false;
	while (!found && getline(&line, &room, f) > 0) {
		n = strcspn(line, "#\n");
		while (n && isspace((unsigned char)line[n - 1]))
			n--;
		line[n] = '\0';
		found = is_permitted_by(line + strspn(line, " \t"), path);
	}
	free(line);
	fclose(f);
	return found;
}

static bool is_permitted(const struct blk_node *n, const char *path)
{
	const struct blk_graph *g = n->graph;
	const struct blk_file *f = image_file(n);
	const char *slash = strrchr(f->path, '/');
	size_t i;

	if (n->opts.allow_external)
		return true;
	/* /dev is no directory of images, it has all of the host's disks */
	if (!f->is_bdev && slash &&
	    is_inside(f->path, slash - f->path, path))
		return true;
	for (i = 0; i < g->n_allowed; i++)
		if (is_permitted_by(g->allowed[i], path))
			return true;
	return g->allow_list && is_on_list(g->allow_list, path);
}

static int check_policy(const struct blk_node *n, enum blk_role role,
			const char *path, struct blk_error *e)
{
	if (is_permitted(n, path))
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EPERM,
		      "the header of '%s' names the %s '%s', which is outside the image's directory",
		      image_file(n)->path, what(role), path);
	blk_error_hint(e, "if you trust the image: \"allow-external\" (blkctl create --allow-external), or its directory in /etc/blkctl/external-dirs");
	return -EPERM;
}

int blk_named_check(const struct blk_node *n, enum blk_role role,
		    const struct blk_file *f, struct blk_error *e)
{
	char link[64], path[4096];
	ssize_t len;

	/* what the name led to may have been replaced since */
	snprintf(link, sizeof(link), "/proc/self/fd/%d", f->fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "cannot find the path of '%s': %s",
				     f->path, strerror(errno));
	path[len] = '\0';
	return check_policy(n, role, path, e);
}

/*
 * Names
 */

static int refuse(const struct blk_node *n, enum blk_role role,
		  const char *name, const char *why, struct blk_error *e)
{
	blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
		      "the header of '%s' names the %s '%.160s': %s",
		      image_file(n)->path, what(role), name, why);
	blk_error_hint(e, "give it as '%s' in blockdev-add",
		       blk_role_name(role));
	return -ENOTSUP;
}

/* "file:" has no meaning; all other prefixes ask for other drivers. */
static int check_prefix(const struct blk_node *n, enum blk_role role,
			const char **name, struct blk_error *e)
{
	char why[96];
	size_t len;

	if (!strncmp(*name, "file:", 5)) {
		*name += 5;
		return 0;
	}
	if (!strncmp(*name, "json:", 5))
		return refuse(n, role, *name,
			      "descriptions in JSON are not followed", e);
	len = strcspn(*name, ":/");
	if ((*name)[len] != ':')
		return 0;
	snprintf(why, sizeof(why), "the protocol '%.*s' is not supported",
		 (int)(len < 32 ? len : 32), *name);
	return refuse(n, role, *name, why, e);
}

/* Beside the image that names it; symlinks resolved. */
static int resolve(const struct blk_node *n, enum blk_role role,
		   const char *name, char **path, struct blk_error *e)
{
	const char *image = image_file(n)->path;
	const char *slash = strrchr(image, '/');
	char *joined blk_auto_free = NULL;
	int err;

	if (*name == '/' || !slash)
		joined = strdup(name);
	else if (asprintf(&joined, "%.*s%s", (int)(slash - image) + 1, image,
			  name) < 0)
		joined = NULL;
	if (!joined)
		return no_memory(e);
	*path = realpath(joined, NULL);
	if (*path)
		return 0;
	err = errno;
	return blk_error_set(e, err == ENOENT || err == ENOTDIR ?
			     BLK_ERR_NOT_FOUND : BLK_ERR_FAILED, err,
			     "the %s '%s' of '%s' cannot be opened: %s",
			     what(role), joined, image, strerror(err));
}

static int find_driver(const struct blk_node *n, enum blk_role role,
		       const char *path, const char **driver,
		       struct blk_error *e)
{
	struct stat st;

	*driver = "file";
	if (stat(path, &st))
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "the %s '%s' of '%s' cannot be opened: %s",
				     what(role), path, image_file(n)->path,
				     strerror(errno));
	if (S_ISREG(st.st_mode))
		return 0;
	*driver = "host_device";
	if (S_ISBLK(st.st_mode))
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			     "the %s '%s' of '%s' is neither a regular file nor a block device",
			     what(role), path, image_file(n)->path);
}

/* The header's word on the format, and nothing else. */
static int find_format(const struct blk_node *n, const char **format,
		       struct blk_error *e)
{
	const char *image = image_file(n)->path;
	const char *name = blk_qcow2_backing_file(n->image);
	const struct blk_driver *drv;

	*format = blk_qcow2_backing_format(n->image);
	if (!*format) {
		blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			      "the header of '%s' does not say which format its backing file '%.160s' has",
			      image, name);
		blk_error_hint(e, "qemu-img rebase -u -F FORMAT -b %.80s %.80s",
			       name, image);
		return -EINVAL;
	}
	drv = blk_driver_find(*format);
	if (drv && !drv->protocol)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
		      "the backing file '%.160s' of '%s' has the format '%.40s', which is not supported",
		      name, image, *format);
	blk_error_hint(e, "formats of backing files are qcow2 and raw");
	return -ENOTSUP;
}

/*
 * Nodes
 */

static struct blk_node *new_named(const struct blk_node *parent,
				  const char *driver, bool read_only)
{
	struct blk_node *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	n->graph = parent->graph;
	n->drv = blk_driver_find(driver);
	n->implicit = true;
	n->read_only = read_only;
	n->parents = 1;
	n->locks = 1U << BLK_ROLE_FILE;
	n->opts.allow_external = parent->opts.allow_external;
	n->opts.lazy_refcounts = -1;
	return n;
}

static int new_nodes(const struct blk_node *parent, const char *format,
		     const char *driver, char *path, bool read_only,
		     struct blk_node **out, struct blk_error *e)
{
	struct blk_node *file = new_named(parent, driver, read_only);
	struct blk_node *n = format ? new_named(parent, format, read_only) :
		file;

	if (!n || !file) {
		free(n);
		if (file != n)
			free(file);
		free(path);
		return no_memory(e);
	}
	file->opts.filename = path;
	if (format)
		n->child = file;
	*out = n;
	return 0;
}

int blk_named_child(struct blk_node *n, enum blk_role role,
		    struct blk_node **out, struct blk_error *e)
{
	const char *format = NULL, *driver, *name;
	char *path = NULL;
	int ret = 0;

	*out = NULL;
	name = role == BLK_ROLE_DATA ? blk_qcow2_data_file(n->image) :
		blk_qcow2_backing_file(n->image);
	if (!name)
		return 0;
	if (role == BLK_ROLE_BACKING)
		ret = find_format(n, &format, e);
	if (!ret)
		ret = check_prefix(n, role, &name, e);
	if (!ret)
		ret = resolve(n, role, name, &path, e);
	if (!ret)
		ret = check_policy(n, role, path, e);
	if (!ret)
		ret = find_driver(n, role, path, &driver, e);
	if (ret) {
		free(path);
		return ret;
	}
	return new_nodes(n, format, driver, path,
			 role == BLK_ROLE_BACKING || n->read_only, out, e);
}
