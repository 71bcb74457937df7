/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Entries of the snapshot table.  Pure.
 */
#ifndef BLK_QCOW2_SNAPSHOT_H
#define BLK_QCOW2_SNAPSHOT_H

#include <stddef.h>
#include <stdint.h>

#include <linux/qcow2_disk.h>

#define BLK_SNAP_FIXED_BYTES	40U
#define BLK_SNAP_MAX_EXTRA	1024U
/* the longest entry that is accepted, with padding */
#define BLK_SNAP_MAX_BYTES	(BLK_SNAP_FIXED_BYTES + BLK_SNAP_MAX_EXTRA + \
				 2 * 65535U + 8)
#define BLK_SNAP_MAX_TABLE	(64U << 20)

/**
 * struct blk_snap - one entry; id and name point into the table, unterminated
 * @disk_size: UINT64_MAX: the entry does not say
 * @vm_state_size: the 64-bit field where there is one
 * @icount: UINT64_MAX: none
 * @bytes: from this entry to the next
 */
struct blk_snap {
	uint64_t l1_offset;
	uint32_t l1_size;
	uint16_t id_len;
	uint16_t name_len;
	uint32_t date_sec;
	uint32_t date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t vm_state_size;
	uint64_t disk_size;
	uint64_t icount;
	uint32_t extra_len;
	const char *id;
	const char *name;
	size_t bytes;
};

/**
 * blk_snap_parse - one entry
 * @buf, @len: the table from this entry on; BLK_SNAP_MAX_BYTES are enough
 * Return: NULL, or a sentence fragment: also when the entry is cut off.
 */
const char *blk_snap_parse(const void *buf, size_t len,
			   const struct qcow2_header *h, struct blk_snap *out);

#endif
