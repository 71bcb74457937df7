// SPDX-License-Identifier: GPL-2.0-only
/*
 * Who waits for a compressed cluster.
 *
 * Owns nothing: whoever has the list has those who are on it.  Takes no lock;
 * the list's owner guards it.
 */
#include <linux/string.h>

#include "device.h"
#include "io.h"
#include "target.h"
#include "waiters.h"

void qcow_waiters_init(struct qcow_waiters *w)
{
	bio_list_init(&w->bios);
	INIT_LIST_HEAD(&w->sleepers);
}

void qcow_waiters_add(struct qcow_waiters *w, struct bio *bio,
		      struct qcow_sleeper *s)
{
	if (bio)
		bio_list_add(&w->bios, bio);
	else
		list_add_tail(&s->node, &w->sleepers);
}

void qcow_waiters_move(struct qcow_waiters *from, struct qcow_waiters *to)
{
	bio_list_merge_head(&to->bios, &from->bios);
	bio_list_init(&from->bios);
	list_splice_init(&from->sleepers, &to->sleepers);
}

struct bio *qcow_waiters_only_bio(const struct qcow_waiters *w)
{
	struct bio *bio = w->bios.head;

	return bio && !bio->bi_next && list_empty(&w->sleepers) ? bio : NULL;
}

void qcow_bio_fill(struct bio *bio, const void *data)
{
	struct bvec_iter iter;
	struct bio_vec bv;

	bio_for_each_segment(bv, bio, iter) {
		memcpy_to_bvec(&bv, data);
		data += bv.bv_len;
	}
	qcow_stat_inc(qcow_io(bio)->t->dev->stats, read_compressed);
}

void qcow_waiters_fill(struct qcow_waiters *w, const void *data, int error)
{
	struct qcow_sleeper *s;
	struct bio *bio;

	bio_list_for_each(bio, &w->bios) {
		if (!error)
			qcow_bio_fill(bio, data + qcow_io(bio)->nr);
		else
			bio->bi_status = errno_to_blk_status(error);
	}
	list_for_each_entry(s, &w->sleepers, node) {
		if (!error)
			memcpy(s->buf, data + s->in, s->len);
		s->error = error;
	}
}

void qcow_waiters_end(struct qcow_waiters *w)
{
	struct qcow_sleeper *s, *next;
	struct bio *bio;

	while ((bio = bio_list_pop(&w->bios)))
		bio_endio(bio);
	list_for_each_entry_safe(s, next, &w->sleepers, node)
		complete(&s->done);
}
