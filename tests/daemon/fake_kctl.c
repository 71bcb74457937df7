// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A kernel for tests of the daemon: kctl's interface over files in $FAKE_DIR.
 * Devices outlive the daemon, as real ones do.
 *
 * Owns: dev-NAME: JSON, a device with its minor, label, image, mode and state.
 * What a test makes: fail-NAME: attaching and adopting fail; hang-NAME: they
 * and detaching wait until it is gone; busy-NAME: detaching fails;
 * warn-NAME: it succeeds with a complaint; notify-NAME: bits that the
 * attachment's thread reports once; events: a FIFO of "MINOR BITS" lines.
 * Threads: as real attachments: one each.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "io/lock.h"
#include "kctl/attach.h"
#include "kctl/dm.h"

#define MAJOR 253

struct blk_attachment {
	char name[128];
	uint64_t dev;
	bool writable;
	bool own;
	struct blk_file *file;
	struct blk_qcow2 *image;
	void (*notify)(void *opaque, unsigned int what);
	void *opaque;
	pthread_t thread;
	atomic_bool stop;
};

struct blk_genl {
	int fd;
};

static void path_of(char *out, const char *kind, const char *name)
{
	snprintf(out, 512, "%s/%s%s", getenv("FAKE_DIR"), kind, name);
}

static bool exists(const char *kind, const char *name)
{
	char path[512];

	path_of(path, kind, name);
	return !access(path, F_OK);
}

static json_t *load(const char *name)
{
	char path[512];

	path_of(path, "dev-", name);
	return json_load_file(path, 0, NULL);
}

static void hang(const char *name)
{
	while (exists("hang-", name))
		usleep(5000);
}

/*
 * The attachment's thread
 */

static void *watch(void *arg)
{
	struct blk_attachment *a = arg;
	char path[512];
	unsigned int what;
	FILE *f;

	path_of(path, "notify-", a->name);
	while (!atomic_load(&a->stop)) {
		usleep(2000);
		f = fopen(path, "r");
		if (!f)
			continue;
		if (fscanf(f, "%u", &what) != 1)
			what = 0;
		fclose(f);
		unlink(path);
		if (what)
			a->notify(a->opaque, what);
		if (what & BLK_ATTACH_GONE)
			break;
	}
	return NULL;
}

static void start(struct blk_attachment *a)
{
	pthread_create(&a->thread, NULL, watch, a);
}

static void end(struct blk_attachment *a, bool unlock)
{
	atomic_store(&a->stop, true);
	pthread_join(a->thread, NULL);
	if (a->own) {
		blk_qcow2_close(a->image);
		if (unlock)
			blk_unlock_image(a->file->fd);
		blk_file_close(a->file);
	}
	free(a);
}

/*
 * kctl/attach.h
 */

int blk_attach(const struct blk_attach_params *p, struct blk_attachment **out,
	       struct blk_error *e)
{
	static atomic_uint minors;
	struct blk_attachment *a;
	char path[512];
	json_t *o;

	hang(p->name);
	if (exists("fail-", p->name))
		return blk_error_set(e, BLK_ERR_FAILED, EIO, "told to fail");
	if (exists("dev-", p->name))
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "device \"%s\" exists", p->name);
	a = calloc(1, sizeof(*a));
	snprintf(a->name, sizeof(a->name), "%s", p->name);
	a->dev = DM_QCOW_DEV(MAJOR, atomic_fetch_add(&minors, 1) +
			     (unsigned int)getpid() % 1000 * 1000);
	a->writable = p->writable;
	a->file = p->file;
	a->image = p->image;
	a->notify = p->notify;
	a->opaque = p->opaque;
	o = json_pack("{s:I, s:s, s:s, s:b, s:b, s:i, s:i}", "minor",
		      (json_int_t)(uint32_t)a->dev, "label", p->label, "path",
		      p->file->path, "file-writable", p->file->writable,
		      "writable", p->writable, "mode", 0, "state",
		      p->writable ? (int)DM_QCOW_STATE_WRITABLE : 0);
	path_of(path, "dev-", a->name);
	json_dump_file(o, path, 0);
	json_decref(o);
	start(a);
	*out = a;
	return 0;
}

int blk_attach_adopt(uint64_t dev,
		     void (*notify)(void *opaque, unsigned int what),
		     void *opaque, struct blk_attachment **out, char **label,
		     struct blk_error *e)
{
	struct blk_attachment *a = calloc(1, sizeof(*a));
	struct blk_kdev k;
	int writable, file_writable, ret;
	const char *path;
	json_t *o;

	ret = blk_genl_get(NULL, dev, 0, &k, e);
	if (!ret) {
		hang(k.name);
		if (exists("fail-", k.name))
			ret = blk_error_set(e, BLK_ERR_FAILED, EIO,
					    "told to fail");
	}
	if (ret) {
		free(a);
		return ret;
	}
	o = load(k.name);
	json_unpack(o, "{s:s, s:b, s:b}", "path", &path, "writable", &writable,
		    "file-writable", &file_writable);
	snprintf(a->name, sizeof(a->name), "%s", k.name);
	a->dev = dev;
	a->writable = writable;
	a->own = true;
	a->notify = notify;
	a->opaque = opaque;
	ret = blk_file_open(path, file_writable ? BLK_FILE_WRITE : 0, &a->file,
			    e);
	if (!ret)
		ret = blk_lock_image(a->file->fd, path, file_writable, e);
	if (!ret)
		ret = blk_qcow2_open(a->file, &a->image, e);
	json_decref(o);
	*label = strdup(k.label);
	start(a);
	*out = a;
	return ret;
}

int blk_detach(struct blk_attachment *a, struct blk_error *e)
{
	bool warn = exists("warn-", a->name);
	char path[512];

	hang(a->name);
	if (exists("busy-", a->name))
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "device \"%s\" is in use", a->name);
	path_of(path, "dev-", a->name);
	unlink(path);
	end(a, true);
	if (warn)
		blk_error_set(e, BLK_ERR_FAILED, EIO, "told to complain");
	return 0;
}

void blk_attach_abandon(struct blk_attachment *a)
{
	end(a, false);
}

void blk_attach_forget(struct blk_attachment *a)
{
	end(a, true);
}

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

/*
 * kctl/genl.h, kctl/dm.h
 */

int blk_genl_open(struct blk_genl **out, struct blk_error *e)
{
	if (exists("no-module", ""))
		return blk_error_set(e, BLK_ERR_UNAVAILABLE, ENOENT,
				     "no module");
	*out = calloc(1, sizeof(**out));
	(*out)->fd = -1;
	return 0;
}

int blk_genl_events_open(struct blk_genl **out, struct blk_error *e)
{
	char path[512];
	int ret = blk_genl_open(out, e);

	if (ret)
		return ret;
	path_of(path, "events", "");
	mkfifo(path, 0600);
	(*out)->fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	return 0;
}

void blk_genl_close(struct blk_genl *g)
{
	if (g && g->fd >= 0)
		close(g->fd);
	free(g);
}

int blk_genl_fd(const struct blk_genl *g)
{
	return g->fd;
}

int blk_genl_events_read(struct blk_genl *g,
			 void (*cb)(void *opaque, uint64_t dev,
				    uint32_t events),
			 void *opaque)
{
	char buf[4096], *line, *save = NULL;
	unsigned int minor, bits;
	ssize_t n;

	n = read(g->fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return 0;
	buf[n] = '\0';
	for (line = strtok_r(buf, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		if (!strcmp(line, "lost"))
			return -ENOBUFS;
		if (sscanf(line, "%u %u", &minor, &bits) == 2)
			cb(opaque, DM_QCOW_DEV(MAJOR, minor), bits);
	}
	return 0;
}

static void fill(struct blk_kdev *k, const char *name, const json_t *o)
{
	const char *label = "";
	int mode = 0, state = 0;
	json_int_t minor = 0;

	memset(k, 0, sizeof(*k));
	json_unpack((json_t *)o, "{s:I, s:s, s:i, s:i}", "minor", &minor,
		    "label", &label, "mode", &mode, "state", &state);
	k->dev = DM_QCOW_DEV(MAJOR, minor);
	snprintf(k->name, sizeof(k->name), "%s", name);
	snprintf(k->label, sizeof(k->label), "%s", label);
	k->mode = mode;
	k->state = state;
	k->cluster_bits = 16;
	k->granted = UINT64_MAX;
	k->stats.read_mapped = 7;
	k->stats.io_errors = 8;
}

int blk_genl_list(struct blk_genl *g, struct blk_kdev **list, size_t *n,
		  struct blk_error *e)
{
	DIR *dir = opendir(getenv("FAKE_DIR"));
	struct dirent *d;
	json_t *o;

	*list = calloc(100, sizeof(**list));
	*n = 0;
	while (dir && (d = readdir(dir)) && *n < 100) {
		if (strncmp(d->d_name, "dev-", 4) ||
		    !(o = load(d->d_name + 4)))
			continue;
		fill(&(*list)[(*n)++], d->d_name + 4, o);
		json_decref(o);
	}
	if (dir)
		closedir(dir);
	return 0;
}

int blk_genl_get(struct blk_genl *g, uint64_t dev, uint64_t session,
		 struct blk_kdev *out, struct blk_error *e)
{
	struct blk_kdev *list;
	size_t i, n;

	blk_genl_list(g, &list, &n, e);
	for (i = 0; i < n && list[i].dev != dev; i++)
		;
	if (i < n)
		*out = list[i];
	free(list);
	return i < n ? 0 : blk_error_set(e, BLK_ERR_NOT_FOUND, ENODEV,
					 "no such device");
}

int blk_dm_check_name(const char *name, struct blk_error *e)
{
	if (*name && !strchr(name, '/') && strlen(name) < 128)
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "not a device name");
}
