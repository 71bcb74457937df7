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

/*
 * The external data file: its name in the header, NULL if that does not say;
 * QCOW2_INCOMPAT_DATA_FILE says whether there is one.  Valid until close.
 */
const char *blk_qcow2_data_file(const struct blk_qcow2 *q);
/* Can the data file be read as a raw image of the whole disk? */
bool blk_qcow2_data_file_raw(const struct blk_qcow2 *q);

/**
 * blk_qcow2_can_attach - can the kernel module of this version serve it?
 * Refused: features that contradict each other, legacy AES encryption, and
 * when @writable: images marked as corrupt, damaged refcount tables, snapshots
 * together with an external data file, clusters smaller than the host's
 * blocks.  (Unknown incompatible bits are refused, by name, at open.)
 * A writable attach goes on with blk_qcow2_repair() and
 * blk_qcow2_bitmaps_begin(), before blk_qcow2_mark().
 */
int blk_qcow2_can_attach(struct blk_qcow2 *q, bool writable,
			 struct blk_error *e);

/**
 * blk_qcow2_repair - what an image with the dirty bit needs before it is written
 * Counts all references anew, makes the refcounts right (up and down) and the
 * COPIED bits of the active tables, then clears the dirty bit.  A crash at any
 * point leaves the bit set and loses nothing.  Does nothing to an image that is
 * not dirty.  Where structures overlap or lie outside the file, it refuses and
 * changes nothing.  Long: every L2 table is read, most of them twice.
 * @repaired: it was dirty and is not any more
 */
int blk_qcow2_repair(struct blk_qcow2 *q, bool *repaired, struct blk_error *e);

/*
 * Internal snapshots
 */

/**
 * struct blk_qcow2_snapshot - one of them
 * @id, @name: malloc'ed
 * @disk_size: of the disk in the snapshot, bytes
 * @vm_state_size: bytes
 * @icount: instructions, UINT64_MAX: it does not say
 */
struct blk_qcow2_snapshot {
	char *id;
	char *name;
	uint64_t l1_offset;
	uint32_t l1_size;
	uint64_t disk_size;
	uint64_t vm_state_size;
	uint32_t date_sec;
	uint32_t date_nsec;
	uint64_t vm_clock_nsec;
	uint64_t icount;
};

/**
 * blk_qcow2_snapshot_find - by id, and if no snapshot has this id, by name
 * Its L1 table is checked as far as the header's would be: aligned, in the
 * file, large enough for the disk size.
 * Return: -ENOENT: there is none of that id or name
 */
int blk_qcow2_snapshot_find(struct blk_qcow2 *q, const char *tag,
			    struct blk_qcow2_snapshot *out,
			    struct blk_error *e);
/* Frees what is in it; an empty one is fine. */
void blk_qcow2_snapshot_clear(struct blk_qcow2_snapshot *s);

/* All of them; *out is malloc'ed, blk_qcow2_snapshots_free() frees it. */
int blk_qcow2_snapshots_list(struct blk_qcow2 *q,
			     struct blk_qcow2_snapshot **out, size_t *n,
			     struct blk_error *e);
void blk_qcow2_snapshots_free(struct blk_qcow2_snapshot *s, size_t n);

/*
 * Changing snapshots of an image that is not attached, nor dirty
 * (blk_qcow2_repair).  Each becomes true with one sector of the header: a crash
 * leaves the image as it was or as it shall be, and leaks.  What they free is
 * given back to the host; blk_qcow2_trim() shortens the file.
 * Refused: external data files; -EOVERFLOW, with nothing changed: refcounts that
 * cannot count one more reference.
 */

/* @name: 1 to 255 bytes, need not be unique; the id is one that is free */
int blk_qcow2_snapshot_create(struct blk_qcow2 *q, const char *name,
			      struct blk_error *e);
/*
 * By name, and if no snapshot has this name, by id.
 * Return: -ENOENT: there is none of that name or id
 */
int blk_qcow2_snapshot_delete(struct blk_qcow2 *q, const char *tag,
			      struct blk_error *e);
/*
 * By id, else by name.  The disk becomes what it was, also in size; refused
 * with persistent bitmaps, which would not know of it.
 */
int blk_qcow2_snapshot_apply(struct blk_qcow2 *q, const char *tag,
			     struct blk_error *e);

/**
 * blk_qcow2_bitmaps_begin - before writes that no persistent bitmap records
 * A bitmap that records (auto) and is consistent would silently become wrong:
 * refused, unless @invalidate.  Then such bitmaps are marked as in use,
 * durably, and stay so: QEMU calls them inconsistent.  Others stay as they are,
 * and so does an extension without its autoclear bit, which nobody trusts.
 */
int blk_qcow2_bitmaps_begin(struct blk_qcow2 *q, bool invalidate,
			    struct blk_error *e);

/**
 * struct blk_qcow2_bitmap - a persistent bitmap
 * @name: malloc'ed
 * @granularity: bytes of the disk that one bit stands for
 * @in_use: it was not stored after its last use: QEMU calls it inconsistent
 * @recording: it records writes
 */
struct blk_qcow2_bitmap {
	char *name;
	uint64_t granularity;
	bool in_use;
	bool recording;
};
int blk_qcow2_bitmaps_list(struct blk_qcow2 *q, struct blk_qcow2_bitmap **out,
			   size_t *n, struct blk_error *e);
void blk_qcow2_bitmaps_free(struct blk_qcow2_bitmap *b, size_t n);

enum blk_bitmap_change {
	BLK_BITMAP_ADD,		/* enabled, no bit set */
	BLK_BITMAP_REMOVE,
	BLK_BITMAP_CLEAR,
	BLK_BITMAP_ENABLE,	/* it records writes */
	BLK_BITMAP_DISABLE,
	BLK_BITMAP_MERGE,	/* sets what is set in another one */
};

/**
 * struct blk_qcow2_bitmap_change - what is to be done to a bitmap
 * @granularity: of ADD: 512 to 2G, a power of two; 0: as QEMU, by cluster size
 * @from, @source: of MERGE: an image, NULL: the same one; and the name
 */
struct blk_qcow2_bitmap_change {
	enum blk_bitmap_change what;
	uint64_t granularity;
	struct blk_qcow2 *from;
	const char *source;
};

/**
 * blk_qcow2_bitmaps_change - @n changes of a bitmap, in this order
 * All of them become true with one write of the header, or none: a crash
 * leaves the image as it was or as it shall be, and leaks.  The image is not
 * attached, nor dirty (blk_qcow2_repair).
 * Refused: version 2; anything but REMOVE of a bitmap that is in use.  -ENOENT:
 * there is none of that name.
 */
int blk_qcow2_bitmaps_change(struct blk_qcow2 *q, const char *name,
			     const struct blk_qcow2_bitmap_change *c, size_t n,
			     struct blk_error *e);

/**
 * blk_qcow2_bitmaps_record - bits of every bitmap that records, durably
 * @runs: bytes of the disk that will be written to, none behind its end; their
 *        flags mean nothing
 * For who writes with bitmaps that record and cannot tell them as he goes:
 * bits too many are harmless, one too few is not.  As blk_qcow2_bitmaps_change;
 * bitmaps that are in use or do not record stay as they are.
 */
int blk_qcow2_bitmaps_record(struct blk_qcow2 *q,
			     const struct dm_qcow_run *runs, size_t n,
			     struct blk_error *e);

/* Bytes that copies of all persistent bitmaps take in clusters of that size */
int blk_qcow2_bitmaps_size(struct blk_qcow2 *q, uint64_t cluster_size,
			   uint64_t *bytes, struct blk_error *e);

/**
 * blk_qcow2_resize - change the disk's size
 * @size: bytes, a multiple of 512
 * @shrink: without it a smaller size is refused
 * @backing_size: bytes of the disk of the backing file, 0: there is none
 *
 * The caller owns all metadata: the image is not attached, or it is suspended
 * and handed over, and no leak scan is under way (-EBUSY).  Clusters that are
 * granted stay so.  The new part reads as zeroes, also where the backing file
 * or something stale reaches into it.  An external data file is grown before,
 * and shrunk afterwards, by the caller.  The size changes in one write: a crash
 * before it or after it leaves leaks, or clusters behind the disk's end.
 * Where ops are set, all metadata is to be claimed anew before the device is
 * resumed, whatever the result.
 * Refused: version 2 with snapshots; version 2 where zeroes would have to hide
 * a backing file; persistent bitmaps.  The header of blk_qcow2_header() changes.
 */
int blk_qcow2_resize(struct blk_qcow2 *q, uint64_t size, bool shrink,
		     uint64_t backing_size, struct blk_error *e);

/* As qemu-img's --preallocation */
enum blk_prealloc {
	BLK_PREALLOC_OFF,
	BLK_PREALLOC_METADATA,	/* mapped; the file has holes there */
	BLK_PREALLOC_FALLOC,	/* and the host has set space aside */
	BLK_PREALLOC_FULL,	/* and zeroes are written */
};

/* Before anything else has changed */
int blk_qcow2_can_preallocate(const struct blk_qcow2 *q, struct blk_error *e);
/**
 * blk_qcow2_preallocate - map what is not mapped in bytes [from, to) of the disk
 * It reads as zeroes then; with @show as the backing file, which needs extended
 * L2 entries.  Of the cluster that @from lies within nothing changes.  A data
 * file is allocated by the caller.  A crash leaves a part of it mapped, and
 * leaks.
 */
int blk_qcow2_preallocate(struct blk_qcow2 *q, uint64_t from, uint64_t to,
			  bool show, enum blk_prealloc how,
			  struct blk_error *e);

/**
 * blk_qcow2_set_backing - another name of the backing file, or none
 * @name, @format: NULL or "": none
 * Only the header changes, in one step; what the names from before were
 * returned for are not valid any more.
 * Return: -ENOSPC: the header cluster has no room for it
 */
int blk_qcow2_set_backing(struct blk_qcow2 *q, const char *name,
			  const char *format, struct blk_error *e);

/**
 * struct blk_qcow2_amend - what is to change; zeroes change nothing but for
 * @lazy_refcounts and @data_file_raw, where -1 does not
 * @version: 2 or 3
 * @refcount_bits: 1, 2, 4 ... 64
 * @data_file: the name in the header; "": none there
 * @progress: called now and then, if it is set; @done of @all, of one step
 */
struct blk_qcow2_amend {
	uint32_t version;
	uint32_t refcount_bits;
	int lazy_refcounts;
	int data_file_raw;
	const char *data_file;
	void (*progress)(void *opaque, uint64_t done, uint64_t all);
	void *opaque;
};

/**
 * blk_qcow2_amend - change version and features of an image not attached
 * It is not dirty (blk_qcow2_repair).  Refused as by QEMU, before anything is
 * written; a crash leaves a valid image that has some of it, and leaks.
 */
int blk_qcow2_amend(struct blk_qcow2 *q, const struct blk_qcow2_amend *a,
		    struct blk_error *e);

/**
 * struct blk_qcow2_compact - who is told
 * @progress: @n more clusters have moved; an error other than 0 stops it:
 *            -ECANCELED; may be NULL
 */
struct blk_qcow2_compact {
	int (*progress)(void *opaque, uint64_t n);
	void *opaque;
};

/**
 * blk_qcow2_compact - make the file of an image not attached smaller, in place
 * What lies at the end moves into free clusters in front; leaks are freed.  A
 * crash at any write leaves a good image, perhaps with leaks.  Data and
 * snapshots stay what they are.  Refused: encrypted images, whose data cannot
 * be moved without the key.
 * @moved: clusters
 */
int blk_qcow2_compact(struct blk_qcow2 *q, const struct blk_qcow2_compact *how,
		      uint64_t *moved, struct blk_error *e);

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
/* The same without zeroing what would have to be written for it. */
int blk_qcow2_alloc_as_is(struct blk_qcow2 *q, uint64_t bytes,
			  struct dm_qcow_run *runs, size_t *n,
			  struct blk_error *e);
/* Are clusters that read as zeroes dear? */
bool blk_qcow2_slow_zero(const struct blk_qcow2 *q);

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

/* Has the host cluster at @host more than one reference?  Of a reader too */
int blk_qcow2_shared(struct blk_qcow2 *q, uint64_t host, bool *shared);

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
/* Ends a scan that was begun, without a result; it is not running. */
void blk_qcow2_scan_cancel(struct blk_qcow2 *q);

#endif
