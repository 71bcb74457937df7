/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the target keeps for a bio (device-mapper's per-bio data).
 */
#ifndef QCOW_IO_H
#define QCOW_IO_H

#include <linux/device-mapper.h>

struct qcow_fill;
struct qcow_image;
struct qcow_slice;
struct qcow_target;

#define QCOW_IO_FUA	0x01	/* wants a commit after the data */
#define QCOW_IO_DONE	0x02	/* the commit has been waited for */
#define QCOW_IO_HELD	0x04	/* counted in dev->nr_held */
#define QCOW_IO_SPLIT	0x08	/* parts of it are under way */
#define QCOW_IO_JOIN	0x10	/* its clusters were pending with JOIN */

/**
 * struct qcow_io - state of one bio between map and end_io
 * @t: the table that mapped it
 * @img: the image whose epoch it counts in; NULL: it counts nowhere
 * @slice: pinned; entries [@idx, @idx + @nr) will be linked to host clusters
 *         from @host on when the bio has ended; NULL: none
 * @fill: the copy-on-write that this bio completes, or NULL
 * @layer: qcow_extent.from of a look-up that has missed
 */
struct qcow_io {
	struct qcow_target *t;
	struct qcow_image *img;
	struct qcow_slice *slice;
	struct qcow_fill *fill;
	u64 host;
	u32 nr;
	u16 idx;
	u16 layer;
	u8 epoch;
	u8 flags;
};

static inline struct qcow_io *qcow_io(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct qcow_io));
}

/* An error stays: a part of the bio may have met it before. */
static inline void qcow_bio_end(struct bio *bio, blk_status_t status)
{
	if (status)
		bio->bi_status = status;
	bio_endio(bio);
}

static inline u64 qcow_bio_guest(const struct bio *bio)
{
	return bio->bi_iter.bi_sector << SECTOR_SHIFT;
}

#endif
