// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Who holds an image that a verb could not lock: the daemon is asked, then
 * sysfs, for devices that have no daemon.  A process is named by the error
 * already.
 *
 * Owns how files are compared with what nodes name.  Must not change anything;
 * what cannot be asked is not known, and no error.
 */
#include "image/held.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "device.h"

static bool same_file(const char *path, const struct blk_held *f)
{
	struct stat st;

	if (!path || stat(path, &st))
		return false;
	if (S_ISBLK(st.st_mode) && f->rdev)
		return st.st_rdev == f->rdev;
	return st.st_dev == f->dev && st.st_ino == f->ino;
}

/*
 * The daemon
 */

static const char *str(const json_t *o, const char *key)
{
	return json_string_value(json_object_get(o, key));
}

static json_t *node_named(const json_t *nodes, const char *name)
{
	json_t *n;
	size_t i;

	json_array_foreach(nodes, i, n)
		if (name && str(n, "node-name") &&
		    !strcmp(str(n, "node-name"), name))
			return n;
	return NULL;
}

static bool is_protocol(const json_t *node)
{
	const char *driver = str(node, "drv");

	return !driver || !strcmp(driver, "file") ||
		!strcmp(driver, "host_device");
}

/* A format's node rather than that of its file */
static const json_t *node_of_file(const json_t *nodes,
				  const struct blk_held *f)
{
	const json_t *found = NULL;
	json_t *n;
	size_t i;

	json_array_foreach(nodes, i, n) {
		if (!same_file(str(n, "file"), f))
			continue;
		if (!is_protocol(n))
			return n;
		found = n;
	}
	return found;
}

/* Is @name the node @from, or below it?  @depth: against nonsense */
static bool reaches(const json_t *nodes, const char *from, const char *name,
		    int depth)
{
	json_t *children = json_object_get(node_named(nodes, from), "children");
	json_t *c;
	size_t i;

	if (!from || depth > 1000)
		return false;
	if (!strcmp(from, name))
		return true;
	json_array_foreach(children, i, c)
		if (reaches(nodes, str(c, "node-name"), name, depth + 1))
			return true;
	return false;
}

static bool is_below(const json_t *nodes, const char *name)
{
	json_t *n, *c;
	size_t i, k;

	json_array_foreach(nodes, i, n)
		json_array_foreach(json_object_get(n, "children"), k, c)
			if (str(c, "child") && str(c, "node-name") &&
			    !strcmp(str(c, "child"), "backing") &&
			    !strcmp(str(c, "node-name"), name))
				return true;
	return false;
}

static void find_device(struct image_held *h)
{
	json_t *d;
	size_t i;

	json_array_foreach(h->devices, i, d) {
		const char *top = str(d, "node-name");

		if (!str(d, "name") || !reaches(h->nodes, top, h->node, 0))
			continue;
		h->device = str(d, "name");
		h->top = top;
		/* its own device, if there is one */
		if (!strcmp(top, h->node))
			return;
	}
}

bool image_held_find(const struct image_run *r, const struct blk_error *e,
		     struct image_held *h)
{
	const json_t *node;

	*h = (struct image_held){ .client = NULL };
	if (client_open(r->cli->socket, &h->client, NULL) ||
	    client_call(h->client, "query-named-block-nodes",
			json_pack("{s:b}", "flat", 1), &h->nodes, NULL))
		return false;
	device_list(h->client, &h->devices, NULL);	/* needs the module */
	node = node_of_file(h->nodes, &e->held);
	if (!node || !str(node, "node-name"))
		return false;
	h->node = str(node, "node-name");
	h->driver = str(node, "drv") ? str(node, "drv") : "";
	h->size = (uint64_t)json_integer_value(json_object_get(
			json_object_get(node, "image"), "virtual-size"));
	h->below = is_below(h->nodes, h->node);
	find_device(h);
	return true;
}

void image_held_free(struct image_held *h)
{
	json_decref(h->nodes);
	json_decref(h->devices);
	client_close(h->client);
	*h = (struct image_held){ .client = NULL };
}

/*
 * sysfs
 */

/* The first line of a file, false if there is none */
static bool read_line(const char *path, char *buf, size_t len)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(buf, (int)len, f);

	if (f)
		fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

/* The first device on top of the one of that folder of sysfs */
static bool holder_of(const char *folder, char *name, size_t len)
{
	char path[PATH_MAX], kname[64] = "";
	struct dirent *d;
	DIR *dir;

	snprintf(path, sizeof(path), "%s/holders", folder);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!*kname && (d = readdir(dir)))
		if (*d->d_name != '.')
			snprintf(kname, sizeof(kname), "%.60s", d->d_name);
	closedir(dir);
	if (!*kname)
		return false;
	snprintf(path, sizeof(path), "/sys/block/%s/dm/name", kname);
	if (!read_line(path, name, len))
		snprintf(name, len, "%s", kname);
	return true;
}

static bool loop_holder(const struct blk_held *f, char *name, size_t len)
{
	DIR *dir = opendir("/sys/block");
	char path[PATH_MAX], file[PATH_MAX];
	bool found = false;
	struct dirent *d;

	while (dir && !found && (d = readdir(dir))) {
		if (strncmp(d->d_name, "loop", 4))
			continue;
		snprintf(path, sizeof(path), "/sys/block/%.64s/loop/backing_file",
			 d->d_name);
		if (!read_line(path, file, sizeof(file)) || !same_file(file, f))
			continue;
		snprintf(path, sizeof(path), "/sys/block/%.64s", d->d_name);
		found = true;
		if (!holder_of(path, name, len))
			snprintf(name, len, "%.64s", d->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static bool kernel_holder(const struct blk_held *f, char *name, size_t len)
{
	char path[64];

	if (!f->rdev)
		return loop_holder(f, name, len);
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(f->rdev),
		 minor(f->rdev));
	return holder_of(path, name, len);
}

/*
 * In words
 */

static bool can_share(const struct image_run *r, const struct blk_error *e)
{
	const struct opt *o;

	if (e->held.writing)
		return false;
	for (o = r->cli->verb->opts; o && o->name; o++)
		if (o->letter == 'U')
			return true;
	return false;
}

static void say_daemon(const struct image_run *r, const struct image_held *h,
		       struct blk_error *e)
{
	const char *share = can_share(r, e) ? ", or -U to read it as it is" : "";
	struct blk_held held = e->held;

	if (!h->device) {
		blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			      "'%s' is in use by blkctld, as node '%s'",
			      held.path, h->node);
		blk_error_hint(e, "blkctl qmp blockdev-del '{\"node-name\": \"%.40s\"}'%s",
			       h->node, share);
		return;
	}
	if (!strcmp(h->top, h->node))
		blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			      "'%s' is in use by device '%.100s' (node '%s')",
			      held.path, h->device, h->node);
	else
		blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			      "'%s' is in use by device '%.100s', whose node '%s' has it below (node '%s')",
			      held.path, h->device, h->top, h->node);
	blk_error_hint(e, "blkctl remove %.100s%s", h->device, share);
}

static void say_kernel(const char *name, struct blk_error *e)
{
	struct blk_held held = e->held;

	blk_error_set(e, BLK_ERR_BUSY, EBUSY,
		      "'%s' is in use by the kernel's device '%.100s'",
		      held.path, name);
	blk_error_hint(e, "if it is one of blkctl's: systemctl start blkctld, then blkctl remove %.100s",
		       name);
}

void image_held_explain(const struct image_run *r, struct blk_error *e)
{
	struct image_held h;
	char name[128];

	if (!image_is_held(e))
		return;
	if (image_held_find(r, e, &h))
		say_daemon(r, &h, e);
	else if (kernel_holder(&e->held, name, sizeof(name)))
		say_kernel(name, e);
	else if (can_share(r, e))
		blk_error_hint(e, "end the program that uses the image, or -U to read it as it is");
	image_held_free(&h);
}
