// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The bitmap directory.  Pure: no I/O, no memory, no state, no locking; no
 * length in it is trusted.  What QEMU refuses is refused here.
 */
#include "qcow2/bitmap.h"

#include "base/be.h"

#define MAX_TABLE_ENTRIES	0x8000000U
#define MAX_DATA_BYTES		(512ULL << 20)
#define TYPE_DIRTY_TRACKING	1
#define MIN_GRANULARITY_BITS	9
#define MAX_GRANULARITY_BITS	31
#define TABLE_RESERVED		0xff000000000001feULL
#define TABLE_ALL_ONES		1ULL

static const char *check_entry(const struct qcow2_header *h,
			       const struct blk_bitmap *b)
{
	uint64_t bits, need;

	if (b->type != TYPE_DIRTY_TRACKING)
		return "a bitmap is of unknown type";
	if (b->granularity_bits < MIN_GRANULARITY_BITS ||
	    b->granularity_bits > MAX_GRANULARITY_BITS)
		return "a bitmap's granularity is out of range (9..31)";
	if (b->flags & ~(BLK_BITMAP_IN_USE | BLK_BITMAP_AUTO))
		return "a bitmap has unknown flags";
	if (!b->table_size || b->table_size > MAX_TABLE_ENTRIES ||
	    !qcow2_table_ok(h, b->table_offset, (uint64_t)b->table_size * 8))
		return "a bitmap's table is out of range";
	if ((uint64_t)b->table_size << h->cluster_bits >
	    MAX_DATA_BYTES + qcow2_cluster_size(h))
		return "a bitmap is too large";
	if (b->flags & BLK_BITMAP_IN_USE)
		return NULL;	/* inconsistent anyway: its size may be old */
	bits = (h->size >> b->granularity_bits) +
		!!(h->size & ((1ULL << b->granularity_bits) - 1));
	need = (bits + 7) / 8;
	need = (need >> h->cluster_bits) +
		!!(need & (qcow2_cluster_size(h) - 1));
	if (b->table_size != need)
		return "a bitmap's table does not fit the disk size";
	return NULL;
}

const char *blk_bitmap_parse(const void *buf, size_t len,
			     const struct qcow2_header *h,
			     struct blk_bitmap *out)
{
	const uint8_t *p = buf;
	uint32_t extra;
	size_t need;

	if (len < BLK_BITMAP_FIXED_BYTES)
		return "the bitmap directory is cut off";
	out->table_offset = blk_get_be64(p);
	out->table_size = blk_get_be32(p + 8);
	out->flags = blk_get_be32(p + 12);
	out->type = p[16];
	out->granularity_bits = p[17];
	out->name_len = blk_get_be16(p + 18);
	extra = blk_get_be32(p + 20);
	if (extra)
		return "a bitmap has extra data";
	if (!out->name_len || out->name_len > BLK_BITMAP_MAX_NAME)
		return "a bitmap's name is too long or empty";
	need = BLK_BITMAP_FIXED_BYTES + out->name_len;
	out->bytes = blk_align_up(need, 8);
	if (len < out->bytes)
		return "the bitmap directory is cut off";
	out->name = (const char *)p + BLK_BITMAP_FIXED_BYTES;
	return check_entry(h, out);
}

const char *blk_bitmap_table_check(uint64_t entry,
				   const struct qcow2_header *h,
				   uint64_t *offset)
{
	*offset = entry & QCOW2_OFFSET_MASK;
	if (entry & TABLE_RESERVED)
		return "reserved bits of a bitmap table entry are set";
	if (*offset & (qcow2_cluster_size(h) - 1))
		return "a bitmap's data cluster is not aligned";
	if (*offset && entry & TABLE_ALL_ONES)
		return "reserved bits of a bitmap table entry are set";
	return NULL;
}
