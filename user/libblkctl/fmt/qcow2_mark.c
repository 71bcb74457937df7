// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The in-use mark, and the size of the file, around an attachment.
 *
 * Owns the header cluster's extensions.  Must not change what it does not
 * understand.  Locking: the public functions take q->lock.
 *
 * The mark takes the place of the END marker, and END moves behind it.  A
 * sector (512 bytes) is written or not; more than one may be torn.  So what
 * lies in later sectors is written first, where nobody looks yet, and the
 * sector of the old END last; removing goes the other way round.  A backing
 * file name in the way is copied further back before the header points to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/stop_int.h"
#include "fmt/qcow2_int.h"

#define SECTOR		512U
#define END_BYTES	8U
/* The mark and the END behind it */
#define NEED		(BLK_EXT_IN_USE_BYTES + END_BYTES)
#define HEADER_NAME_AT	8U	/* backing_file_offset */
#define HEADER_AUTOCLEAR_AT	88U

static uint32_t sector_end(uint32_t off)
{
	return (uint32_t)blk_align_up(off + 1, SECTOR);
}

/* Writes [off, off+len) of the header, later sectors first. */
static int write_backwards(struct blk_qcow2 *q, uint32_t off, uint32_t len)
{
	uint32_t split = BLK_MIN(sector_end(off), off + len);
	int ret = 0;

	if (split < off + len)
		ret = blk_q_write_head(q, split, off + len - split);
	return ret ? ret : blk_q_write_head(q, off, split - off);
}

static int write_forwards(struct blk_qcow2 *q, uint32_t off, uint32_t len)
{
	uint32_t split = BLK_MIN(sector_end(off), off + len);
	int ret = blk_q_write_head(q, off, split - off);

	if (!ret && split < off + len)
		ret = blk_q_write_head(q, split, off + len - split);
	return ret;
}

static int reparse(struct blk_qcow2 *q)
{
	return blk_ext_parse(q->head, q->cs, &q->h, &q->ext) ? -EUCLEAN : 0;
}

/*
 * Moves the backing file name out of the way.  1: there is no room.  Without
 * an END marker the extension area must not grow over the old name before END
 * is there, which only one write of one sector can do.
 */
static int move_name(struct blk_qcow2 *q, uint32_t *first)
{
	uint32_t len = q->h.backing_file_size;
	uint64_t old = q->h.backing_file_offset;
	uint64_t to = blk_align_up(BLK_MAX(q->ext.end + NEED, old + len), 8);
	int ret;

	if (!old || to + len > q->cs ||
	    (!q->ext.has_end && q->ext.end + NEED > SECTOR))
		return 1;
	memcpy(q->head + to, q->head + old, len);
	ret = blk_q_write_head(q, (uint32_t)to, len);
	if (ret < 0)
		return ret;
	q->h.backing_file_offset = to;
	blk_header_emit(&q->h, q->head);
	if (q->ext.has_end)
		ret = blk_q_write_head(q, HEADER_NAME_AT, 8);
	else
		*first = 0;	/* together with the mark */
	q->ext.limit = (uint32_t)to;
	return ret;
}

/* 1: there is no room */
static int insert_mark(struct blk_qcow2 *q)
{
	uint32_t at = q->ext.end;
	uint32_t first = at;
	int ret = 0;

	if (at + NEED > q->ext.limit)
		ret = move_name(q, &first);
	if (ret)
		return ret;
	blk_ext_emit_in_use(q->head + at);
	memset(q->head + at + BLK_EXT_IN_USE_BYTES, 0, END_BYTES);
	ret = write_backwards(q, first, at + NEED - first);
	blk_stop_point("marked");
	return ret ? ret : reparse(q);
}

/* There is an extension of ours already: say so in place. */
static int set_mark(struct blk_qcow2 *q, bool in_use)
{
	uint32_t at = q->ext.in_use + 8;
	int ret;

	blk_put_be32(q->head + at, in_use);
	ret = blk_q_write_head(q, at, 4);
	return ret ? ret : reparse(q);
}

static int clear_autoclear(struct blk_qcow2 *q)
{
	uint64_t known = QCOW2_AUTOCLEAR_DATA_FILE_RAW;

	if (q->ext.has_bitmaps)
		known |= QCOW2_AUTOCLEAR_BITMAPS;
	if (q->h.version < 3 || !(q->h.autoclear_features & ~known))
		return 0;
	q->h.autoclear_features &= known;
	blk_header_emit(&q->h, q->head);
	return blk_q_write_head(q, HEADER_AUTOCLEAR_AT, 8);
}

static int mark(struct blk_qcow2 *q, bool *was_marked)
{
	int ret = clear_autoclear(q);

	*was_marked = q->ext.in_use_set;
	if (ret < 0 || q->ext.in_use_set)
		return ret;
	if (q->ext.in_use)
		return set_mark(q, true);
	ret = insert_mark(q);
	if (ret > 0)
		*was_marked = true;	/* no room: a scan each time */
	return ret < 0 ? ret : 0;
}

int blk_qcow2_mark(struct blk_qcow2 *q, bool *was_marked, struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	ret = blk_alloc_prepare(q, e);
	if (ret < 0)
		return ret;
	ret = mark(q, was_marked);
	if (ret < 0) {
		blk_q_reread_head(q);
		return blk_q_io_error(q, e, ret, "write the header");
	}
	return 0;
}

static int remove_mark(struct blk_qcow2 *q)
{
	uint32_t at = q->ext.in_use;
	uint32_t len = q->ext.end - at;
	int ret;

	if (!q->ext.in_use_last)	/* another program has added one */
		return set_mark(q, false);
	if (q->ext.has_end)
		len += END_BYTES;
	memset(q->head + at, 0, len);
	ret = write_forwards(q, at, len);
	blk_stop_point("unmarked");
	return ret ? ret : reparse(q);
}

int blk_qcow2_unmark(struct blk_qcow2 *q, struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	if (!q->ext.in_use || q->leaked)
		return 0;
	ret = remove_mark(q);
	if (ret < 0) {
		blk_q_reread_head(q);
		return blk_q_io_error(q, e, ret, "write the header");
	}
	return 0;
}

/* A reader's descriptor cannot change the size; another one may. */
static int extend_read_only(struct blk_qcow2 *q, uint64_t size)
{
	char path[64];
	int fd blk_auto_close = -1;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", q->f->fd);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return ftruncate(fd, size) ? -errno : 0;
}

static int pad(struct blk_qcow2 *q, bool writable, uint64_t size, uint64_t to)
{
	int ret;

	if (!q->f->writable)
		return extend_read_only(q, to);
	ret = to > size ? blk_file_zero(q->f, size, to - size) : 0;
	if (ret == -EOPNOTSUPP)
		ret = blk_file_truncate(q->f, to);
	if (!ret && writable)
		ret = blk_file_flush(q->f);
	return ret;
}

int blk_qcow2_pad(struct blk_qcow2 *q, bool writable, struct blk_error *e)
{
	int64_t size;
	uint64_t to;
	int ret;

	blk_guard_mutex(&q->lock);
	if (q->f->is_bdev)
		return 0;
	size = blk_file_size(q->f);
	if (size < 0)
		return blk_q_io_error(q, e, (int)size, "find the size");
	to = blk_align_up(size, BLK_MAX(q->cs, q->f->block));
	if (to == (uint64_t)size || (!writable && !(size & (SECTOR - 1))))
		return 0;
	ret = pad(q, writable, size, to);
	if (ret < 0) {
		blk_q_io_error(q, e, ret, "extend the file to whole clusters");
		if (!writable)
			blk_error_hint(e,
				       "its size is no multiple of 512 bytes: a loop device would cut off the end");
		return ret;
	}
	if (q->ready)
		q->fresh_from = BLK_MAX(q->fresh_from, to);
	return 0;
}
