/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Exports of type "device-mapper": /dev/mapper/NAME.
 */
#ifndef BLKCTLD_EXPORT_DM_H
#define BLKCTLD_EXPORT_DM_H

#include "export.h"
#include "kctl/attach.h"

extern const struct export_type export_dm;

/* From threads of an attachment; @opaque: the struct export */
void export_dm_notify(void *opaque, unsigned int what);

/*
 * Adoption: new; adopt (blocks, any thread); if that has gone well, adopted:
 * then it is running.  Else it is for the caller to free.
 */
struct export *export_dm_new(struct server *s, uint64_t dev);
int export_dm_adopt(struct export *x, struct blk_error *e);
int export_dm_adopted(struct export *x, struct blk_error *e);

/* What the kernel says about a device of ours (DM_QCOW_EV_*) */
void export_dm_kernel_event(struct server *s, uint64_t dev, uint32_t events);
/* Events were lost */
void export_dm_look_at_all(struct server *s);

/* NULL: not one of ours, or not yet running */
struct export *export_dm_by_dev(struct server *s, uint64_t dev);

/* Adds what this type knows to an element of query-device-mapper. */
int export_dm_put(const struct export *x, json_t *o);
/* By the device's name; NULL: none */
struct export *export_dm_by_name(struct server *s, const char *name);

#endif
