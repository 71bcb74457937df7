/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One image as one /dev/mapper device: the whole procedure of attaching,
 * feeding, adopting and detaching (docs/design.md, "Who owns what").
 *
 * Threads: attach, adopt and detach block (device-mapper, fsync) and are
 * called from a worker thread, one at a time for an attachment.  Each writable
 * attachment has a feeder thread of its own that grants clusters ahead of
 * need, takes freed runs, and runs the leak scan in a second, idle-priority
 * thread; the feeder never allocates memory on the granting path, and issues
 * no device-mapper ioctls but those by which the crypt device of an encrypted
 * file grows with the file.
 */
#ifndef BLK_KCTL_ATTACH_H
#define BLK_KCTL_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "fmt/luks.h"
#include "fmt/qcow2.h"
#include "io/file.h"
#include "kctl/genl.h"

struct blk_attachment;

/**
 * struct blk_attach_layer - one image of a chain; all of it stays the caller's
 * @file: open and locked (blk_lock_image), as the writer of layer 0 needs it
 *        or for reading; must outlive the attachment
 * @image: opened from @file; as above; NULL: raw
 * @data: the image's external data file, open and locked as @file; or NULL
 * @key: of an encrypted image, for blk_attach() alone; else NULL
 */
struct blk_attach_layer {
	struct blk_file *file;
	struct blk_qcow2 *image;
	struct blk_file *data;
	const struct blk_luks_key *key;
};

/**
 * struct blk_attach_params - what to attach
 * @name: device-mapper name
 * @label: opaque text the kernel keeps for the next daemon (JSON)
 * @layers: the chain, the top first: it is qcow2, and raw only the last one
 * @n_layers: 1..DM_QCOW_MAX_LAYERS
 * @writable: layer 0 is written; the others never are
 * @snapshot: id or name of the internal snapshot of layer 0 to show; NULL:
 *            its active state.  Not with @writable
 * @invalidate_bitmaps: see blk_qcow2_bitmaps_begin()
 * @no_space_timeout: seconds, or -1 for the default
 * @notify: called from a thread of the attachment when something changed
 *          (BLK_ATTACH_*); must not block; may be NULL
 */
struct blk_attach_params {
	const char *name;
	const char *label;
	const struct blk_attach_layer *layers;
	size_t n_layers;
	bool writable;
	const char *snapshot;
	bool invalidate_bitmaps;
	int no_space_timeout;
	void (*notify)(void *opaque, unsigned int what);
	void *opaque;
};

#define BLK_ATTACH_GONE		(1U << 0)	/* removed behind our back */
#define BLK_ATTACH_MODE		(1U << 1)	/* mode changed: blk_attach_get() */
#define BLK_ATTACH_CORRUPT	(1U << 2)
#define BLK_ATTACH_NOSPACE	(1U << 3)	/* the host is full */
#define BLK_ATTACH_SCANNED	(1U << 4)	/* the leak scan has ended */

/*
 * Order for a writable image (every step undone on failure, in reverse):
 * can_attach of each layer, repair if it is dirty, pad, loop devices (regular
 * files; block devices as they are), crypt devices (encrypted images), dm
 * create + load, adopt, hold the files, mark (durable), bitmaps, claim
 * metadata, scan_begin if it was marked, first grant, resume, start the feeder.
 * A read-only one: pad if needed, loops, crypt, create, load, adopt, hold,
 * resume.
 */
int blk_attach(const struct blk_attach_params *p, struct blk_attachment **out,
	       struct blk_error *e);

/*
 * A device that is already there (found by blk_genl_list).  Gets the held
 * files from the kernel and opens the images from them (all owned by the
 * attachment), adopts the session, takes all grants, commits, begins the leak
 * scan, grants anew.  The chain is what the table says.  @label, malloc'ed:
 * what the previous daemon stored.
 */
int blk_attach_adopt(uint64_t dev,
		     void (*notify)(void *opaque, unsigned int what),
		     void *opaque, struct blk_attachment **out, char **label,
		     struct blk_error *e);

/*
 * Detach.  EBUSY (class BUSY, naming the holders: mounts, holders in sysfs,
 * processes that have it open) when the device is open; then nothing has
 * changed.  Else: suspend, HANDOVER, TAKE grants and freed runs, remove the
 * device, release all runs, trim, unmark (only if the scan has finished and
 * nothing leaked), flush, free the attachment.  If the removal fails the runs
 * are granted again and the device is resumed.
 *
 * When it returns 0 the device and the attachment have gone, and @e (cleared
 * first) may have a message: a warning, for instance that clusters are left
 * for the next attach's leak scan.  A device that was removed behind our back
 * is simply forgotten.  A device that could not write its metadata is refused
 * (-EIO) once; when its mode shows the failure already, it is removed.
 */
int blk_detach(struct blk_attachment *a, struct blk_error *e);

/**
 * blk_attach_resize - give a writable device and its image another size
 * @size: bytes, a multiple of 512
 * @shrink: whether it may be smaller than before: the data behind is lost
 *
 * The device is suspended meanwhile, its users wait.  On failure it goes on
 * with its old size.  An adopted session's leak scan begins anew.
 */
int blk_attach_resize(struct blk_attachment *a, uint64_t size, bool shrink,
		      struct blk_error *e);

/* The daemon ends, the device stays: stops the threads, frees the attachment. */
void blk_attach_abandon(struct blk_attachment *a);

/* For a device that was removed behind our back: cleans up what is left. */
void blk_attach_forget(struct blk_attachment *a);

/*
 * Somebody else has duplicates of the adopted files, but for the one that is
 * written as layer 0: their locks are left when the device goes.
 */
void blk_attach_share_locks(struct blk_attachment *a);

/* Layer 0's */
struct blk_file *blk_attach_file(struct blk_attachment *a);
struct blk_qcow2 *blk_attach_image(struct blk_attachment *a);
size_t blk_attach_layers(const struct blk_attachment *a);
/* Borrowed, until the attachment goes */
void blk_attach_layer(const struct blk_attachment *a, size_t i,
		      struct blk_attach_layer *out);
/* bytes of the device */
uint64_t blk_attach_size(const struct blk_attachment *a);
/* The image was dirty, and has been repaired before it was attached. */
bool blk_attach_repaired(const struct blk_attachment *a);
const char *blk_attach_name(const struct blk_attachment *a);
bool blk_attach_writable(const struct blk_attachment *a);
uint64_t blk_attach_dev(const struct blk_attachment *a);
/* a fresh look at the kernel's state */
int blk_attach_get(struct blk_attachment *a, struct blk_kdev *out,
		   struct blk_error *e);

#endif
