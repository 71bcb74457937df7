// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Table entries that are wrong, and can be made right without loss.
 *
 * Pure.  Only what no reader looks at is changed: reserved bits, COPIED of a
 * compressed cluster, the place of a cluster that reads as zeroes.
 */
#include "fmt/qcow2_audit_int.h"

uint64_t audit_right_l1(uint64_t entry)
{
	entry &= ~QCOW2_L1_RESERVED;
	return entry & QCOW2_OFFSET_MASK ? entry : 0;
}

uint64_t audit_right_entry(const struct blk_qcow2 *q, uint64_t entry)
{
	if (entry & QCOW2_L2_COMPRESSED)
		return entry & ~QCOW2_ENTRY_COPIED;
	/* so much is wrong that it may have been something else */
	if (entry & QCOW2_L2_RESERVED &&
	    entry & QCOW2_OFFSET_MASK & (q->cs - 1))
		return entry;
	entry &= ~QCOW2_L2_RESERVED;
	if (blk_q_has_extl2(q))
		return entry & ~QCOW2_L2_ZERO;
	if (entry & QCOW2_L2_ZERO && q->h.version >= 3 &&
	    entry & QCOW2_OFFSET_MASK & (q->cs - 1))
		return QCOW2_L2_ZERO;
	if (!(entry & QCOW2_OFFSET_MASK) && !blk_q_has_data_file(q))
		return entry & ~QCOW2_ENTRY_COPIED;
	return entry;
}
