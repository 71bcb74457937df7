/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR MIT) */
/*
 * The contract between the device-mapper target "qcow" and its control plane:
 * the table and status lines, and the generic netlink family "dm_qcow".
 *
 * Table line
 * ==========
 *
 *   <start> <len> qcow <#layers> <layer>... [<#feature args> <feature args>]
 *
 *   <layer>:  qcow2 <dev> <data_dev|->   a qcow2 image on block device <dev>
 *             raw <dev>                  a raw device, only as the last layer
 *
 *   Layer 0 is the top, a qcow2 image, and the only one that is ever written;
 *   each layer shows the next one where it has nothing of its own, and zeroes
 *   where the next one has ended.  A table that is loaded read-only never
 *   writes to any device.
 *
 *   <data_dev> is where the clusters of data are, - for <dev> itself.  An
 *   image with an external data file needs that file's device; an encrypted
 *   image needs a device that decrypts <dev>, sector for sector.
 *
 *   feature                      default  meaning
 *   no_space_timeout <seconds>   60       how long writes wait for a grant
 *                                         before they fail with ENOSPC;
 *                                         0 = fail at once, at most 86400;
 *                                         60 at least while a daemon that
 *                                         has taken the grants may give more
 *   commit_interval <ms>         1000     how long a changed mapping may stay
 *                                         in memory without a flush;
 *                                         10..600000
 *   snapshot <offset>,<entries>,<size>    layer 0 shows the internal snapshot
 *                                         with this L1 table (bytes, entries)
 *                                         and disk size (bytes); only in a
 *                                         table that is loaded read-only
 *
 * Status line (STATUSTYPE_INFO)
 * =============================
 *
 *   <mode> <session> <cluster size> <granted> <freed> <dirty> <cached>
 *   <parked> <generation> <error>
 *
 *   mode:       rw | out_of_space | ro | fail
 *   session:    live | none: whether a control daemon has adopted the device
 *   granted:    clusters that the kernel may still hand out
 *   freed:      freed runs that wait for the daemon
 *   dirty:      L2 slices that are not on disk
 *   cached:     L2 slices in memory
 *   parked:     bios that wait for a grant
 *   generation: how often the metadata was (re)read
 *   error:      - | errno of the failure that made the device read-only
 *
 * Netlink family "dm_qcow", version 1, multicast group "events"
 * =============================================================
 *
 * Everything needs CAP_NET_ADMIN and CAP_SYS_ADMIN in the initial user
 * namespace; the family exists only in the initial network namespace.
 *
 * DM_QCOW_CMD_GET (doit: one device; dump: all)
 *     DM_QCOW_A_DEV: u64 (absent: dump)
 *   ->  DM_QCOW_A_DEV: u64
 *       DM_QCOW_A_NAME: nul-string, the device-mapper name
 *       DM_QCOW_A_LABEL: nul-string, whatever ADOPT stored
 *       DM_QCOW_A_MODE: u32 enum dm_qcow_mode
 *       DM_QCOW_A_STATE: u32 DM_QCOW_STATE_*
 *       DM_QCOW_A_ERROR: u32 errno of the failure behind the mode, or 0
 *       DM_QCOW_A_GENERATION: u64
 *       DM_QCOW_A_CLUSTER_BITS: u32
 *       DM_QCOW_A_GRANTED: u64 clusters still to be handed out
 *       DM_QCOW_A_ZEROED: u64 of these, those that read as zeroes
 *       DM_QCOW_A_CONSUMED: u64 clusters handed out since the table was loaded
 *       DM_QCOW_A_FREED: u64 runs in the freed queue
 *       DM_QCOW_A_PARKED: u64 bios that wait for a grant
 *       DM_QCOW_A_SEQ: u64 last grant sequence
 *       DM_QCOW_A_COOKIE: u64 last COMMIT that has been completed
 *       DM_QCOW_A_PENDING: u32 events raised and not yet fetched; a GET with
 *                          the live session's number clears them
 *       DM_QCOW_A_STATS: binary, struct dm_qcow_stats, may be longer later
 *
 * DM_QCOW_CMD_ADOPT
 *     DM_QCOW_A_DEV: u64
 *     DM_QCOW_A_LABEL: nul-string, optional, kept for the next daemon
 *   ->  DM_QCOW_A_SESSION: u64, DM_QCOW_A_SEQ: u64, DM_QCOW_A_LABEL
 *   Starts a session that lasts until the calling socket is closed.
 *   EBUSY: another socket's session is alive.  All commands below carry
 *   DM_QCOW_A_DEV and DM_QCOW_A_SESSION; ESTALE: the session is not current.
 *
 * DM_QCOW_CMD_CLAIM
 *     DM_QCOW_A_RUNS: binary, struct dm_qcow_run[]
 *     DM_QCOW_A_FLAGS: u32, DM_QCOW_CLAIM_ANEW: what is claimed from this one
 *                      on replaces what was claimed before, as soon as
 *                      DM_QCOW_CLAIM_ALL says that this was the last of it;
 *                      until then both is metadata
 *   Says that these clusters hold metadata of the daemon's.  Before the first
 *   writable resume: all of them; later: before a new one is written; after a
 *   HANDOVER in which the daemon moved metadata, and by a daemon that took over
 *   from one that may have done so: all of them, anew.
 *   EUCLEAN: one of them is a claimed cluster already (nothing is claimed; what
 *   was to be claimed anew is forgotten).
 *
 * DM_QCOW_CMD_GRANT
 *     DM_QCOW_A_SEQ: u64, larger than the last one
 *     DM_QCOW_A_RUNS: binary, struct dm_qcow_run[] (may be absent)
 *     DM_QCOW_A_FLAGS: u32, DM_QCOW_GRANT_HOST_FULL: there will be no more
 *                      until space returns
 *   ->  DM_QCOW_A_SEQ, DM_QCOW_A_GRANTED
 *   The runs' refcounts are 1 and durable.  All or nothing.  Also without any
 *   runs: what a write gives back may be taken again (see TAKE).
 *   EALREADY: this sequence was used.  ERANGE: not in the device.
 *   EUCLEAN: a cluster is claimed by metadata, a grant or a mapping.
 *
 * DM_QCOW_CMD_TAKE
 *     DM_QCOW_A_FLAGS: u32, one of DM_QCOW_TAKE_FREED, DM_QCOW_TAKE_GRANTS
 *   ->  DM_QCOW_A_RUNS: binary, struct dm_qcow_run[], at most
 *       DM_QCOW_MAX_RUNS; repeat until it is empty
 *   The runs leave the kernel: whoever takes them owns them.  Freed runs are
 *   a multiset: each is exactly one reference to drop.  A freed L2 table
 *   (METADATA) stays claimed, for the daemon, since snapshots may have it.
 *   After a TAKE of grants no write is given a cluster before the next GRANT.
 *
 * DM_QCOW_CMD_COMMIT
 *     DM_QCOW_A_COOKIE: u64, larger than the last one
 *   Starts a commit that covers every write that has been given a cluster
 *   before; then all clusters freed before it can be TAKEn.  Its end is
 *   DM_QCOW_EV_COMMITTED and DM_QCOW_A_COOKIE of GET; if it has failed,
 *   DM_QCOW_A_MODE is READ_ONLY then.  EBUSY: suspended, or not writable.
 *
 * DM_QCOW_CMD_HANDOVER
 *   ->  DM_QCOW_A_GENERATION: u64
 *   The device is suspended, everything is on disk, and the kernel will not
 *   write before the next resume, which reads the metadata anew.
 *   EBUSY: not suspended.  EIO: not everything could be written.
 *
 * DM_QCOW_CMD_HOLD_FILE
 *     DM_QCOW_A_LAYER: u32, DM_QCOW_A_FD: u32
 *     DM_QCOW_A_FLAGS: u32, DM_QCOW_FILE_DATA: the layer's data file
 *   The device keeps the open file, and so its locks, as long as it exists.
 *   EEXIST: it holds one for that place already.
 *
 * DM_QCOW_CMD_GET_FILE
 *     DM_QCOW_A_LAYER: u32, DM_QCOW_A_FLAGS: as above
 *   ->  DM_QCOW_A_FD: u32, a new descriptor (close-on-exec) of that file
 *   ENOENT: none is held.
 *
 * DM_QCOW_CMD_EVENT (multicast to "events")
 *       DM_QCOW_A_DEV: u64, DM_QCOW_A_EVENTS: u32 DM_QCOW_EV_*
 *   A doorbell: what it announces stays in the kernel until it is fetched.
 */
#ifndef _UAPI_LINUX_DM_QCOW_H
#define _UAPI_LINUX_DM_QCOW_H

#include <linux/types.h>

#define DM_QCOW_TARGET_NAME	"qcow"
#define DM_QCOW_GENL_NAME	"dm_qcow"
#define DM_QCOW_GENL_VERSION	1
#define DM_QCOW_MCGRP_EVENTS	"events"

#define DM_QCOW_LABEL_MAX	1024	/* bytes, with the nul */
#define DM_QCOW_MAX_RUNS	1024	/* runs in one message */
#define DM_QCOW_MAX_LAYERS	256

/* DM_QCOW_A_DEV: the mapped device's number as one integer */
#define DM_QCOW_DEV(major, minor) (((__u64)(major) << 32) | (__u32)(minor))

enum dm_qcow_cmd {
	DM_QCOW_CMD_UNSPEC,
	DM_QCOW_CMD_GET,
	DM_QCOW_CMD_ADOPT,
	DM_QCOW_CMD_CLAIM,
	DM_QCOW_CMD_GRANT,
	DM_QCOW_CMD_TAKE,
	DM_QCOW_CMD_COMMIT,
	DM_QCOW_CMD_HANDOVER,
	DM_QCOW_CMD_HOLD_FILE,
	DM_QCOW_CMD_GET_FILE,
	DM_QCOW_CMD_EVENT,
	__DM_QCOW_CMD_LAST
};
#define DM_QCOW_CMD_MAX (__DM_QCOW_CMD_LAST - 1)

enum dm_qcow_attr {
	DM_QCOW_A_UNSPEC,
	DM_QCOW_A_PAD,
	DM_QCOW_A_DEV,
	DM_QCOW_A_SESSION,
	DM_QCOW_A_SEQ,
	DM_QCOW_A_RUNS,
	DM_QCOW_A_FLAGS,
	DM_QCOW_A_LAYER,
	DM_QCOW_A_FD,
	DM_QCOW_A_LABEL,
	DM_QCOW_A_COOKIE,
	DM_QCOW_A_EVENTS,
	DM_QCOW_A_NAME,
	DM_QCOW_A_MODE,
	DM_QCOW_A_STATE,
	DM_QCOW_A_ERROR,
	DM_QCOW_A_GENERATION,
	DM_QCOW_A_CLUSTER_BITS,
	DM_QCOW_A_GRANTED,
	DM_QCOW_A_CONSUMED,
	DM_QCOW_A_FREED,
	DM_QCOW_A_PARKED,
	DM_QCOW_A_PENDING,
	DM_QCOW_A_STATS,
	DM_QCOW_A_ZEROED,
	__DM_QCOW_A_LAST
};
#define DM_QCOW_A_MAX (__DM_QCOW_A_LAST - 1)

/* Ordered: a device only ever falls, but OUT_OF_SPACE returns to WRITE. */
enum dm_qcow_mode {
	DM_QCOW_MODE_WRITE,
	DM_QCOW_MODE_OUT_OF_SPACE,	/* allocating writes fail with ENOSPC */
	DM_QCOW_MODE_READ_ONLY,		/* writes and flushes fail */
	DM_QCOW_MODE_FAIL,		/* everything fails */
};

#define DM_QCOW_STATE_WRITABLE	(1U << 0)	/* the table is writable */
#define DM_QCOW_STATE_ACTIVE	(1U << 1)	/* resumed, not suspended */
#define DM_QCOW_STATE_SESSION	(1U << 2)	/* a daemon's session is alive */
#define DM_QCOW_STATE_HOST_FULL	(1U << 3)	/* GRANT said so */
#define DM_QCOW_STATE_LEAKED	(1U << 4)	/* clusters were dropped unlisted */
#define DM_QCOW_STATE_CORRUPT	(1U << 5)	/* bad metadata was found */

#define DM_QCOW_EV_GRANT_LOW	(1U << 0)	/* few granted clusters left */
#define DM_QCOW_EV_PARKED	(1U << 1)	/* a write waits for a grant */
#define DM_QCOW_EV_FREED	(1U << 2)	/* TAKE_FREED has something */
#define DM_QCOW_EV_MODE		(1U << 3)	/* the mode has changed */
#define DM_QCOW_EV_COMMITTED	(1U << 4)	/* a COMMIT has ended */
#define DM_QCOW_EV_CORRUPT	(1U << 5)	/* bad metadata was found */
#define DM_QCOW_EV_GONE		(1U << 6)	/* the device was removed */

#define DM_QCOW_CLAIM_ANEW	(1U << 0)
#define DM_QCOW_CLAIM_ALL	(1U << 1)

#define DM_QCOW_GRANT_HOST_FULL	(1U << 0)

#define DM_QCOW_TAKE_FREED	(1U << 0)
#define DM_QCOW_TAKE_GRANTS	(1U << 1)

#define DM_QCOW_FILE_DATA	(1U << 0)

#define DM_QCOW_RUN_ZEROED	(1U << 0)	/* grant: reads as zeroes */
#define DM_QCOW_RUN_METADATA	(1U << 1)	/* freed: an L2 table */
#define DM_QCOW_RUN_COMPRESSED	(1U << 2)	/* freed: one descriptor's bytes */

/**
 * struct dm_qcow_run - a range of the image file
 * @offset: bytes from the start of the file; cluster aligned, but for
 *          compressed data
 * @length: bytes, a multiple of the cluster size, but for compressed data
 * @flags: DM_QCOW_RUN_*
 * @reserved: 0
 */
struct dm_qcow_run {
	__u64 offset;
	__u64 length;
	__u32 flags;
	__u32 reserved;
};

/**
 * struct dm_qcow_stats - counters since the table was loaded; bios, if nothing
 * else is said.  New counters are added at the end.
 */
struct dm_qcow_stats {
	__u64 read_mapped;	/* remapped in place */
	__u64 read_zero;	/* ended as zeroes */
	__u64 write_mapped;	/* remapped in place */
	__u64 write_alloc;	/* given a new cluster without a worker */
	__u64 write_joined;	/* to a cluster that another write was given */
	__u64 deferred;		/* handed to a worker */
	__u64 flushes;		/* flush and FUA requests that needed a commit */
	__u64 commits;
	__u64 slices_written;
	__u64 slice_loads;
	__u64 slices_reclaimed;
	__u64 filled;		/* partial writes that needed copy or zero fill */
	__u64 parked;
	__u64 io_errors;	/* errors of the devices below */
	__u64 read_below;	/* remapped to a layer below the top */
	__u64 read_compressed;	/* served from a decompressed cluster */
	__u64 decompressed;	/* clusters */
	__u64 discards;
	__u64 write_zeroes;
	__u64 tables_copied;	/* L2 tables shared with a snapshot */
};

#endif /* _UAPI_LINUX_DM_QCOW_H */
