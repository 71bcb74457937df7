// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The layers of an attachment: what each must be like, the loop devices under
 * their files, the table line, the files that the kernel holds.
 *
 * Owns: the loop and crypt devices; the files and images too when they were adopted.
 * Must not: write to any layer but the first, nor to that of a reader, except
 * for padding the end of a file, which reads the same to everybody.
 * Threads: that of the procedure.
 *
 * Readers of one file share a loop device, and so the kernel's cache of its
 * tables: also overlays that have a base in common.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/be.h"
#include "io/lock.h"
#include "kctl/attachment.h"
#include "kctl/holders.h"

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

int blk_layers_alloc(struct blk_attachment *a, size_t n, struct blk_error *e)
{
	size_t i;

	if (!n || n > DM_QCOW_MAX_LAYERS)
		return blk_error_set(e, BLK_ERR_FAILED, E2BIG,
				     "a chain of %zu images: a device can have 1 to %d",
				     n, DM_QCOW_MAX_LAYERS);
	a->layers = calloc(n, sizeof(*a->layers));
	if (!a->layers)
		return no_memory(e);
	a->n_layers = n;
	for (i = 0; i < n; i++)
		a->layers[i].loop.fd = a->layers[i].data_loop.fd = -1;
	return 0;
}

/* The shortcuts to layer 0. */
static void set_top(struct blk_attachment *a)
{
	a->file = a->layers[0].is.file;
	a->image = a->layers[0].is.image;
	if (a->image)
		a->cluster_bits = blk_qcow2_header(a->image)->cluster_bits;
}

int blk_layers_copy(struct blk_attachment *a,
		    const struct blk_attach_params *p, struct blk_error *e)
{
	size_t i;
	int ret = blk_layers_alloc(a, p->n_layers, e);

	if (ret)
		return ret;
	for (i = 0; i < p->n_layers; i++)
		a->layers[i].is = p->layers[i];
	set_top(a);
	return 0;
}

/*
 * Checks
 */

static bool is_written(const struct blk_attachment *a, size_t i)
{
	return a->writable && !i;
}

static int check_qcow2(const struct blk_attachment *a, size_t i,
		       struct blk_error *e)
{
	const struct blk_attach_layer *l = &a->layers[i].is;
	uint64_t cluster = qcow2_cluster_size(blk_qcow2_header(l->image));
	int ret;

	ret = blk_qcow2_can_attach(l->image, is_written(a, i), e);
	if (ret)
		return ret;
	if (is_written(a, i) && !(l->file->writable &&
				  (!l->data || l->data->writable)))
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "%s is open read-only",
				     l->file->writable ? l->data->path :
				     l->file->path);
	if (l->file->align <= cluster)
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			     "the clusters of %s (%llu bytes) are smaller than a block of the device that it is on (%zu bytes)",
			     l->file->path, (unsigned long long)cluster,
			     l->file->align);
}

static int check_data(const struct blk_attach_layer *l, struct blk_error *e)
{
	const struct qcow2_header *h = blk_qcow2_header(l->image);
	bool wanted = h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE;

	if (wanted == !!l->data)
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			     wanted ? "the data file of %s is missing" :
			     "%s has no external data file", l->file->path);
}

static bool is_encrypted(const struct blk_attach_layer *l)
{
	return l->image &&
		blk_qcow2_header(l->image)->crypt_method == QCOW2_CRYPT_LUKS;
}

static int check_key(const struct blk_attach_layer *l, struct blk_error *e)
{
	if (!is_encrypted(l))
		return 0;
	if (l->data)
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "%s is encrypted and has an external data file, which is not supported together",
				     l->file->path);
	if (l->key)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, ENOKEY,
		      "%s is encrypted, and its key is not known any more",
		      l->file->path);
	blk_error_hint(e, "remove its node and add it again, with its passphrase");
	return -ENOKEY;
}

int blk_layers_check(const struct blk_attachment *a, struct blk_error *e)
{
	const struct blk_attach_layer *l;
	size_t i;
	int ret = 0;

	for (i = 0; i < a->n_layers && !ret; i++) {
		l = &a->layers[i].is;
		if (l->image) {
			ret = check_qcow2(a, i, e);
			ret = ret ? ret : check_data(l, e);
			ret = ret ? ret : check_key(l, e);
		} else if (i && i == a->n_layers - 1) {
			ret = blk_file_check_sectors(l->file, e);
		} else {
			ret = blk_error_set(e, BLK_ERR_FAILED, EINVAL,
					    "%s is raw: only the last image of a chain can be",
					    l->file->path);
		}
	}
	return ret;
}

uint64_t blk_layers_backing_size(const struct blk_attachment *a)
{
	const struct blk_attach_layer *l;
	int64_t size;

	if (a->n_layers < 2)
		return 0;
	l = &a->layers[1].is;
	if (l->image)
		return blk_qcow2_header(l->image)->size;
	size = blk_file_size(l->file);
	return size < 0 ? 0 : size;
}

/*
 * External data files
 */

/* What a loop device can show: whole clusters, so that the last can be filled */
static uint64_t data_room(const struct blk_layer *l, uint64_t size)
{
	uint64_t unit = qcow2_cluster_size(blk_qcow2_header(l->is.image));

	return blk_align_up(size, BLK_MAX(unit, l->is.data->block));
}

static int too_small(const struct blk_file *f, uint64_t have, uint64_t want,
		     struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
			     "the data file %s has %llu bytes, and %llu are needed",
			     f->path, (unsigned long long)have,
			     (unsigned long long)want);
}

int blk_layers_grow_data(struct blk_attachment *a, uint64_t size,
			 struct blk_error *e)
{
	struct blk_layer *l = &a->layers[0];
	struct blk_file *f = l->is.data;
	uint64_t room;
	int64_t have;
	int ret;

	if (!f)
		return 0;
	have = blk_file_size(f);
	if (have < 0)
		return blk_error_set(e, BLK_ERR_FAILED, (int)-have,
				     "cannot find the size of %s: %s", f->path,
				     strerror((int)-have));
	room = data_room(l, size);
	if (f->is_bdev)
		return (uint64_t)have < size ? too_small(f, have, size, e) : 0;
	if ((uint64_t)have >= room)
		return 0;
	ret = blk_file_truncate(f, room);
	if (!ret)
		ret = blk_file_flush(f);
	if (ret)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "cannot make %s larger: %s", f->path,
				     strerror(-ret));
	if (!l->data_size)
		l->data_size = have;
	return l->data_loop.fd < 0 ? 0 :
		blk_loop_set_capacity(&l->data_loop, e);
}

/* Best effort: a data file that is too long is no harm. */
static void cut(struct blk_layer *l, uint64_t size)
{
	struct blk_file *f = l->is.data;

	if (f->is_bdev || blk_file_size(f) <= (int64_t)size ||
	    blk_file_truncate(f, size))
		return;
	if (l->data_loop.fd >= 0)
		blk_loop_set_capacity(&l->data_loop, NULL);
}

void blk_layers_trim_data(struct blk_attachment *a, uint64_t size)
{
	struct blk_layer *l = &a->layers[0];
	uint64_t want = BLK_MAX(l->data_size, size);

	if (!l->data_size || !l->is.data || want >= data_room(l, size))
		return;
	cut(l, want);
}

void blk_layers_cut_data(struct blk_attachment *a, uint64_t size)
{
	struct blk_layer *l = &a->layers[0];

	if (!l->is.data || !blk_qcow2_data_file_raw(l->is.image))
		return;
	l->data_size = size;	/* where trimming ends */
	cut(l, data_room(l, size));
}

/* A reader's file stays as it is: all of it must be there. */
static int check_data_size(const struct blk_attach_layer *l,
			   struct blk_error *e)
{
	int64_t size = blk_file_size(l->data);

	if (size >= 0 && !(size & 511))
		return 0;
	if (size >= 0 && (uint64_t)size >= blk_qcow2_header(l->image)->size)
		return 0;
	return blk_file_check_sectors(l->data, e);
}

/*
 * Loop devices
 */

/* Nothing of an earlier buffered user may be written later. */
static int drop_buffers(const struct blk_file *f, struct blk_error *e)
{
	if (!ioctl(f->fd, BLKFLSBUF, 0) || errno == EACCES)
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, errno,
			     "cannot flush the buffers of %s: %s", f->path,
			     strerror(errno));
}

static int loop_up(const struct blk_file *f, bool written,
		   struct blk_loop *loop, struct blk_error *e)
{
	if (f->is_bdev)
		return drop_buffers(f, e);
	if (!written && blk_loop_share(f->fd, loop) == 1)
		return 0;
	return blk_loop_attach(f->fd, f->path, !written, f->align, loop, e);
}

/* As device-mapper numbers it: the file's own, or its loop device. */
static int device_of(const struct blk_file *f, const struct blk_loop *loop,
		     uint64_t *dev)
{
	struct stat st;

	*dev = loop->dev;
	if (!f->is_bdev)
		return 0;
	if (fstat(f->fd, &st))
		return -errno;
	*dev = DM_QCOW_DEV(major(st.st_rdev), minor(st.st_rdev));
	return 0;
}

static int device_error(const struct blk_file *f, int err, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, -err, "%s: %s", f->path,
			     strerror(-err));
}

static int crypt_up(struct blk_attachment *a, size_t i, struct blk_error *e)
{
	struct blk_layer *l = &a->layers[i];
	char name[BLK_CRYPT_NAME_MAX];
	uint64_t dev;
	int ret;

	if (!is_encrypted(&l->is))
		return 0;
	ret = device_of(l->is.file, &l->loop, &dev);
	if (ret)
		return device_error(l->is.file, ret, e);
	ret = blk_crypt_name(a->name, i, name, e);
	if (!ret)
		ret = blk_crypt_up(name, dev, l->is.key, !is_written(a, i),
				   &l->crypt, e);
	l->is.key = NULL;	/* the caller's, and perhaps gone soon */
	return ret;
}

static int layer_up(struct blk_attachment *a, size_t i, struct blk_error *e)
{
	struct blk_layer *l = &a->layers[i];
	bool written = is_written(a, i);
	int ret;

	ret = l->is.image ? blk_qcow2_pad(l->is.image, written, e) : 0;
	if (!ret)
		ret = loop_up(l->is.file, written, &l->loop, e);
	if (!ret)
		ret = crypt_up(a, i, e);
	if (ret || !l->is.data)
		return ret;
	ret = written ? blk_layers_grow_data(a, a->size, e) :
		check_data_size(&l->is, e);
	return ret ? ret : loop_up(l->is.data, written, &l->data_loop, e);
}

int blk_layers_up(struct blk_attachment *a, struct blk_error *e)
{
	size_t i;
	int ret = 0;

	for (i = 0; i < a->n_layers && !ret; i++)
		ret = layer_up(a, i, e);
	if (ret)
		blk_layers_remove(a);
	if (ret && a->writable)
		blk_layers_trim_data(a, a->size);
	return ret;
}

void blk_layers_remove(struct blk_attachment *a)
{
	size_t i;

	/* one that stays is in nobody's way: the next of its name replaces it */
	for (i = 0; i < a->n_layers; i++)
		blk_crypt_down(&a->layers[i].crypt, NULL);
	blk_layers_down(a);
}

void blk_layers_down(struct blk_attachment *a)
{
	size_t i;

	for (i = 0; i < a->n_layers; i++) {
		blk_loop_close(&a->layers[i].loop);
		blk_loop_close(&a->layers[i].data_loop);
	}
}

void blk_layers_settle(struct blk_attachment *a)
{
	size_t i;

	for (i = 0; i < a->n_layers; i++)
		blk_crypt_settle(&a->layers[i].crypt);
	/* those of layer 0 are for growing */
	for (i = a->writable; i < a->n_layers; i++) {
		blk_loop_close(&a->layers[i].loop);
		blk_loop_close(&a->layers[i].data_loop);
	}
}

void blk_layers_drop_buffers(const struct blk_attachment *a)
{
	size_t i;

	for (i = 0; i < a->n_layers; i++) {
		const struct blk_attach_layer *l = &a->layers[i].is;

		if (l->file && l->file->is_bdev)
			ioctl(l->file->fd, BLKFLSBUF, 0);
		if (l->data && l->data->is_bdev)
			ioctl(l->data->fd, BLKFLSBUF, 0);
	}
}

/*
 * The table line
 */

static void print_number(FILE *out, uint64_t dev)
{
	fprintf(out, " %u:%u", (unsigned int)(dev >> 32), (uint32_t)dev);
}

static int print_device(FILE *out, const struct blk_file *f,
			const struct blk_loop *loop, struct blk_error *e)
{
	uint64_t dev;
	int ret = device_of(f, loop, &dev);

	if (ret)
		return device_error(f, ret, e);
	print_number(out, dev);
	return 0;
}

static int print_layer(FILE *out, const struct blk_layer *l,
		       struct blk_error *e)
{
	int ret;

	fputs(l->is.image ? " qcow2" : " raw", out);
	ret = print_device(out, l->is.file, &l->loop, e);
	if (ret || !l->is.image)
		return ret;
	if (l->is.data)
		return print_device(out, l->is.data, &l->data_loop, e);
	if (blk_crypt_is_up(&l->crypt))
		print_number(out, l->crypt.dev);
	else
		fputs(" -", out);
	return 0;
}

int blk_layers_table(const struct blk_attachment *a, char **table,
		     struct blk_error *e)
{
	size_t i, room;
	int ret = 0;
	FILE *out;

	*table = NULL;
	out = open_memstream(table, &room);
	if (!out)
		return no_memory(e);
	fprintf(out, "%zu", a->n_layers);
	for (i = 0; i < a->n_layers && !ret; i++)
		ret = print_layer(out, &a->layers[i], e);
	if (fclose(out) && !ret)
		ret = no_memory(e);
	if (ret) {
		free(*table);
		*table = NULL;
	}
	return ret;
}

int blk_layers_busy(const struct blk_attachment *a, struct blk_error *e)
{
	const struct blk_layer *l = &a->layers[0];
	struct blk_holders h = { .count = 0 };
	uint64_t dev;
	size_t i;

	for (i = 0; i < a->n_layers && !h.count; i++) {
		l = &a->layers[i];
		if (!device_of(l->is.file, &l->loop, &dev))
			blk_holders_find(dev, &h);
	}
	if (!h.count)
		l = &a->layers[0];
	return blk_error_set(e, BLK_ERR_BUSY, EBUSY, "%s is in use%s%s",
			     l->is.file->path, h.count ? ": " : "", h.text);
}

/*
 * Files in the kernel's hands
 */

int blk_layers_hold(struct blk_attachment *a, struct blk_error *e)
{
	size_t i;
	int ret = 0;

	for (i = 0; i < a->n_layers && !ret; i++) {
		const struct blk_attach_layer *l = &a->layers[i].is;

		ret = blk_genl_hold_file(a->genl, a->dev, a->session, i, 0,
					 l->file->fd, e);
		if (!ret && l->data)
			ret = blk_genl_hold_file(a->genl, a->dev, a->session,
						 i, DM_QCOW_FILE_DATA,
						 l->data->fd, e);
	}
	return ret;
}

static int get_file(struct blk_attachment *a, size_t i, uint32_t flags,
		    struct blk_file **out, struct blk_error *e)
{
	char link[64], path[4096];
	ssize_t n;
	int fd, ret;

	ret = blk_genl_get_file(a->genl, a->dev, a->session, i, flags, &fd, e);
	if (ret)
		return ret;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	ret = blk_file_from_fd(fd, path, out, e);
	if (ret)
		close(fd);
	return ret;
}

/* One word of the table, or NULL: it is not what it should be. */
static char *word(char **save)
{
	return strtok_r(NULL, " ", save);
}

static bool parse_device(const char *text, struct blk_loop *loop)
{
	unsigned int major, minor;

	if (!text || sscanf(text, "%u:%u", &major, &minor) != 2)
		return false;
	loop->dev = DM_QCOW_DEV(major, minor);
	return true;
}

static int misunderstood(const struct blk_attachment *a, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EPROTO,
			     "device \"%s\" has a table that is not understood",
			     a->name);
}

/* The device of our making that decrypts the layer's. */
static int adopt_crypt(struct blk_attachment *a, struct blk_layer *l,
		       const char *data, struct blk_error *e)
{
	struct blk_loop number;
	int ret;

	if (!parse_device(data, &number))
		return misunderstood(a, e);
	ret = blk_crypt_adopt(number.dev, &l->crypt, e);
	return ret == -ENODEV ? misunderstood(a, e) : ret;
}

/* Opens the images of one layer; @data: the table's word, NULL if raw. */
static int adopt_layer(struct blk_attachment *a, size_t i, const char *data,
		       struct blk_error *e)
{
	struct blk_layer *l = &a->layers[i];
	const struct qcow2_header *h;
	int ret;

	ret = get_file(a, i, 0, &l->is.file, e);
	if (!ret && data)
		ret = blk_qcow2_open(l->is.file, &l->is.image, e);
	if (ret || !data || !strcmp(data, "-"))
		return ret;
	h = blk_qcow2_header(l->is.image);
	if (h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) {
		if (!parse_device(data, &l->data_loop))
			return misunderstood(a, e);
		return get_file(a, i, DM_QCOW_FILE_DATA, &l->is.data, e);
	}
	return adopt_crypt(a, l, data, e);
}

/* Growing needs them; those of the others the table keeps. */
static int open_loops(struct blk_attachment *a, struct blk_error *e)
{
	struct blk_layer *l = &a->layers[0];
	int ret = 0;

	if (!a->writable)
		return 0;
	if (!l->is.file->is_bdev)
		ret = blk_loop_open(l->loop.dev, &l->loop, e);
	if (!ret && l->is.data && !l->is.data->is_bdev)
		ret = blk_loop_open(l->data_loop.dev, &l->data_loop, e);
	return ret;
}

/* "2 qcow2 7:0 - raw 8:16 ..." */
static int adopt_table(struct blk_attachment *a, char *table,
		       struct blk_error *e)
{
	char *save = NULL, *n = strtok_r(table, " ", &save), *kind, *data;
	size_t i;
	int ret;

	ret = blk_layers_alloc(a, n ? strtoul(n, NULL, 10) : 0, e);
	for (i = 0; i < a->n_layers && !ret; i++) {
		kind = word(&save);
		if (!kind || !parse_device(word(&save), &a->layers[i].loop))
			return misunderstood(a, e);
		data = !strcmp(kind, "qcow2") ? word(&save) : NULL;
		if (!data && strcmp(kind, "raw"))
			return misunderstood(a, e);
		ret = adopt_layer(a, i, data, e);
	}
	if (!ret && !a->layers[0].is.image)
		ret = misunderstood(a, e);
	return ret;
}

int blk_layers_adopt(struct blk_attachment *a, const char *table,
		     struct blk_error *e)
{
	char *copy = strdup(table);
	int ret = copy ? adopt_table(a, copy, e) : no_memory(e);

	free(copy);
	a->own = true;
	if (ret)
		return ret;
	set_top(a);
	return open_loops(a, e);
}

static void disown_file(struct blk_file **f, bool unlock)
{
	/* a loop device that udev still looks at would keep the locks */
	if (*f && unlock)
		blk_unlock_image((*f)->fd);
	blk_file_close(*f);
	*f = NULL;
}

void blk_layers_disown(struct blk_attachment *a, bool unlock)
{
	size_t i;

	if (a->image)
		blk_qcow2_set_ops(a->image, NULL, NULL);
	for (i = 0; i < a->n_layers && a->own; i++) {
		struct blk_attach_layer *l = &a->layers[i].is;
		bool others = unlock && !a->share_locks;

		if (l->image)
			blk_qcow2_close(l->image);
		l->image = NULL;
		disown_file(&l->file, i || !a->writable ? others : unlock);
		disown_file(&l->data, others);
	}
	if (a->own) {
		a->file = NULL;
		a->image = NULL;
	}
}
