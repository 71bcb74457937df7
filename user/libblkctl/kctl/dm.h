/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Device-mapper.  dm.c is the only file that includes libdevmapper.h.
 *
 * All of these may block for long (suspend waits for I/O): never call them
 * from the thread that feeds grants (docs/design.md, rule 8).
 */
#ifndef BLK_KCTL_DM_H
#define BLK_KCTL_DM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define BLK_DM_UUID_PREFIX "BLKCTL-"

struct blk_dm_info {
	uint64_t dev;		/* DM_QCOW_DEV(major, minor) */
	int open_count;
	bool suspended;
	bool read_only;
	bool live_table;
	bool inactive_table;
	char uuid[129];
};

/* Creates a device without a table, named @name, uuid BLK_DM_UUID_PREFIX @uuid. */
int blk_dm_create(const char *name, const char *uuid, struct blk_dm_info *info,
		  struct blk_error *e);
/* Loads one target over [0, sectors) as the inactive table. */
int blk_dm_load(const char *name, uint64_t sectors, const char *target,
		const char *params, bool read_only, struct blk_error *e);
/* Waits until udev has made the nodes (cookie), unless it is disabled. */
int blk_dm_resume(const char *name, struct blk_error *e);
/* The same for a device that others have no business with: udev does not probe it. */
int blk_dm_resume_private(const char *name, struct blk_error *e);
/*
 * The inactive table takes the place of the live one.  The kernel suspends and
 * resumes the device on its own, without flushing: I/O waits for a moment, and
 * whoever is killed meanwhile leaves a device that runs.  Waits only for I/O
 * that is under way below the device, and not for udev.
 */
int blk_dm_replace(const char *name, struct blk_error *e);
/* noflush + skip lockfs unless @freeze */
int blk_dm_suspend(const char *name, bool freeze, struct blk_error *e);
/* -EBUSY with class BUSY when it is open; udev has removed the nodes on return */
int blk_dm_remove(const char *name, struct blk_error *e);
int blk_dm_info(const char *name, struct blk_dm_info *info,
		struct blk_error *e);	/* -ENOENT: class NOT_FOUND */
/*
 * The one target's type, length and parameters of the live table; malloc'ed.
 * They may have a key in them; libdevmapper's own copies are wiped.
 */
int blk_dm_table(const char *name, uint64_t *sectors, char **target,
		 char **params, struct blk_error *e);
int blk_dm_status(const char *name, char **target, char **params,
		  struct blk_error *e);
/* names of all devices with a live or inactive "qcow" target; NULL ended, free with blk_dm_list_free */
int blk_dm_list(char ***names, struct blk_error *e);
/* names of all devices whose uuid begins with BLK_DM_UUID_PREFIX @prefix */
int blk_dm_list_uuid(const char *prefix, char ***names, struct blk_error *e);
void blk_dm_list_free(char **names);
/* Is a target type known to the kernel? 1 yes, 0 no; loads dm-<target> by modprobe when @load */
int blk_dm_has_target(const char *target, bool load, struct blk_error *e);
/* valid device name? else class USAGE and a sentence (empty, too long, '/', control bytes, "." …) */
int blk_dm_check_name(const char *name, struct blk_error *e);

#endif
