/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A qcow2 image whose metadata the daemon owns: header, refcounts, snapshot
 * table, bitmaps.  While the image is attached read-write the kernel owns the
 * active L1 and L2 tables; only the functions that say so touch these.
 *
 * All functions may be called from any thread; one mutex in the object makes
 * them atomic.  All I/O is synchronous, on the blk_file given at open.
 */
#ifndef BLK_FMT_QCOW2_H
#define BLK_FMT_QCOW2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/dm_qcow.h>
#include <linux/qcow2_disk.h>

#include "base/error.h"
#include "io/file.h"

struct blk_qcow2;

/**
 * blk_qcow2_open - read and validate header, extensions and refcount table
 * @file: stays the caller's and must outlive the object
 */
int blk_qcow2_open(struct blk_file *file, struct blk_qcow2 **out,
		   struct blk_error *e);
void blk_qcow2_close(struct blk_qcow2 *q);

const struct qcow2_header *blk_qcow2_header(const struct blk_qcow2 *q);
/* NULL if there is none; valid until close */
const char *blk_qcow2_backing_file(const struct blk_qcow2 *q);
const char *blk_qcow2_backing_format(const struct blk_qcow2 *q);

/**
 * blk_qcow2_can_attach - can the kernel module of this version serve it?
 * Names the feature that is in the way: unknown incompatible bits (by their
 * names from the feature name table), dirty or corrupt (when @writable),
 * external data file, zstd compression type, extended L2, encryption, backing
 * file, and when @writable: internal snapshots, persistent bitmaps.
 */
int blk_qcow2_can_attach(struct blk_qcow2 *q, bool writable,
			 struct blk_error *e);

/*
 * Attaching
 */

/**
 * blk_qcow2_pad - extend a regular file to a multiple of max(cluster, file
 * system block), so that a loop device does not cut off its end
 * @writable: false: only if the size is no multiple of 512
 */
int blk_qcow2_pad(struct blk_qcow2 *q, bool writable, struct blk_error *e);

/**
 * blk_qcow2_mark - add the in-use header extension, durably
 * @was_marked: it was there already: the last user crashed, a leak scan is due
 * Also clears unknown autoclear bits, as the format demands of a writer.
 * Only the sectors of the header that change are written.  Where the header
 * cluster has no room, nothing is written and *was_marked is true.
 */
int blk_qcow2_mark(struct blk_qcow2 *q, bool *was_marked, struct blk_error *e);
/*
 * Removes the extension, durably.  Returns 0 and keeps it when the image is
 * known to have leaks (blk_qcow2_leaked): the next attach will look for them.
 */
int blk_qcow2_unmark(struct blk_qcow2 *q, struct blk_error *e);

/**
 * blk_qcow2_metadata - list every cluster of metadata that is not the active
 * L1 or an active L2 table (these the kernel finds itself) and not the header
 * cluster: refcount table and blocks, snapshot table, inactive L1 and L2
 * tables, bitmap directory, tables and data, LUKS header; checked: aligned, in the
 * file, no cluster twice.  Sorted, merged.
 * @runs: malloc'ed, the caller frees
 */
int blk_qcow2_metadata(struct blk_qcow2 *q, struct dm_qcow_run **runs,
		       size_t *n, struct blk_error *e);

/*
 * Allocation while attached
 */

/**
 * struct blk_qcow2_ops - what the allocator asks of its user
 * @claim: called before a new metadata cluster is written for the first time
 *         (DM_QCOW_CMD_CLAIM); an error stops the allocation
 * @grown: called after the file has grown and before anything in the new part
 *         is used (LOOP_SET_CAPACITY); may be NULL; the first alloc() always
 *         calls it
 * They run under the image's lock and must not call blk_qcow2_* functions.
 */
struct blk_qcow2_ops {
	int (*claim)(void *opaque, const struct dm_qcow_run *runs, size_t n);
	int (*grown)(void *opaque, uint64_t size);
};
void blk_qcow2_set_ops(struct blk_qcow2 *q, const struct blk_qcow2_ops *ops,
		       void *opaque);

/**
 * blk_qcow2_alloc - clusters for a grant
 * @bytes: how much is wanted; more than 0
 * @runs: filled in, flags DM_QCOW_RUN_ZEROED where the clusters read as zeroes
 * @n: in: room in @runs; out: runs used
 *
 * When it returns 0 the refcounts are 1 and durable, and so is what ZEROED
 * promises (space is fallocated inside the file's size).  First fit from the
 * lowest free cluster that is not known to be in use, long runs preferred;
 * reused clusters are punched and fallocated again.  New refcount blocks and a
 * larger refcount table are made as needed in QEMU's order,
 * refcount widths 1..64.  Fewer bytes than wanted may come back.
 * Return: -ENOSPC: nothing could be had (host full, device's end, format's end).
 */
int blk_qcow2_alloc(struct blk_qcow2 *q, uint64_t bytes,
		    struct dm_qcow_run *runs, size_t *n, struct blk_error *e);

/**
 * blk_qcow2_release - drop one reference of each cluster in each run
 * Runs with DM_QCOW_RUN_COMPRESSED drop one reference of every host cluster
 * that the bytes touch.  Refcounts are durable before the space of clusters that reached 0 is
 * given back to the host (punch), and before they can be allocated again.
 * A refcount that is 0 already is an error (-EUCLEAN), the others are dropped.
 */
int blk_qcow2_release(struct blk_qcow2 *q, const struct dm_qcow_run *runs,
		      size_t n, struct blk_error *e);

/**
 * blk_qcow2_trim - at detach: shorten a regular file to its last cluster in
 * use (refcount > 0)
 */
int blk_qcow2_trim(struct blk_qcow2 *q, struct blk_error *e);

/*
 * Has a write of refcounts failed, so that some may be too high on disk?  A
 * scan that ends without leftovers clears it.
 */
bool blk_qcow2_leaked(struct blk_qcow2 *q);

/*
 * Leak scan.  Begin it before the first alloc() after an
 * attach (or right after TAKE_GRANTS and a COMMIT at adoption): candidates are clusters
 * whose refcount is larger than their references; everything that alloc()
 * gave out or release() dropped since the beginning is no candidate.
 */
int blk_qcow2_scan_begin(struct blk_qcow2 *q, struct blk_error *e);
/**
 * blk_qcow2_scan_run - walk active and inactive L1 and L2 tables on disk.
 * Long; the mutex is not held while reading.  Reads what the kernel may be writing: a
 * slice is consistent entry by entry.
 * @stop: polled; returns -ECANCELED when it becomes true
 */
int blk_qcow2_scan_run(struct blk_qcow2 *q, const volatile bool *stop,
		       struct blk_error *e);
/**
 * blk_qcow2_scan_end - lower the refcounts of the candidates that are left
 * Call it after COMMIT and TAKE_FREED have ended and the freed runs were
 * release()d.  @leaks: clusters given back.  Only clusters that no table refers to
 * and whose COPIED bits stay right are lowered (a count of 1 asks for COPIED,
 * in a table that the kernel owns).
 */
int blk_qcow2_scan_end(struct blk_qcow2 *q, uint64_t *leaks,
		       struct blk_error *e);

#endif
