// SPDX-License-Identifier: GPL-2.0-only
/*
 * Metadata I/O.  Owns nothing; sleeps; takes no lock.
 */
#include <linux/mm.h>
#include <linux/vmalloc.h>

#include "metaio.h"

void qcow_metaio_begin(struct qcow_metaio *io, struct block_device *bdev,
		       struct bio_set *bios)
{
	io->bdev = bdev;
	io->bios = bios;
	atomic_set(&io->pending, 1);
	io->error = 0;
	init_completion(&io->done);
	blk_start_plug(&io->plug);
}

static void metaio_end(struct bio *bio)
{
	struct qcow_metaio *io = bio->bi_private;

	if (bio->bi_status)
		WRITE_ONCE(io->error, blk_status_to_errno(bio->bi_status));
	bio_put(bio);
	if (atomic_dec_and_test(&io->pending))
		complete(&io->done);
}

void qcow_metaio_write(struct qcow_metaio *io, u64 off, struct page *page,
		       unsigned int len)
{
	struct bio *bio = bio_alloc_bioset(io->bdev, 1, REQ_OP_WRITE |
					   REQ_META | REQ_SYNC, GFP_NOIO,
					   io->bios);

	bio->bi_iter.bi_sector = off >> SECTOR_SHIFT;
	bio->bi_private = io;
	bio->bi_end_io = metaio_end;
	__bio_add_page(bio, page, len, 0);
	atomic_inc(&io->pending);
	submit_bio(bio);
}

int qcow_metaio_wait(struct qcow_metaio *io)
{
	blk_finish_plug(&io->plug);
	if (!atomic_dec_and_test(&io->pending))
		wait_for_completion_io(&io->done);
	return io->error;
}

int qcow_meta_read(struct block_device *bdev, struct bio_set *bios, u64 off,
		   void *buf, size_t len)
{
	u64 bytes = bdev_nr_bytes(bdev);
	size_t want = off >= bytes ? 0 : min_t(u64, len, bytes - off);
	size_t done = 0;
	struct bio *bio;
	int r = 0;

	memset(buf, 0, len);
	want = round_up(want, bdev_logical_block_size(bdev));
	while (!r && done < want) {
		bio = bio_alloc_bioset(bdev,
				       bio_max_segs(DIV_ROUND_UP(want - done,
								 PAGE_SIZE)),
				       REQ_OP_READ | REQ_META, GFP_NOIO, bios);
		bio->bi_iter.bi_sector = (off + done) >> SECTOR_SHIFT;
		while (done < want) {
			size_t n = min_t(size_t, want - done, PAGE_SIZE);

			if (bio_add_page(bio, vmalloc_to_page(buf + done), n,
					 0) != n)
				break;
			done += n;
		}
		r = submit_bio_wait(bio);
		bio_put(bio);
	}
	return r;
}
