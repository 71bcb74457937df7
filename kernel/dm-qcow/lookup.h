/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From guest offset to host offset, in one image and through a table's layers.
 */
#ifndef QCOW_LOOKUP_H
#define QCOW_LOOKUP_H

#include "image.h"

struct qcow_slice;
struct qcow_target;

enum qcow_found {
	QCOW_FOUND_HOST,	/* a host range */
	QCOW_FOUND_ZERO,	/* reads as zeroes */
	QCOW_FOUND_NONE,	/* nothing here: look into the layer below */
	QCOW_FOUND_COMPRESSED,	/* one compressed cluster */
	QCOW_FOUND_MISS,	/* the slice is not in memory */
	QCOW_FOUND_OTHER,	/* not to be written in place */
};

/**
 * struct qcow_extent - what a guest range maps to
 * @len: in: bytes wanted; out: how many of them the answer holds for (not
 *       for MISS and OTHER)
 * @host: bytes, for HOST; the entry, for COMPRESSED
 * @layer: the layer that says so
 * @from: the layers between the top and this one have nothing in all of the
 *        top's cluster
 * @slice: layer 0's slice; NULL: not in memory.  Valid in the RCU section.
 */
struct qcow_extent {
	u64 len;
	u64 host;
	unsigned int layer;
	unsigned int from;
	struct qcow_slice *slice;
};

/**
 * qcow_lookup - map a guest range in one image
 * @write: only what may be written in place is HOST
 * Takes no lock, inside rcu_read_lock().
 */
enum qcow_found qcow_lookup(struct qcow_image *img, u64 guest, bool write,
			    struct qcow_extent *x);

/**
 * qcow_lookup_layers - map a guest range for reading, through all layers
 * @from: 0, or the @from of an earlier MISS in the same cluster of the top
 * Never NONE or OTHER.  Takes no lock, inside rcu_read_lock().
 */
enum qcow_found qcow_lookup_layers(struct qcow_target *t, u64 guest,
				   unsigned int from, struct qcow_extent *x);

/*
 * Do the layers below the top read as zeroes in the top's whole cluster?
 * False also if that is not known.  Inside rcu_read_lock().
 */
bool qcow_zero_below(struct qcow_target *t, u64 guest);
/* The same without looking: false if nobody has looked lately.  Any context. */
bool qcow_zero_known(struct qcow_target *t, u64 guest);

/*
 * Makes it known whether the layers below read as zeroes in a cluster.  False:
 * the slice of guest offset *@miss must be loaded first, for the image of
 * layer *@from (in: what an earlier try has left there, or 0).  Inside
 * rcu_read_lock().
 */
bool qcow_probe_below(struct qcow_target *t, u64 guest, unsigned int *from,
		      u64 *miss);

/*
 * Does the top's whole cluster read as zeroes, as far as is known?  Not for
 * extended entries.  Inside rcu_read_lock().
 */
bool qcow_reads_zero(struct qcow_target *t, u64 guest);

/* What is known of the layers below: 0 or -ENOMEM. */
int qcow_skip_init(struct qcow_target *t);
/* The layers may have changed; no I/O is in flight. */
void qcow_skip_forget(struct qcow_target *t);

#endif
