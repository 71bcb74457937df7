// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The snapshot table.  Pure: no I/O, no memory, no state, no locking; no
 * length in the table is trusted.
 */
#include "qcow2/snapshot.h"

#include "base/be.h"

static const char *check_entry(const struct qcow2_header *h,
			       const struct blk_snap *s)
{
	if (s->l1_size > QCOW2_MAX_L1_BYTES / 8)
		return "a snapshot's L1 table is too large";
	if (s->l1_size &&
	    !qcow2_table_ok(h, s->l1_offset, (uint64_t)s->l1_size * 8))
		return "a snapshot's L1 table is not at a cluster of the file";
	if (h->version >= 3 && s->extra_len < 16)
		return "a snapshot's extra data is too short";
	return NULL;
}

const char *blk_snap_parse(const void *buf, size_t len,
			   const struct qcow2_header *h, struct blk_snap *out)
{
	const uint8_t *p = buf;
	size_t need;

	if (len < BLK_SNAP_FIXED_BYTES)
		return "the snapshot table is cut off";
	out->l1_offset = blk_get_be64(p);
	out->l1_size = blk_get_be32(p + 8);
	out->id_len = blk_get_be16(p + 12);
	out->name_len = blk_get_be16(p + 14);
	out->date_sec = blk_get_be32(p + 16);
	out->date_nsec = blk_get_be32(p + 20);
	out->vm_clock_nsec = blk_get_be64(p + 24);
	out->vm_state_size = blk_get_be32(p + 32);
	out->extra_len = blk_get_be32(p + 36);
	if (out->extra_len > BLK_SNAP_MAX_EXTRA)
		return "a snapshot has too much extra data";
	need = BLK_SNAP_FIXED_BYTES + out->extra_len + out->id_len +
		out->name_len;
	if (len < need)
		return "the snapshot table is cut off";
	p += BLK_SNAP_FIXED_BYTES;
	if (out->extra_len >= 8)
		out->vm_state_size = blk_get_be64(p);
	out->disk_size = out->extra_len >= 16 ? blk_get_be64(p + 8) :
		UINT64_MAX;
	out->icount = out->extra_len >= 24 ? blk_get_be64(p + 16) : UINT64_MAX;
	out->id = (const char *)p + out->extra_len;
	out->name = out->id + out->id_len;
	out->bytes = blk_align_up(need, 8);
	return check_entry(h, out);
}
