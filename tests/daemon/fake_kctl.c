// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A kernel for tests of the daemon: kctl's interface over files in $FAKE_DIR.
 * Devices outlive the daemon, as real ones do.
 *
 * Owns: dev-NAME: JSON, a device with its minor, label, image, mode and state.
 * What a test makes: fail-NAME: attaching and adopting fail; hang-NAME: they
 * and detaching wait until it is gone; busy-NAME: detaching fails;
 * small-NAME: resizing fails; warn-NAME: detaching succeeds with a complaint;
 * notify-NAME: bits that the
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
#include "kctl/crypt.h"
#include "kctl/dm.h"

#define MAJOR 253

struct blk_attachment {
	char name[128];
	uint64_t dev;
	bool writable;
	bool own, share_locks;
	uint64_t size;
	struct blk_attach_layer layers[DM_QCOW_MAX_LAYERS];
	size_t n_layers;
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

static void end_file(struct blk_file *f, bool unlock)
{
	if (f && unlock)
		blk_unlock_image(f->fd);
	blk_file_close(f);
}

static void disown(struct blk_attachment *a, bool unlock)
{
	bool others = unlock && !a->share_locks;
	size_t i;

	for (i = 0; i < a->n_layers && a->own; i++) {
		if (a->layers[i].image)
			blk_qcow2_close(a->layers[i].image);
		end_file(a->layers[i].file,
			 i || !a->writable ? others : unlock);
		end_file(a->layers[i].data, others);
	}
}

static void end(struct blk_attachment *a, bool unlock)
{
	atomic_store(&a->stop, true);
	pthread_join(a->thread, NULL);
	disown(a, unlock);
	free(a);
}

/*
 * kctl/attach.h
 */

static json_t *layers_json(const struct blk_attach_params *p)
{
	json_t *list = json_array(), *o;
	size_t i;

	for (i = 0; i < p->n_layers; i++) {
		const struct blk_attach_layer *l = &p->layers[i];

		o = json_pack("{s:s, s:b, s:b}", "path", l->file->path,
			      "writable", l->file->writable, "raw", !l->image);
		if (l->data)
			json_object_set_new(o, "data",
					    json_string(l->data->path));
		json_array_append_new(list, o);
	}
	return list;
}

static int find_size(const struct blk_attach_params *p, uint64_t *size,
		     struct blk_error *e)
{
	struct blk_qcow2_snapshot s = { .id = NULL };
	int ret;

	*size = blk_qcow2_header(p->layers[0].image)->size;
	if (!p->snapshot)
		return 0;
	ret = blk_qcow2_snapshot_find(p->layers[0].image, p->snapshot, &s, e);
	if (!ret)
		*size = s.disk_size;
	blk_qcow2_snapshot_clear(&s);
	return ret;
}

int blk_attach(const struct blk_attach_params *p, struct blk_attachment **out,
	       struct blk_error *e)
{
	static atomic_uint minors;
	struct blk_attachment *a;
	char path[512];
	uint64_t size;
	json_t *o;

	hang(p->name);
	if (exists("fail-", p->name) || find_size(p, &size, e))
		return blk_error_set(e, BLK_ERR_FAILED, EIO, "told to fail");
	if (exists("dev-", p->name))
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "device \"%s\" exists", p->name);
	a = calloc(1, sizeof(*a));
	snprintf(a->name, sizeof(a->name), "%s", p->name);
	a->dev = DM_QCOW_DEV(MAJOR, atomic_fetch_add(&minors, 1) +
			     (unsigned int)getpid() % 1000 * 1000);
	a->writable = p->writable;
	a->size = size;
	a->n_layers = p->n_layers;
	memcpy(a->layers, p->layers, p->n_layers * sizeof(*p->layers));
	a->notify = p->notify;
	a->opaque = p->opaque;
	o = json_pack("{s:I, s:s, s:o, s:b, s:b, s:I, s:i, s:i}", "minor",
		      (json_int_t)(uint32_t)a->dev, "label", p->label,
		      "layers", layers_json(p), "writable", p->writable,
		      "invalidate", p->invalidate_bitmaps, "size",
		      (json_int_t)size, "mode", 0, "state",
		      p->writable ? (int)DM_QCOW_STATE_WRITABLE : 0);
	path_of(path, "dev-", a->name);
	json_dump_file(o, path, 0);
	json_decref(o);
	start(a);
	*out = a;
	return 0;
}

static int open_locked(const char *path, bool writable, bool write_lock,
		       struct blk_file **out, struct blk_error *e)
{
	int ret = blk_file_open(path, writable ? BLK_FILE_WRITE : 0, out, e);

	return ret ? ret : blk_lock_image((*out)->fd, path, write_lock, e);
}

/* Whoever wrote to it still holds a writer's locks. */
static int adopt_layer(struct blk_attach_layer *l, const json_t *o, bool top,
		       struct blk_error *e)
{
	const char *path = NULL, *data = NULL;
	int writable = 0, raw = 0, ret;

	json_unpack((json_t *)o, "{s:s, s:b, s:b, s?s}", "path", &path,
		    "writable", &writable, "raw", &raw, "data", &data);
	ret = open_locked(path, writable, writable && top, &l->file, e);
	if (!ret && !raw)
		ret = blk_qcow2_open(l->file, &l->image, e);
	if (!ret && data)
		ret = open_locked(data, writable, writable && top, &l->data, e);
	return ret;
}

int blk_attach_adopt(uint64_t dev,
		     void (*notify)(void *opaque, unsigned int what),
		     void *opaque, struct blk_attachment **out, char **label,
		     struct blk_error *e)
{
	struct blk_attachment *a = calloc(1, sizeof(*a));
	struct blk_kdev k;
	json_t *o, *layer;
	int writable, ret;
	json_int_t size;
	size_t i;

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
	json_unpack(o, "{s:b, s:I}", "writable", &writable, "size", &size);
	snprintf(a->name, sizeof(a->name), "%s", k.name);
	a->dev = dev;
	a->size = size;
	a->writable = writable;
	a->own = true;
	a->notify = notify;
	a->opaque = opaque;
	json_array_foreach(json_object_get(o, "layers"), i, layer) {
		a->n_layers++;
		ret = adopt_layer(&a->layers[i], layer, !i, e);
		if (ret)
			break;
	}
	json_decref(o);
	if (ret) {
		disown(a, false);
		free(a);
		return ret;
	}
	*label = strdup(k.label);
	start(a);
	*out = a;
	return 0;
}

int blk_attach_resize(struct blk_attachment *a, uint64_t size, bool shrink,
		      struct blk_error *e)
{
	char path[512];
	json_t *o;
	int ret;

	hang(a->name);
	if (exists("small-", a->name))
		return blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				     "told to be too small");
	if (size < a->size && !shrink)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "it would be smaller");
	ret = blk_qcow2_resize(a->layers[0].image, size, shrink, 0, e);
	if (ret)
		return ret;
	a->size = size;
	o = load(a->name);
	json_object_set_new(o, "size", json_integer(size));
	path_of(path, "dev-", a->name);
	json_dump_file(o, path, 0);
	json_decref(o);
	return 0;
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
	return a->layers[0].file;
}

struct blk_qcow2 *blk_attach_image(struct blk_attachment *a)
{
	return a->layers[0].image;
}

size_t blk_attach_layers(const struct blk_attachment *a)
{
	return a->n_layers;
}

void blk_attach_layer(const struct blk_attachment *a, size_t i,
		      struct blk_attach_layer *out)
{
	*out = a->layers[i];
}

uint64_t blk_attach_size(const struct blk_attachment *a)
{
	return a->size;
}

bool blk_attach_repaired(const struct blk_attachment *a)
{
	return false;
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

void blk_crypt_sweep(void)
{
}

int blk_dm_check_name(const char *name, struct blk_error *e)
{
	if (*name && !strchr(name, '/') && strlen(name) < 128)
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "not a device name");
}
