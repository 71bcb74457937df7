// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The header cluster, written anew: for changes of names, versions and
 * features of an image that nobody else uses.
 *
 * Owns the layout of what it writes.  Must not lose extensions that it does not
 * know.  Locking: the caller holds q->lock.
 *
 * A sector (512 bytes) is written or not; more than one may be torn.  What
 * matters is in the first one: the fixed header, then the extensions without
 * which the image is another one.  So the new name goes to where nobody looks
 * yet; then the first sector alone changes everything, with the area of the
 * extensions ending in it; then the rest is written behind that end; at last
 * the first sector again, with all of the extensions.  Where they do not fit
 * like that, one write has to do, as in QEMU.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_header_int.h"

#define SECTOR		512U
#define EXT_BYTES	8U	/* magic and length; also the END marker */

/**
 * struct layout - a header cluster that is being put together
 * @buf: cs bytes
 * @at: where the next extension goes
 * @essential: the end of those that matter
 * @why: it does not fit, NULL: it does
 */
struct layout {
	struct blk_qcow2 *q;
	const struct blk_head_new *n;
	struct qcow2_header h;
	uint8_t *buf;
	uint64_t at;
	uint64_t essential;
	bool full;
};

static void put_ext(struct layout *l, uint32_t magic, const void *data,
		    uint64_t len)
{
	uint64_t end = l->at + EXT_BYTES + blk_align_up(len, 8);

	if (l->full || end + EXT_BYTES > l->q->cs) {
		l->full = true;
		return;
	}
	blk_put_be32(l->buf + l->at, magic);
	blk_put_be32(l->buf + l->at + 4, (uint32_t)len);
	memcpy(l->buf + l->at + EXT_BYTES, data, len);
	l->at = end;
}

static void put_name(struct layout *l, uint32_t magic, const char *name)
{
	if (name && *name)
		put_ext(l, magic, name, strlen(name));
}

static bool is_essential(uint32_t magic)
{
	return magic == QCOW2_EXT_CRYPTO || magic == QCOW2_EXT_IN_USE;
}

static bool is_ours(uint32_t magic)
{
	return magic == QCOW2_EXT_BACKING_FORMAT ||
		magic == QCOW2_EXT_DATA_FILE || magic == QCOW2_EXT_BITMAPS;
}

static void put_bitmaps(struct layout *l)
{
	const struct blk_head_new *n = l->n;
	uint8_t data[24] = { 0 };

	if (!n->n_bitmaps)
		return;
	blk_put_be32(data, n->n_bitmaps);
	blk_put_be64(data + 8, n->bitmap_dir_size);
	blk_put_be64(data + 16, n->bitmap_dir_offset);
	put_ext(l, QCOW2_EXT_BITMAPS, data, sizeof(data));
}

/* Those that were there and stay as they are; the parser has judged them. */
static void copy_exts(struct layout *l, bool essential)
{
	const uint8_t *head = l->q->head;
	uint32_t pos = l->q->ext.start;

	while (pos + EXT_BYTES <= l->q->ext.end) {
		uint32_t magic = blk_get_be32(head + pos);
		uint32_t len = blk_get_be32(head + pos + 4);

		if (!is_ours(magic) && is_essential(magic) == essential &&
		    !(l->h.version < 3 && magic == QCOW2_EXT_FEATURE_TABLE))
			put_ext(l, magic, head + pos + EXT_BYTES, len);
		pos += EXT_BYTES + (uint32_t)blk_align_up(len, 8);
	}
}

static uint32_t length_of(const struct layout *l)
{
	if (l->n->h.version < 3)
		return QCOW2_V2_HEADER_BYTES;
	return l->q->h.version < 3 ? QCOW2_HEADER_MIN_READ :
		l->q->h.header_length;
}

static uint64_t name_len(const struct layout *l)
{
	return l->n->backing_file ? strlen(l->n->backing_file) : 0;
}

/* Is [at, at + len) nothing that the header on disk says? */
static bool is_unused(const struct blk_qcow2 *q, uint64_t at, uint64_t len)
{
	uint64_t old = q->h.backing_file_offset;

	return at >= q->ext.end + EXT_BYTES &&
		(!old || at >= old + q->h.backing_file_size || at + len <= old);
}

static void place_name(struct layout *l)
{
	const struct blk_qcow2 *q = l->q;
	uint64_t len = name_len(l), old = q->h.backing_file_offset;
	uint64_t at = l->at + EXT_BYTES, other;

	l->h.backing_file_offset = 0;
	l->h.backing_file_size = 0;
	if (!len)
		return;
	if (at + len > SECTOR) {
		at = BLK_MAX(at, BLK_MIN(SECTOR, q->cs));
		other = BLK_MAX(at, q->ext.end + EXT_BYTES);
		if (!is_unused(q, other, len) && old)
			other = BLK_MAX(other, blk_align_up(old +
						q->h.backing_file_size, 8));
		if (is_unused(q, other, len) && other + len <= q->cs)
			at = other;
		else if (at + len > q->cs)
			at = l->at + EXT_BYTES;
	}
	if (at + len > q->cs) {
		l->full = true;
		return;
	}
	memcpy(l->buf + at, l->n->backing_file, len);
	l->h.backing_file_offset = at;
	l->h.backing_file_size = (uint32_t)len;
}

static void lay_out(struct layout *l)
{
	const struct blk_qcow2 *q = l->q;

	l->h = l->n->h;
	l->h.header_length = length_of(l);
	l->h.autoclear_features &= QCOW2_AUTOCLEAR_DATA_FILE_RAW |
		(l->n->n_bitmaps ? QCOW2_AUTOCLEAR_BITMAPS : 0);
	/* fields that are not known here */
	if (l->h.version >= 3 && q->h.version >= 3)
		memcpy(l->buf, q->head, l->h.header_length);
	l->at = l->h.header_length;
	put_name(l, QCOW2_EXT_BACKING_FORMAT,
		 l->n->backing_file ? l->n->backing_format : NULL);
	put_name(l, QCOW2_EXT_DATA_FILE, l->n->data_file);
	copy_exts(l, true);
	put_bitmaps(l);
	l->essential = l->at + EXT_BYTES;
	copy_exts(l, false);
	if (!l->full)
		place_name(l);
	blk_header_emit(&l->h, l->buf);
}

static int write_part(struct layout *l, uint64_t from, uint64_t to)
{
	struct blk_qcow2 *q = l->q;

	memcpy(q->head + from, l->buf + from, to - from);
	return blk_q_write_head(q, (uint32_t)from, (uint32_t)(to - from));
}

static uint64_t used_end(const struct layout *l)
{
	return BLK_MAX(l->at + EXT_BYTES, l->h.backing_file_offset +
		       l->h.backing_file_size);
}

/* The first sector with an END behind the extensions that matter */
static int write_first(struct layout *l)
{
	struct blk_qcow2 *q = l->q;

	memcpy(q->head, l->buf, l->essential - EXT_BYTES);
	memset(q->head + l->essential - EXT_BYTES, 0, EXT_BYTES);
	return blk_q_write_head(q, 0, SECTOR);
}

static int write_safely(struct layout *l)
{
	uint64_t name = l->h.backing_file_offset;
	int ret = 0;

	if (name)
		ret = write_part(l, name, name + l->h.backing_file_size);
	if (!ret)
		ret = write_first(l);
	if (!ret)
		ret = write_part(l, SECTOR, l->q->cs);
	return ret ? ret : write_part(l, 0, SECTOR);
}

static int write_layout(struct layout *l)
{
	struct blk_qcow2 *q = l->q;
	uint64_t name = l->h.backing_file_offset;

	if (used_end(l) <= SECTOR) {
		int ret = write_part(l, 0, SECTOR);

		/* what is left behind the end is of no use to anybody */
		return ret || q->cs == SECTOR ? ret :
			write_part(l, SECTOR, q->cs);
	}
	if (l->essential <= SECTOR &&
	    (!name || (name >= SECTOR &&
		       is_unused(q, name, l->h.backing_file_size))))
		return write_safely(l);
	return write_part(l, 0, q->cs);
}

static int replace_name(char **name, const char *to)
{
	char *copy = to && *to ? strdup(to) : NULL;

	if (to && *to && !copy)
		return -ENOMEM;
	free(*name);
	*name = copy;
	return 0;
}

static int take_over(struct layout *l)
{
	struct blk_qcow2 *q = l->q;
	const struct blk_head_new n = *l->n;
	int ret;

	if (qcow2_header_decode(q->head, &q->h) ||
	    blk_ext_parse(q->head, q->cs, &q->h, &q->ext))
		return -EUCLEAN;
	if (n.backing_file != q->backing_file) {
		ret = replace_name(&q->backing_file, n.backing_file);
		if (ret < 0)
			return ret;
	}
	ret = n.backing_format != q->backing_format ?
		replace_name(&q->backing_format, n.backing_format) : 0;
	if (!ret && n.data_file != q->data_file)
		ret = replace_name(&q->data_file, n.data_file);
	return ret;
}

void blk_head_keep(struct blk_qcow2 *q, struct blk_head_new *n)
{
	*n = (struct blk_head_new){
		.h = q->h,
		.backing_file = q->backing_file,
		.backing_format = q->backing_format,
		.data_file = q->data_file,
		.n_bitmaps = q->ext.n_bitmaps,
		.bitmap_dir_size = q->ext.bitmap_dir_size,
		.bitmap_dir_offset = q->ext.bitmap_dir_offset,
	};
}

int blk_head_put(struct blk_qcow2 *q, const struct blk_head_new *n,
		 struct blk_error *e)
{
	struct layout l = { .q = q, .n = n };
	int ret;

	if (q->stuck)
		return blk_q_io_error(q, e, -EIO, "write the header");
	l.buf = calloc(1, BLK_MAX(q->cs, 4096U));
	if (!l.buf)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	lay_out(&l);
	if (l.full) {
		free(l.buf);
		return blk_error_set(e, BLK_ERR_FAILED, ENOSPC,
				     "the header cluster of '%s' (%llu bytes) has no room for that name",
				     q->f->path, (unsigned long long)q->cs);
	}
	ret = write_layout(&l);
	if (ret < 0)
		blk_q_reread_head(q);
	else
		ret = take_over(&l);
	free(l.buf);
	return ret < 0 ? blk_q_io_error(q, e, ret, "write the header") : 0;
}

int blk_qcow2_set_backing(struct blk_qcow2 *q, const char *name,
			  const char *format, struct blk_error *e)
{
	struct blk_head_new n;

	blk_guard_mutex(&q->lock);
	if (name && strlen(name) > QCOW2_MAX_BACKING_NAME)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "the name of the backing file is too long (%u bytes at most)",
				     QCOW2_MAX_BACKING_NAME);
	if (name && *name && blk_qcow2_data_file_raw(q))
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' cannot have a backing file: its data file is a raw image of the whole disk (data_file_raw)",
				     q->f->path);
	blk_head_keep(q, &n);
	n.backing_file = name && *name ? name : NULL;
	n.backing_format = n.backing_file ? format : NULL;
	return blk_head_put(q, &n, e);
}
