// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * L1 and L2 tables in memory, for reading.
 *
 * Owns: blk_img.l1, and a bounded number of L2 tables; the one that was not
 * used for the longest time makes room.  Entries are judged when they are
 * used.  Locking: the caller holds blk_img.lock, also while a table is read:
 * those who wait would want the same one more often than not.
 */
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fmt/remap.h"
#include "img/img_int.h"

#define CACHE_BYTES	(8U << 20)
#define CACHE_MIN	4U
#define CACHE_MAX	128U

int img_io_error(const struct blk_file *f, int err, const char *what,
		 struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, -err, "cannot %s '%s': %s",
			     what, f->path, strerror(-err));
}

static int load_l1(struct blk_img *m, uint64_t at, struct blk_error *e)
{
	size_t bytes = ((size_t)m->l1_n * 8 + 4095) & ~4095UL;
	uint32_t i;
	int rc;

	if (!bytes)
		return 0;
	if (posix_memalign((void **)&m->l1, 4096, bytes)) {
		m->l1 = NULL;
		return img_no_memory(e);
	}
	rc = blk_file_read(m->file, m->l1, (size_t)m->l1_n * 8, at);
	if (rc)
		return img_io_error(m->file, rc, "read the L1 table of", e);
	for (i = 0; i < m->l1_n; i++)
		m->l1[i] = be64toh(m->l1[i]);
	return 0;
}

int img_table_open(struct blk_img *m, uint64_t l1_at, uint32_t n,
		   struct blk_error *e)
{
	size_t want = CACHE_BYTES / m->cs;

	img_table_close(m);
	m->l1_n = n;
	want = want < CACHE_MIN ? CACHE_MIN : want > CACHE_MAX ? CACHE_MAX :
		want;
	m->table = calloc(want, sizeof(*m->table));
	if (!m->table)
		return img_no_memory(e);
	m->n_tables = want;
	return load_l1(m, l1_at, e);
}

void img_table_close(struct blk_img *m)
{
	size_t i;

	for (i = 0; i < m->n_tables; i++)
		free(m->table[i].data);
	free(m->table);
	free(m->l1);
	m->table = NULL;
	m->n_tables = 0;
	m->l1 = NULL;
}

void img_table_forget(struct blk_img *m)
{
	size_t i;

	for (i = 0; i < m->n_tables; i++)
		m->table[i].at = 0;
}

static struct img_table *find(struct blk_img *m, uint64_t at)
{
	struct img_table *old = &m->table[0];
	size_t i;

	for (i = 0; i < m->n_tables; i++) {
		struct img_table *t = &m->table[i];

		if (t->at == at)
			return t;
		if (t->used < old->used)
			old = t;
	}
	old->at = 0;
	return old;
}

static int load(struct blk_img *m, struct img_table *t, uint64_t at,
		struct blk_error *e)
{
	int rc;

	if (!t->data && posix_memalign((void **)&t->data, 4096,
				       m->cs < 4096 ? 4096 : m->cs)) {
		t->data = NULL;
		return img_no_memory(e);
	}
	rc = blk_file_read(m->file, t->data, m->cs, at);
	if (rc)
		return img_io_error(m->file, rc, "read an L2 table of", e);
	t->at = at;
	return 0;
}

int img_table_get(struct blk_img *m, uint64_t off, const uint8_t **out,
		  struct blk_error *e)
{
	uint64_t index = off >> qcow2_l2_span_bits(&m->h), at;
	struct img_table *t;
	const char *why;
	int rc;

	*out = NULL;
	at = index < m->l1_n ? m->l1[index] : 0;
	if (m->remap)
		*out = blk_remap_peek(m->remap, off, &at);
	if (*out)
		return 0;
	why = qcow2_l1_check(at, m->h.cluster_bits, UINT64_MAX);
	if (why)
		return blk_error_set(e, BLK_ERR_FAILED, EUCLEAN,
				     "'%s' is damaged: %s", m->file->path,
				     why);
	at &= QCOW2_OFFSET_MASK;
	if (!at)
		return 0;
	t = find(m, at);
	t->used = ++m->clock;
	rc = t->at ? 0 : load(m, t, at, e);
	*out = rc ? NULL : t->data;
	return rc;
}
