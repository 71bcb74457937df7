/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The only place that knows how kernels differ, by the features that
 * Kbuild.include has probed for.
 */
#ifndef QCOW_COMPAT_H
#define QCOW_COMPAT_H

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/shrinker.h>

static inline bool qcow_table_writable(struct dm_table *t)
{
#ifdef QCOW_HAVE_BLK_MODE_T
	return dm_table_get_mode(t) & BLK_OPEN_WRITE;
#else
	return dm_table_get_mode(t) & FMODE_WRITE;
#endif
}

/* Opens a table's device, for writing only if it is to be written. */
static inline int qcow_get_device(struct dm_target *ti, const char *path,
				  bool write, struct dm_dev **out)
{
#ifdef QCOW_HAVE_BLK_MODE_T
	return dm_get_device(ti, path, write ? BLK_OPEN_READ | BLK_OPEN_WRITE :
			     BLK_OPEN_READ, out);
#else
	return dm_get_device(ti, path, write ? FMODE_READ | FMODE_WRITE :
			     FMODE_READ, out);
#endif
}

static inline void qcow_set_discard(struct queue_limits *limits,
				    unsigned int sectors)
{
	limits->max_hw_discard_sectors = sectors;
	limits->max_discard_sectors = sectors;
}

/* Of a device whose table is being resumed. */
static inline void qcow_set_write_zeroes(struct mapped_device *md,
					 unsigned int sectors)
{
	struct request_queue *q = dm_disk(md)->queue;
#ifdef QCOW_HAVE_LIMITS_UPDATE
	struct queue_limits limits = queue_limits_start_update(q);

	limits.max_write_zeroes_sectors = sectors;
	if (queue_limits_commit_update(q, &limits))
		return;		/* as device-mapper has set it: slower */
#else
	q->limits.max_write_zeroes_sectors = sectors;
#endif
}

typedef unsigned long (*qcow_shrink_fn)(struct shrinker *s,
					struct shrink_control *sc);

#ifdef QCOW_HAVE_SHRINKER_ALLOC
static inline struct shrinker *
qcow_shrinker_register(qcow_shrink_fn count, qcow_shrink_fn scan)
{
	struct shrinker *s = shrinker_alloc(0, "dm-qcow");

	if (!s)
		return NULL;
	s->count_objects = count;
	s->scan_objects = scan;
	s->seeks = DEFAULT_SEEKS;
	shrinker_register(s);
	return s;
}

static inline void qcow_shrinker_unregister(struct shrinker *s)
{
	shrinker_free(s);
}
#else
static inline struct shrinker *
qcow_shrinker_register(qcow_shrink_fn count, qcow_shrink_fn scan)
{
	struct shrinker *s = kzalloc(sizeof(*s), GFP_KERNEL);

	if (!s)
		return NULL;
	s->count_objects = count;
	s->scan_objects = scan;
	s->seeks = DEFAULT_SEEKS;
	if (register_shrinker(s, "dm-qcow")) {
		kfree(s);
		return NULL;
	}
	return s;
}

static inline void qcow_shrinker_unregister(struct shrinker *s)
{
	unregister_shrinker(s);
	kfree(s);
}
#endif

#endif
