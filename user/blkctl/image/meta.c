// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An image whose metadata alone is changed.
 *
 * Owns the locks while it is open.
 */
#include "image/meta.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "io/lock.h"

/* 1: it is */
static int has_magic(struct blk_file *f, struct blk_error *e)
{
	uint8_t magic[4];
	int ret = blk_file_read(f, magic, sizeof(magic), 0);

	if (ret < 0)
		return blk_error_set(e, BLK_ERR_FAILED, -ret,
				     "cannot read '%s': %s", f->path,
				     strerror(-ret));
	return blk_get_be32(magic) == QCOW2_MAGIC;
}

static int open_qcow2(struct meta *m, struct blk_error *e)
{
	bool repaired;
	int ret = blk_qcow2_open(m->f, &m->q, e);

	return ret || m->reads ? ret : blk_qcow2_repair(m->q, &repaired, e);
}

static int open_file(struct meta *m, const char *path, const char *format,
		     struct blk_error *e)
{
	int ret = blk_file_open(path, BLK_FILE_BUFFERED_OK |
				(m->reads ? 0 : BLK_FILE_WRITE), &m->f, e);

	if (!ret && !(m->reads && m->shares))
		ret = blk_lock_offline(m->f->fd, path, !m->reads, e);
	if (!ret)
		ret = format ? !strcmp(format, "qcow2") : has_magic(m->f, e);
	if (ret > 0)
		ret = open_qcow2(m, e);
	return ret;
}

static void close_all(struct meta *m)
{
	blk_qcow2_close(m->q);
	blk_file_close(m->data);
	blk_file_close(m->f);
	*m = (struct meta){ .name = m->name };
}

static int open_image(const struct image_run *r, const char *name,
		      struct meta *m, struct blk_error *e)
{
	const char *format = r->common->format;
	char *path blk_auto_free = NULL;
	int ret = blk_img_name_file(name, r->common->image_opts, &format,
				    &path, e);

	if (!ret)
		ret = open_file(m, path, format, e);
	if (ret < 0)
		close_all(m);
	return ret;
}

int meta_open(const struct image_run *r, const char *name, struct meta *m,
	      struct blk_error *e)
{
	*m = (struct meta){ .name = name };
	return open_image(r, name, m, e);
}

int meta_open_read(const struct image_run *r, const char *name, struct meta *m,
		   struct blk_error *e)
{
	*m = (struct meta){
		.name = name, .reads = true, .shares = r->common->share,
	};
	return open_image(r, name, m, e);
}

int meta_open_below(const struct image_run *r, const char *path,
		    const char *format, struct meta *m, struct blk_error *e)
{
	int ret;

	*m = (struct meta){
		.name = path, .reads = true, .shares = r->common->share,
	};
	ret = open_file(m, path, format, e);
	if (ret < 0)
		close_all(m);
	return ret < 0 ? ret : 0;
}

int meta_close(struct meta *m, int ret, struct blk_error *e)
{
	int rc = m->q && !m->reads ? blk_qcow2_trim(m->q, ret ? NULL : e) : 0;

	close_all(m);
	return ret ? ret : rc;
}

char *image_beside(const char *image, const char *name)
{
	const char *slash = strrchr(image, '/');
	char *out;

	if (!strncmp(name, "file:", 5))
		name += 5;
	if (*name == '/' || !slash)
		return strdup(name);
	return asprintf(&out, "%.*s/%s", (int)(slash - image), image, name) <
		0 ? NULL : out;
}

char *meta_resolve(const struct meta *m, const char *name)
{
	return image_beside(m->f->path, name);
}

int meta_open_data(struct meta *m, struct blk_error *e)
{
	const char *name = m->q ? blk_qcow2_data_file(m->q) : NULL;
	char *path blk_auto_free = NULL;
	int ret;

	if (!m->q || !(blk_qcow2_header(m->q)->incompatible_features &
		       QCOW2_INCOMPAT_DATA_FILE))
		return 0;
	if (!name)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "'%s' does not say where its data file is",
				     m->name);
	path = meta_resolve(m, name);
	if (!path)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = blk_file_open(path, BLK_FILE_WRITE | BLK_FILE_BUFFERED_OK,
			    &m->data, e);
	return ret ? ret : blk_lock_offline(m->data->fd, path, true, e);
}

static int size_of_file(const struct blk_file *f, uint64_t *size,
			struct blk_error *e)
{
	int64_t n = blk_file_size(f);

	if (n < 0)
		return blk_error_set(e, BLK_ERR_FAILED, (int)-n,
				     "cannot find the size of '%s': %s",
				     f->path, strerror((int)-n));
	*size = (uint64_t)n;
	return 0;
}

int meta_size(const struct meta *m, uint64_t *size, struct blk_error *e)
{
	if (!m->q)
		return size_of_file(m->f, size, e);
	*size = blk_qcow2_header(m->q)->size;
	return 0;
}

static int size_below(struct blk_file *f, const char *format, uint64_t *size,
		      struct blk_error *e)
{
	struct blk_qcow2 *q = NULL;
	int ret = format ? !strcmp(format, "qcow2") : has_magic(f, e);

	if (!ret)
		return size_of_file(f, size, e);
	if (ret > 0)
		ret = blk_qcow2_open(f, &q, e);
	if (!ret)
		*size = blk_qcow2_header(q)->size;
	blk_qcow2_close(q);
	return ret;
}

int meta_file_size(const char *path, const char *format, uint64_t *size,
		   struct blk_error *e)
{
	struct blk_file *f = NULL;
	int ret = blk_file_open(path, BLK_FILE_BUFFERED_OK, &f, e);

	if (!ret)
		ret = size_below(f, format, size, e);
	blk_file_close(f);
	return ret;
}

int meta_backing_size(const struct meta *m, uint64_t *size,
		      struct blk_error *e)
{
	const char *name = m->q ? blk_qcow2_backing_file(m->q) : NULL;
	char *path blk_auto_free = NULL;
	int ret;

	*size = 0;
	if (!name)
		return 0;
	path = meta_resolve(m, name);
	if (!path)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = meta_file_size(path, blk_qcow2_backing_format(m->q), size, e);
	if (ret < 0)
		blk_error_prefix(e, "the backing file of '%.160s'", m->name);
	return ret;
}

int meta_step_down(const struct meta *m, char **name, char **format,
		   struct blk_error *e)
{
	const char *below = m->q ? blk_qcow2_backing_file(m->q) : NULL;
	const char *f = m->q ? blk_qcow2_backing_format(m->q) : NULL;
	char *next = NULL;

	if (below && !f) {
		blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			      "'%s' does not say which format its backing file has",
			      m->name);
		blk_error_hint(e, "blkctl image rebase -u -b FILE -F FORMAT");
		return -EINVAL;
	}
	free(*format);
	*format = f ? strdup(f) : NULL;
	if (below)
		next = image_beside(m->name, below);
	free(*name);	/* which the image's own may be */
	*name = next;
	if (below && (!next || !*format))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	return 0;
}
