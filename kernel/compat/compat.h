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
