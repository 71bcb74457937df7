// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Refcounts of an image that is being filled.
 *
 * Owns: the counts in memory, and at the end the refcount blocks and the table.
 * What the fresh image had is kept where it is; a table that is too small moves
 * to the end, and its old place is free.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "img/build_int.h"
#include "qcow2/refcount.h"

#define COUNT_MAX	65535U	/* of uint16_t */

#define HEADER_TABLE_OFFSET	48U
#define HEADER_TABLE_CLUSTERS	56U

static uint32_t order_of(const struct blk_build *b)
{
	return b->m->h.refcount_order;
}

static uint64_t per_block(const struct blk_build *b)
{
	return 1ULL << blk_refcount_block_bits(b->m->h.cluster_bits,
					       order_of(b));
}

static int make_room(struct blk_build *b, uint64_t n, struct blk_error *e)
{
	uint64_t room = b->room * 2 > n ? b->room * 2 : n + 1024;
	uint16_t *v;

	if (n <= b->room)
		return 0;
	v = realloc(b->count, room * sizeof(*v));
	if (!v)
		return img_no_memory(e);
	memset(v + b->room, 0, (room - b->room) * sizeof(*v));
	b->count = v;
	b->room = room;
	return 0;
}

int img_counts_new(struct blk_build *b, uint64_t n, uint64_t *at,
		   struct blk_error *e)
{
	int rc = make_room(b, b->end + n, e);
	uint64_t i;

	if (rc)
		return rc;
	for (i = 0; i < n; i++)
		b->count[b->end + i] = 1;
	*at = b->end * b->m->cs;
	b->end += n;
	return 0;
}

bool img_counts_more(struct blk_build *b, uint64_t cluster)
{
	uint64_t max = blk_refcount_max(order_of(b));

	if (b->count[cluster] >= max || b->count[cluster] == COUNT_MAX)
		return false;
	b->count[cluster]++;
	return true;
}

static int load_block(struct blk_build *b, uint64_t index, void *buf,
		      struct blk_error *e)
{
	uint64_t n = per_block(b), i, v;
	int rc = blk_file_read(b->m->file, buf, b->m->cs, b->block[index]);

	if (rc)
		return img_io_error(b->m->file, rc, "read refcounts of", e);
	for (i = 0; !rc && i < n; i++) {
		v = blk_refcount_get(buf, order_of(b), i);
		if (!v)
			continue;
		rc = make_room(b, index * n + i + 1, e);
		if (rc)
			break;
		b->count[index * n + i] = v < COUNT_MAX ? v : COUNT_MAX;
		b->end = index * n + i + 1;
	}
	return rc;
}

int img_counts_load(struct blk_build *b, struct blk_error *e)
{
	const struct qcow2_header *h = &b->m->h;
	void *buf blk_auto_free = malloc(b->m->cs);
	uint64_t i;
	int rc;

	b->table_at = h->refcount_table_offset;
	b->table_bytes = h->refcount_table_clusters * b->m->cs;
	b->n_blocks = b->table_bytes / 8;
	b->block = malloc(b->table_bytes);
	if (!b->block || !buf)
		return img_no_memory(e);
	rc = blk_file_read(b->m->file, b->block, b->table_bytes, b->table_at);
	if (rc)
		return img_io_error(b->m->file, rc, "read refcounts of", e);
	for (i = 0; !rc && i < b->n_blocks; i++) {
		b->block[i] = blk_get_be64(&b->block[i]) &
			QCOW2_REFTABLE_OFFSET_MASK;
		if (b->block[i])
			rc = load_block(b, i, buf, e);
	}
	return rc;
}

/* A block for every cluster, those of the new blocks included */
static int place_blocks(struct blk_build *b, struct blk_error *e)
{
	uint64_t i, n;
	int rc = 0;

	for (i = 0; !rc && i < blk_div_up(b->end, per_block(b)); i++) {
		if (i >= b->n_blocks) {
			uint64_t *v = realloc(b->block, 2 * (i + 1) * 8);

			if (!v)
				return img_no_memory(e);
			n = 2 * (i + 1);
			memset(v + b->n_blocks, 0, (n - b->n_blocks) * 8);
			b->block = v;
			b->n_blocks = n;
		}
		if (!b->block[i])
			rc = img_counts_new(b, 1, &b->block[i], e);
	}
	return rc;
}

static int place_table(struct blk_build *b, struct blk_error *e)
{
	uint64_t cs = b->m->cs, n = blk_div_up(b->end, per_block(b)), i;
	int rc;

	if (n * 8 <= b->table_bytes)
		return 0;
	for (i = 0; i < b->table_bytes / cs; i++)
		b->count[b->table_at / cs + i] = 0;
	/* its own clusters may need one more block */
	n = blk_div_up((n + 2) * 8, cs);
	if (n * cs > QCOW2_MAX_REFTABLE_BYTES)
		return blk_error_set(e, BLK_ERR_FAILED, EFBIG,
				     "'%s' becomes too large for its clusters",
				     b->m->file->path);
	rc = img_counts_new(b, n, &b->table_at, e);
	b->table_bytes = n * cs;
	return rc ? rc : -EAGAIN;
}

static int write_block(struct blk_build *b, uint64_t index, void *buf)
{
	uint64_t n = per_block(b), i;

	memset(buf, 0, b->m->cs);
	for (i = 0; i < n && index * n + i < b->end; i++)
		if (b->count[index * n + i])
			blk_refcount_set(buf, order_of(b), i,
					 b->count[index * n + i]);
	return blk_file_write(b->m->file, buf, b->m->cs, b->block[index]);
}

static int write_table(struct blk_build *b, uint64_t n)
{
	uint8_t *buf blk_auto_free = calloc(1, b->table_bytes);
	uint8_t head[12];
	uint64_t i;
	int rc;

	if (!buf)
		return -ENOMEM;
	for (i = 0; i < n; i++)
		blk_put_be64(buf + i * 8, b->block[i]);
	rc = blk_file_write(b->m->file, buf, b->table_bytes, b->table_at);
	if (rc || b->table_at == b->m->h.refcount_table_offset)
		return rc;
	blk_put_be64(head, b->table_at);
	blk_put_be32(head + HEADER_TABLE_CLUSTERS - HEADER_TABLE_OFFSET,
		     b->table_bytes / b->m->cs);
	return blk_file_write(b->m->file, head, sizeof(head),
			      HEADER_TABLE_OFFSET);
}

int img_counts_store(struct blk_build *b, struct blk_error *e)
{
	void *buf blk_auto_free = NULL;
	uint64_t i, n;
	int rc;

	do {
		rc = place_blocks(b, e);
		if (!rc)
			rc = place_table(b, e);
	} while (rc == -EAGAIN);
	if (rc)
		return rc;
	if (posix_memalign(&buf, 4096, b->m->cs < 4096 ? 4096 : b->m->cs)) {
		buf = NULL;
		return img_no_memory(e);
	}
	n = blk_div_up(b->end, per_block(b));
	for (i = 0; !rc && i < n; i++)
		rc = write_block(b, i, buf);
	if (!rc)
		rc = write_table(b, n);
	return rc ? img_io_error(b->m->file, rc, "write refcounts of", e) : 0;
}
