// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How large a file becomes, before it is made.
 *
 * Nothing but arithmetic, and a walk over the extents of an image.
 */
#include <errno.h>

#include "base/be.h"
#include "img/measure.h"

#define L1_ENTRY	8U
#define REFTABLE_ENTRY	8U
#define MIN_EXTENDED	16384U	/* bytes of a cluster with extended entries */

#define LUKS_SECTOR	512U
#define LUKS_ALIGN	8U	/* sectors */
#define LUKS_SLOTS	8U
#define LUKS_STRIPES	4000U

static uint64_t up(uint64_t a, uint64_t unit)
{
	return blk_div_up(a, unit) * unit;
}

/*
 * Clusters of refcounts for @n others, and for themselves: each round counts
 * what the one before has added.
 */
static uint64_t refcount_clusters(const struct blk_measure *m, uint64_t n)
{
	uint64_t per_block = m->cluster_size * 8 / m->refcount_bits;
	uint64_t per_table = m->cluster_size / REFTABLE_ENTRY;
	uint64_t all = 0, last;

	do {
		uint64_t blocks;

		last = all;
		blocks = blk_div_up(n + last, per_block);
		all = blocks + blk_div_up(blocks, per_table);
	} while (all != last);
	return all;
}

static int check(const struct blk_measure *m, uint64_t size,
		 struct blk_error *e)
{
	uint64_t l2_entry = m->extended_l2 ? 16 : 8;
	uint64_t c = m->cluster_size, tables;

	if (c < 1U << QCOW2_MIN_CLUSTER_BITS ||
	    c > 1U << QCOW2_MAX_CLUSTER_BITS || c & (c - 1))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "the cluster size must be a power of two from 512 to 2M");
	if (m->extended_l2 && c < MIN_EXTENDED)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "extended L2 entries need clusters of at least 16k");
	if (size > INT64_MAX - c)
		return blk_error_set(e, BLK_ERR_USAGE, EFBIG,
				     "no image is that large");
	tables = blk_div_up(size / c, c / l2_entry);
	if (tables * L1_ENTRY <= QCOW2_MAX_L1_BYTES)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EFBIG,
		      "the disk is too large for this cluster size");
	blk_error_hint(e, "larger clusters: -o cluster_size=2M");
	return -EFBIG;
}

int blk_measure_qcow2(const struct blk_measure *m, uint64_t size,
		      uint64_t *out, struct blk_error *e)
{
	uint64_t l2_entry = m->extended_l2 ? 16 : 8, c = m->cluster_size;
	uint64_t data, l2, l1, n;
	int rc = check(m, size, e);

	if (rc)
		return rc;
	data = blk_div_up(size, c);
	l2 = blk_div_up(data, c / l2_entry);
	l1 = blk_div_up(l2, c / L1_ENTRY);
	n = 1 + l1 + l2 + data;
	n += refcount_clusters(m, n);
	*out = n * c + up(m->header_bytes, c);
	return 0;
}

int blk_measure_data(struct blk_img *src, uint64_t cluster_size,
		     int (*stop)(struct blk_error *e), uint64_t *out,
		     struct blk_error *e)
{
	uint64_t off = 0, end, size = blk_img_size(src);
	int rc = 0;

	for (*out = 0; !rc && off < size; off = end) {
		struct blk_extent x;

		rc = stop ? stop(e) : 0;
		if (!rc)
			rc = blk_img_map(src, off, size - off, &x, e);
		if (rc)
			break;
		end = off + x.len;
		if (x.kind != BLK_EXT_DATA && x.kind != BLK_EXT_COMPRESSED)
			continue;
		end = up(end, cluster_size);
		*out += end - off / cluster_size * cluster_size;
	}
	return rc;
}

uint64_t blk_measure_luks(unsigned int key_bytes)
{
	uint64_t slot = blk_div_up((uint64_t)key_bytes * LUKS_STRIPES, LUKS_SECTOR);

	return LUKS_SECTOR * (LUKS_ALIGN + LUKS_SLOTS * up(slot, LUKS_ALIGN));
}
