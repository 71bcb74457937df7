/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One image as one /dev/mapper device: the whole procedure of attaching,
 * feeding, adopting and detaching (docs/design.md, "Who owns what").
 *
 * Threads: attach, adopt and detach block (device-mapper, fsync) and are
 * called from a worker thread, one at a time for an attachment.  Each writable
 * attachment has a feeder thread of its own that grants clusters ahead of
 * need, takes freed runs, and runs the leak scan in a second, idle-priority
 * thread; the feeder never issues device-mapper ioctls and never allocates
 * memory on the granting path.
 */
#ifndef BLK_KCTL_ATTACH_H
#define BLK_KCTL_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "fmt/qcow2.h"
#include "io/file.h"
#include "kctl/genl.h"

struct blk_attachment;

/**
 * struct blk_attach_params - what to attach
 * @name: device-mapper name
 * @label: opaque text the kernel keeps for the next daemon (JSON)
 * @file: open and locked (blk_lock_image) as @writable needs; stays the
 *        caller's and must outlive the attachment
 * @image: opened from @file; as above
 * @no_space_timeout: seconds, or -1 for the default
 * @notify: called from a thread of the attachment when something changed
 *          (BLK_ATTACH_*); must not block; may be NULL
 */
struct blk_attach_params {
	const char *name;
	const char *label;
	struct blk_file *file;
	struct blk_qcow2 *image;
	bool writable;
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
 * can_attach, pad, loop device (regular files; block devices as they are), dm create
 * + load, adopt, hold_file, mark (durable), claim metadata, scan_begin if it
 * was marked, first grant, resume, start the feeder.
 * A read-only one: pad if needed, loop, create, load, adopt, hold_file, resume.
 */
int blk_attach(const struct blk_attach_params *p, struct blk_attachment **out,
	       struct blk_error *e);

/*
 * A device that is already there (found by blk_genl_list).  Gets the held
 * file from the kernel and opens the image from it (both owned by the
 * attachment), adopts the session, takes all grants, commits, begins the leak
 * scan, grants anew.  @label, malloc'ed: what the previous daemon stored.
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

/* The daemon ends, the device stays: stops the threads, frees the attachment. */
void blk_attach_abandon(struct blk_attachment *a);

/* For a device that was removed behind our back: cleans up what is left. */
void blk_attach_forget(struct blk_attachment *a);

struct blk_file *blk_attach_file(struct blk_attachment *a);
struct blk_qcow2 *blk_attach_image(struct blk_attachment *a);
const char *blk_attach_name(const struct blk_attachment *a);
bool blk_attach_writable(const struct blk_attachment *a);
uint64_t blk_attach_dev(const struct blk_attachment *a);
/* a fresh look at the kernel's state */
int blk_attach_get(struct blk_attachment *a, struct blk_kdev *out,
		   struct blk_error *e);

#endif
