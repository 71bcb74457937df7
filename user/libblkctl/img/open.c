// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening an image with all that hangs on it: data file, key, the images below.
 *
 * Owns: struct blk_img; that a chain ends and does not lead back into itself.
 * The images below are only read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "img/img_int.h"
#include "io/lock.h"

#define CHAIN_MAX 256

/**
 * struct opener - what is the same for all images of a chain
 * @top: the first; its chain is searched for loops
 */
struct opener {
	unsigned int flags;
	const struct blk_secrets *secrets;
	struct blk_img *top;
	unsigned int depth;
};

static int open_node(struct opener *o, const struct img_node *n,
		     unsigned int flags, struct blk_img **slot,
		     struct blk_error *e);

static void free_img(struct blk_img *m)
{
	if (!m)
		return;
	free_img(m->backing);
	img_table_close(m);
	blk_luks_free(m->key);
	blk_codec_deflate_free(m->deflate);
	if (m->q)
		blk_qcow2_close(m->q);
	blk_file_close(m->data);
	blk_file_close(m->file);
	pthread_mutex_destroy(&m->lock);
	free(m->name);
	free(m);
}

static int open_file(const char *path, unsigned int flags,
		     struct blk_file **out, struct blk_error *e)
{
	unsigned int how = BLK_FILE_BUFFERED_OK |
		(flags & BLK_IMG_WRITE ? BLK_FILE_WRITE : 0) |
		(flags & BLK_IMG_BUFFERED ? BLK_FILE_BUFFERED : 0);
	int rc = blk_file_open(path, how, out, e);

	if (rc || flags & BLK_IMG_NO_LOCK)
		return rc;
	return blk_lock_offline((*out)->fd, (*out)->path, flags & BLK_IMG_WRITE,
			      e);
}

static int check_loop(const struct opener *o, const struct blk_img *m,
		      struct blk_error *e)
{
	const struct blk_img *up;

	for (up = o->top; up && up != m; up = up->backing)
		if (blk_file_same(up->file, m->file))
			return blk_error_set(e, BLK_ERR_FAILED, ELOOP,
					     "the chain of images leads back to '%s'",
					     m->file->path);
	return 0;
}

/*
 * raw
 */

static int open_raw(struct blk_img *m, struct blk_error *e)
{
	int64_t size = blk_file_size(m->file);

	if (size < 0)
		return img_io_error(m->file, (int)size, "find the size of", e);
	m->size = ((uint64_t)size + 511) & ~511ULL;
	return 0;
}

static bool has_magic(const struct blk_file *f)
{
	uint8_t magic[4] = { 0 };

	return !blk_file_read((struct blk_file *)f, magic, sizeof(magic), 0) &&
		!memcmp(magic, "QFI\xfb", 4);
}

/*
 * qcow2
 */

static int open_key(const struct opener *o, struct blk_img *m,
		    const char *id, struct blk_error *e)
{
	const struct blk_secret *s = id && o->secrets ?
		blk_secrets_find(o->secrets, id) : NULL;
	int rc;

	if (!m->h.crypt_method || (!id && m->flags & BLK_IMG_NO_DATA))
		return 0;
	if (m->h.crypt_method != QCOW2_CRYPT_LUKS)
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "'%s' is encrypted in qcow2's old way (AES), which is not supported",
				     m->file->path);
	if (id && !s)
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "No secret with id '%.80s'", id);
	if (!s) {
		blk_error_set(e, BLK_ERR_FAILED, ENOKEY,
			      "'%s' is encrypted: Parameter 'encrypt.key-secret' is required for cipher",
			      m->file->path);
		blk_error_hint(e, "--object secret,id=s,file=KEY --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=...");
		return -ENOKEY;
	}
	rc = blk_luks_unlock(m->q, s->data, s->len, &m->key, e);
	return rc ? rc : img_crypt_check(m->key, e);
}

static int open_data(const struct opener *o, struct blk_img *m,
		     const struct img_node *n, struct blk_error *e)
{
	struct img_node given = { .filename = NULL };
	const char *name = blk_qcow2_data_file(m->q);
	char *path = NULL;
	int rc = 0;

	if (!(m->h.incompatible_features & QCOW2_INCOMPAT_DATA_FILE))
		return 0;
	if (n->data)
		rc = img_node_parse(n->data, &given, e);
	if (!rc && given.filename)
		path = strdup(given.filename);
	else if (!rc && name)
		rc = img_name_resolve(m, name, &path, e);
	if (!rc && !path)
		rc = blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				   "'%s' has an external data file and does not say which: data-file.filename is required",
				   m->file->path);
	if (!rc)
		rc = open_file(path, m->flags, &m->data, e);
	free(path);
	if (rc && m->flags & BLK_IMG_NO_DATA)
		rc = 0;
	return rc;
}

/*
 * QEMU looks into the file for holes where a good part of the clusters has no
 * place there.
 */
static void find_sparse(struct blk_img *m)
{
	struct stat st;
	uint64_t all, there;

	if (m->data || fstat(m->file->fd, &st) || !S_ISREG(st.st_mode))
		return;
	all = st.st_size / m->cs;
	there = (uint64_t)st.st_blocks * 512 / m->cs;
	m->sparse = all > there &&
		all - there >= (there / 10 > 2 ? there / 10 : 2);
}

static int open_qcow2(const struct opener *o, struct blk_img *m,
		      const struct img_node *n, struct blk_error *e)
{
	int rc = blk_qcow2_open(m->file, &m->q, e);

	if (rc)
		return rc;
	m->h = *blk_qcow2_header(m->q);
	m->size = m->h.size;
	m->cs = qcow2_cluster_size(&m->h);
	m->entry = m->h.incompatible_features & QCOW2_INCOMPAT_EXTL2 ? 16 : 8;
	rc = img_table_open(m, m->h.l1_table_offset, m->h.l1_size, e);
	if (!rc)
		rc = open_key(o, m, n->secret, e);
	if (!rc)
		rc = open_data(o, m, n, e);
	if (!rc)
		find_sparse(m);
	return rc;
}

static int check_format(const struct blk_img *m, const char *format,
			struct blk_error *e)
{
	const char *name = blk_qcow2_backing_file(m->q);

	if (!format) {
		blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			      "the header of '%s' does not say which format its backing file '%.160s' has",
			      m->file->path, name);
		blk_error_hint(e, "blkctl image rebase -u -F FORMAT -b %.80s %.80s",
			       name, m->name);
		return -EINVAL;
	}
	if (!strcmp(format, "qcow2") || !strcmp(format, "raw"))
		return 0;
	return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
			     "the backing file '%.160s' of '%s' has the format '%.40s', which is not supported",
			     name, m->file->path, format);
}

static int open_backing(struct opener *o, struct blk_img *m,
			const struct img_node *n, struct blk_error *e)
{
	unsigned int flags = m->flags & ~BLK_IMG_WRITE;
	struct img_node below = { .filename = NULL };
	const char *name = blk_qcow2_backing_file(m->q);
	char *path = NULL;
	int rc = 0;

	if (n->no_backing || m->flags & BLK_IMG_NO_BACKING)
		return 0;
	if (n->backing) {
		rc = img_node_parse(n->backing, &below, e);
		return rc ? rc : open_node(o, &below, flags, &m->backing, e);
	}
	if (!name)
		return 0;
	rc = img_name_resolve(m, name, &path, e);
	if (!rc)
		rc = img_name_parse(path, false, NULL, &below, e);
	if (!rc && !below.json) {
		below.format = blk_qcow2_backing_format(m->q);
		rc = check_format(m, below.format, e);
	}
	if (!rc)
		rc = open_node(o, &below, flags, &m->backing, e);
	if (rc)
		blk_error_prefix(e, "the backing file of '%.120s'", m->name);
	free(path);
	json_decref(below.json);
	return rc;
}

static int open_node(struct opener *o, const struct img_node *n,
		     unsigned int flags, struct blk_img **slot,
		     struct blk_error *e)
{
	struct blk_img *m = calloc(1, sizeof(*m));
	int rc;

	if (!m)
		return img_no_memory(e);
	*slot = m;
	pthread_mutex_init(&m->lock, NULL);
	pthread_mutex_init(&m->write_lock, NULL);
	m->flags = flags;
	m->name = strdup(n->filename);
	if (!m->name)
		return img_no_memory(e);
	if (++o->depth > CHAIN_MAX)
		return blk_error_set(e, BLK_ERR_FAILED, E2BIG,
				     "the chain has more than %d images",
				     CHAIN_MAX);
	rc = open_file(n->filename, flags, &m->file, e);
	if (!o->top)
		o->top = m;
	if (!rc)
		rc = check_loop(o, m, e);
	if (rc)
		return rc;
	if (n->format ? strcmp(n->format, "qcow2") : !has_magic(m->file))
		return open_raw(m, e);
	rc = open_qcow2(o, m, n, e);
	return rc ? rc : open_backing(o, m, n, e);
}

int blk_img_open(const char *name, bool image_opts, const char *format,
		 unsigned int flags, const struct blk_secrets *secrets,
		 struct blk_img **out, struct blk_error *e)
{
	struct opener o = { .flags = flags, .secrets = secrets };
	struct img_node n;
	int rc = img_name_parse(name, image_opts, format, &n, e);

	*out = NULL;
	if (!rc)
		rc = open_node(&o, &n, flags, out, e);
	json_decref(n.json);
	if (rc) {
		free_img(*out);
		*out = NULL;
	}
	return rc;
}

int blk_img_close(struct blk_img *m, struct blk_error *e)
{
	int rc = 0;

	if (!m)
		return 0;
	rc = img_write_end(m, e);
	if (!rc && m->flags & BLK_IMG_WRITE && !(m->flags & BLK_IMG_UNSAFE)) {
		if (m->data)
			rc = blk_file_flush(m->data);
		if (!rc)
			rc = blk_file_flush(m->file);
		if (rc)
			img_io_error(m->file, rc, "flush", e);
	}
	free_img(m);
	return rc;
}

int blk_img_use_snapshot(struct blk_img *m, const char *tag,
			 struct blk_error *e)
{
	struct blk_qcow2_snapshot s;
	int rc;

	if (!m->q)
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "'%s' is raw: it has no snapshots",
				     m->name);
	rc = blk_qcow2_snapshot_find(m->q, tag, &s, e);
	if (rc)
		return rc;
	rc = img_table_open(m, s.l1_offset, s.l1_size, e);
	m->size = s.disk_size;
	blk_qcow2_snapshot_clear(&s);
	return rc;
}

uint64_t blk_img_size(const struct blk_img *m)
{
	return m->size;
}

const char *blk_img_format(const struct blk_img *m)
{
	return m->q ? "qcow2" : "raw";
}

const char *blk_img_name(const struct blk_img *m)
{
	return m->name;
}

struct blk_img *blk_img_backing(const struct blk_img *m)
{
	return m->backing;
}

struct blk_qcow2 *blk_img_qcow2(const struct blk_img *m)
{
	return m->q;
}

struct blk_file *blk_img_file(const struct blk_img *m)
{
	return m->file;
}

struct blk_file *blk_img_data_file(const struct blk_img *m)
{
	return m->data;
}
