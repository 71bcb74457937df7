// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Filling a fresh qcow2 image from beginning to end.
 *
 * Owns: the L2 tables, in memory until the end.  Compressed clusters share
 * clusters of the file, as far as its refcounts can say so.
 * Locking: blk_build.lock; the end is for one thread alone.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "img/build_int.h"

#define SECTOR 512U

bool blk_build_fits(const struct blk_img *m)
{
	uint32_t i;

	for (i = 0; i < m->l1_n && !m->l1[i]; i++)
		;
	return i == m->l1_n && !m->h.nb_snapshots &&
		!(m->h.autoclear_features & ~QCOW2_AUTOCLEAR_DATA_FILE_RAW) &&
		!(m->h.incompatible_features &
		  (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT));
}

int blk_build_open(struct blk_img *m, struct blk_build **out,
		   struct blk_error *e)
{
	struct blk_build *b;
	int rc;

	*out = NULL;
	if (!blk_build_fits(m))
		return blk_error_set(e, BLK_ERR_FAILED, EEXIST,
				     "'%s' is not empty", m->file->path);
	b = calloc(1, sizeof(*b));
	if (!b)
		return img_no_memory(e);
	b->m = m;
	pthread_mutex_init(&b->lock, NULL);
	b->table = calloc(m->l1_n + 1, sizeof(*b->table));
	rc = b->table ? img_counts_load(b, e) : img_no_memory(e);
	if (rc) {
		blk_build_free(b);
		return rc;
	}
	*out = b;
	return 0;
}

void blk_build_free(struct blk_build *b)
{
	uint32_t i;

	if (!b)
		return;
	for (i = 0; b->table && i < b->m->l1_n; i++)
		free(b->table[i]);
	free(b->table);
	free(b->count);
	free(b->block);
	pthread_mutex_destroy(&b->lock);
	free(b);
}

struct blk_file *blk_build_file(const struct blk_build *b)
{
	return b->m->data ? b->m->data : b->m->file;
}

void blk_build_encrypt(const struct blk_build *b, uint64_t host, void *buf,
		       size_t len)
{
	if (b->m->key)
		img_encrypt(b->m->key, host, buf, len);
}

/* A table of zeroes */
static uint64_t *new_table(const struct blk_img *m)
{
	size_t bytes = m->cs < 4096 ? 4096 : m->cs;
	void *p;

	return posix_memalign(&p, 4096, bytes) ? NULL : memset(p, 0, bytes);
}

static int set_entry(struct blk_build *b, uint64_t off, uint64_t entry,
		     uint64_t bitmap, struct blk_error *e)
{
	struct blk_img *m = b->m;
	uint64_t i = (off >> m->h.cluster_bits) & (m->cs / m->entry - 1);
	uint64_t **t = &b->table[off >> qcow2_l2_span_bits(&m->h)];

	if (!*t)
		*t = new_table(m);
	if (!*t)
		return img_no_memory(e);
	(*t)[i * m->entry / 8] = htobe64(entry);
	if (img_has_extl2(m))
		(*t)[i * 2 + 1] = htobe64(bitmap);
	return 0;
}

int blk_build_place(struct blk_build *b, uint64_t off, uint64_t n,
		    uint64_t *host, struct blk_error *e)
{
	uint64_t i;
	int rc = 0;

	pthread_mutex_lock(&b->lock);
	/* in a data file everything is where it is on the disk */
	*host = off;
	if (!b->m->data)
		rc = img_counts_new(b, n, host, e);
	for (i = 0; !rc && i < n; i++)
		rc = set_entry(b, off + i * b->m->cs,
			       (*host + i * b->m->cs) | QCOW2_ENTRY_COPIED,
			       QCOW2_EXTL2_ALL_ALLOC, e);
	pthread_mutex_unlock(&b->lock);
	return rc;
}

/* Room for @size bytes of compressed data behind what is there already */
static int find_room(struct blk_build *b, size_t size, struct blk_error *e)
{
	uint64_t cs = b->m->cs, fresh, need;
	bool partly = b->pack_at < b->pack_end &&
		img_counts_more(b, b->pack_at / cs);
	int rc;

	if (partly && b->pack_end - b->pack_at >= size)
		return 0;
	need = (size - (partly ? b->pack_end - b->pack_at : 0) + cs - 1) / cs;
	if (partly && b->pack_end != b->end * cs) {
		/* the next cluster is taken: the rest of this one is lost */
		b->count[b->pack_at / cs]--;
		partly = false;
		need = (size + cs - 1) / cs;
	}
	rc = img_counts_new(b, need, &fresh, e);
	if (rc)
		return rc;
	if (!partly)
		b->pack_at = fresh;
	b->pack_end = fresh + need * cs;
	return 0;
}

int blk_build_pack(struct blk_build *b, uint64_t off, size_t size,
		   uint64_t *host, struct blk_error *e)
{
	uint32_t bits = b->m->h.cluster_bits;
	uint64_t sectors;
	int rc;

	if (b->m->data)
		return blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				     "an image with a data file has no compressed clusters");
	pthread_mutex_lock(&b->lock);
	rc = find_room(b, size, e);
	*host = b->pack_at;
	b->pack_at += size;
	sectors = (*host + size - 1) / SECTOR - *host / SECTOR;
	if (!rc)
		rc = set_entry(b, off, QCOW2_L2_COMPRESSED | *host |
			       sectors << qcow2_compressed_shift(bits), 0, e);
	pthread_mutex_unlock(&b->lock);
	return rc;
}

int blk_build_zero(struct blk_build *b, uint64_t off, uint64_t n,
		   struct blk_error *e)
{
	bool ext = img_has_extl2(b->m);
	uint64_t i;
	int rc = 0;

	if (b->m->h.version < 3)
		return blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				     "version 2 has no clusters of zeroes");
	pthread_mutex_lock(&b->lock);
	for (i = 0; !rc && i < n; i++)
		rc = set_entry(b, off + i * b->m->cs, ext ? 0 : QCOW2_L2_ZERO,
			       QCOW2_EXTL2_ALL_ZERO, e);
	pthread_mutex_unlock(&b->lock);
	return rc;
}

static int write_tables(struct blk_build *b, struct blk_error *e)
{
	struct blk_img *m = b->m;
	uint32_t i;
	int rc = 0;

	for (i = 0; !rc && i < m->l1_n; i++) {
		uint64_t at;

		if (!b->table[i])
			continue;
		rc = img_counts_new(b, 1, &at, e);
		if (rc)
			return rc;
		m->l1[i] = at | QCOW2_ENTRY_COPIED;
		rc = blk_file_write(m->file, b->table[i], m->cs, at);
	}
	return rc ? img_io_error(m->file, rc, "write L2 tables of", e) : 0;
}

static int write_l1(struct blk_img *m, struct blk_error *e)
{
	uint32_t i;
	int rc;

	if (!m->l1_n)
		return 0;
	for (i = 0; i < m->l1_n; i++)
		m->l1[i] = htobe64(m->l1[i]);
	rc = blk_file_write(m->file, m->l1, (size_t)m->l1_n * 8,
			    m->h.l1_table_offset);
	for (i = 0; i < m->l1_n; i++)
		m->l1[i] = be64toh(m->l1[i]);
	return rc ? img_io_error(m->file, rc, "write the L1 table of", e) : 0;
}

int blk_build_end(struct blk_build *b, struct blk_error *e)
{
	struct blk_file *f = b->m->file;
	int rc = write_tables(b, e);

	if (!rc)
		rc = write_l1(b->m, e);
	if (!rc)
		rc = img_counts_store(b, e);
	if (rc || f->is_bdev)
		return rc;
	/* the last cluster is a whole one */
	rc = blk_file_truncate(f, b->end * b->m->cs);
	return rc ? img_io_error(f, rc, "set the size of", e) : 0;
}
