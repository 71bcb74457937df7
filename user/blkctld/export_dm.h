/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports of type "device-mapper": /dev/mapper/NAME.
 */
#ifndef BLKCTLD_EXPORT_DM_H
#define BLKCTLD_EXPORT_DM_H

#include "export.h"
#include "kctl/attach.h"

extern const struct export_type export_dm;

/*
 * An adopted device becomes a running export.  @x: from export_dm_new(); it was given to
 * blk_attach_adopt() together with export_dm_notify().
 * @label: what the previous daemon had stored; may be anything
 */
struct export *export_dm_new(struct server *s, uint64_t dev);
void export_dm_notify(void *opaque, unsigned int what);
int export_dm_adopted(struct export *x, struct blk_attachment *att,
		      const char *label, struct blk_error *e);

/* What the kernel says about a device of ours (DM_QCOW_EV_*) */
void export_dm_kernel_event(struct server *s, uint64_t dev, uint32_t events);
/* Events were lost */
void export_dm_look_at_all(struct server *s);

/* NULL: not one of ours, or not (or no longer) running */
struct export *export_dm_by_dev(struct server *s, uint64_t dev);

#endif
