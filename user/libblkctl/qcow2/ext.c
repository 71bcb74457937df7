// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Header extensions.
 *
 * Pure functions over the bytes of the header cluster: no I/O, no memory, no
 * state, no locking.  Nothing here trusts a length or an offset.
 */
#include "qcow2/ext.h"

#include <stdio.h>
#include <string.h>

#include "base/be.h"

#define FEATURE_ENTRY_BYTES	(2U + BLK_FEATURE_NAME_MAX)
#define EXT_HEADER_BYTES	8U
#define BITMAPS_BYTES		24U
#define CRYPTO_BYTES		16U
#define MAX_DATA_FILE_NAME	4095U	/* a path cannot be longer */
#define MAX_BITMAPS		65535U
#define MAX_BITMAP_DIR		(MAX_BITMAPS * 1024ULL)

struct walk {
	const uint8_t *head;
	const struct qcow2_header *h;
	struct blk_ext_info *out;
};

static const char *take_range(struct blk_ext_range *r, uint32_t off,
			      uint32_t len)
{
	r->off = off;
	r->len = len;
	return NULL;
}

static const char *parse_backing_format(struct walk *w, uint32_t off,
					uint32_t len)
{
	return take_range(&w->out->backing_format, off, len);
}

static const char *parse_features(struct walk *w, uint32_t off, uint32_t len)
{
	return take_range(&w->out->features, off, len);
}

static const char *parse_data_file(struct walk *w, uint32_t off, uint32_t len)
{
	if (len > MAX_DATA_FILE_NAME)
		return "the name of its data file is too long";
	/* cut short, it would name another file */
	if (len && memchr(w->head + off, 0, len))
		return "the name of its data file contains a NUL";
	return take_range(&w->out->data_file, off, len);
}

static const char *parse_bitmaps(struct walk *w, uint32_t off, uint32_t len)
{
	const uint8_t *p = w->head + off;
	struct blk_ext_info *o = w->out;

	if (len != BITMAPS_BYTES)
		return "the bitmaps extension has a wrong length";
	o->has_bitmaps = true;
	o->n_bitmaps = blk_get_be32(p);
	o->bitmap_dir_size = blk_get_be64(p + 8);
	o->bitmap_dir_offset = blk_get_be64(p + 16);
	if (blk_get_be32(p + 4))
		return "reserved bytes of the bitmaps extension are set";
	if (!o->n_bitmaps || o->n_bitmaps > MAX_BITMAPS)
		return "the number of bitmaps is out of range (1..65535)";
	if (!o->bitmap_dir_size || o->bitmap_dir_size > MAX_BITMAP_DIR)
		return "the size of the bitmap directory is out of range";
	if (!qcow2_table_ok(w->h, o->bitmap_dir_offset, o->bitmap_dir_size))
		return "the offset of the bitmap directory is out of range";
	return NULL;
}

static const char *parse_crypto(struct walk *w, uint32_t off, uint32_t len)
{
	const uint8_t *p = w->head + off;
	struct blk_ext_info *o = w->out;

	if (w->h->crypt_method != QCOW2_CRYPT_LUKS)
		return "an encryption extension, but the image is not encrypted with LUKS";
	if (len != CRYPTO_BYTES)
		return "the encryption extension has a wrong length";
	o->has_crypto = true;
	o->crypto_offset = blk_get_be64(p);
	o->crypto_length = blk_get_be64(p + 8);
	if (!o->crypto_length || o->crypto_length > 1ULL << 32 ||
	    !qcow2_table_ok(w->h, o->crypto_offset, o->crypto_length))
		return "the LUKS header's place is out of range";
	return NULL;
}

static const char *parse_in_use(struct walk *w, uint32_t off, uint32_t len)
{
	w->out->in_use = off - EXT_HEADER_BYTES;
	/* version 0 says "left over, not in use" */
	w->out->in_use_set = len < 4 || blk_get_be32(w->head + off);
	return NULL;
}

static const struct {
	uint32_t magic;
	const char *(*parse)(struct walk *w, uint32_t off, uint32_t len);
} parsers[] = {
	{ QCOW2_EXT_BACKING_FORMAT, parse_backing_format },
	{ QCOW2_EXT_FEATURE_TABLE, parse_features },
	{ QCOW2_EXT_BITMAPS, parse_bitmaps },
	{ QCOW2_EXT_CRYPTO, parse_crypto },
	{ QCOW2_EXT_DATA_FILE, parse_data_file },
	{ QCOW2_EXT_IN_USE, parse_in_use },
};

static const char *parse_one(struct walk *w, uint32_t magic, uint32_t off,
			     uint32_t len)
{
	for (size_t i = 0; i < BLK_COUNT(parsers); i++)
		if (parsers[i].magic == magic)
			return parsers[i].parse(w, off, len);
	return NULL;	/* unknown ones are kept and ignored */
}

static const char *check_area(size_t len, const struct qcow2_header *h,
			      struct blk_ext_info *out)
{
	uint64_t cs;

	if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
	    h->cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return "cluster_bits is out of range (9..21)";
	cs = qcow2_cluster_size(h);
	out->start = h->header_length;
	out->limit = cs;
	if (h->backing_file_offset) {
		if (h->backing_file_offset > cs)
			return "the backing file name is outside the header cluster";
		out->limit = h->backing_file_offset;
	}
	if (h->header_length < QCOW2_V2_HEADER_BYTES || h->header_length & 7 ||
	    h->header_length > cs || len < cs)
		return "header_length is out of range";
	if (out->start > out->limit)
		return "the backing file name overlaps the header";
	return NULL;
}

const char *blk_ext_parse(const void *head, size_t len,
			  const struct qcow2_header *h,
			  struct blk_ext_info *out)
{
	struct walk w = { .head = head, .h = h, .out = out };
	const char *why;
	uint32_t pos;

	memset(out, 0, sizeof(*out));
	why = check_area(len, h, out);
	pos = out->end = out->start;
	while (!why && pos + EXT_HEADER_BYTES <= out->limit) {
		uint32_t magic = blk_get_be32(w.head + pos);
		uint32_t ext_len = blk_get_be32(w.head + pos + 4);
		uint32_t data = pos + EXT_HEADER_BYTES;

		if (ext_len > out->limit - data)	/* of END too, as QEMU */
			return "a header extension is too long";
		if (magic == QCOW2_EXT_END) {
			out->has_end = true;
			break;
		}
		why = parse_one(&w, magic, data, ext_len);
		pos = data + (uint32_t)blk_align_up(ext_len, 8);
		pos = BLK_MIN(pos, out->limit);
		out->end = pos;
		out->in_use_last = magic == QCOW2_EXT_IN_USE;
	}
	return why;
}

void blk_ext_feature_name(const void *head, const struct blk_ext_info *info,
			  enum blk_feature_type type, unsigned int bit,
			  char *name)
{
	const uint8_t *p = (const uint8_t *)head + info->features.off;
	uint32_t n = info->features.len / FEATURE_ENTRY_BYTES;

	snprintf(name, BLK_FEATURE_NAME_MAX + 1, "bit %u", bit);
	for (uint32_t i = 0; i < n; i++, p += FEATURE_ENTRY_BYTES) {
		if (p[0] != type || p[1] != bit || !p[2])
			continue;
		memcpy(name, p + 2, BLK_FEATURE_NAME_MAX);
		name[BLK_FEATURE_NAME_MAX] = '\0';
		for (char *c = name; *c; c++)
			if (*c < ' ' || *c > '~')
				*c = '?';
		return;
	}
}

void blk_ext_feature_names(const void *head, const struct blk_ext_info *info,
			   enum blk_feature_type type, uint64_t mask,
			   char *buf, size_t len)
{
	char name[BLK_FEATURE_NAME_MAX + 1];
	size_t pos = 0;

	if (len)
		buf[0] = '\0';
	for (unsigned int bit = 0; bit < 64 && pos < len; bit++) {
		if (!(mask >> bit & 1))
			continue;
		blk_ext_feature_name(head, info, type, bit, name);
		pos += (size_t)snprintf(buf + pos, len - pos, "%s%s",
					pos ? ", " : "", name);
	}
}

void blk_ext_emit_in_use(void *p)
{
	uint8_t *b = p;

	blk_put_be32(b, QCOW2_EXT_IN_USE);
	blk_put_be32(b + 4, sizeof(struct qcow2_disk_in_use));
	blk_put_be32(b + 8, 1);
	blk_put_be32(b + 12, 0);
}

void blk_header_emit(const struct qcow2_header *h, void *buf)
{
	struct qcow2_disk_header d;

	memcpy(&d, buf, sizeof(d));
	d.magic = htobe32(QCOW2_MAGIC);
	d.version = htobe32(h->version);
	d.backing_file_offset = htobe64(h->backing_file_offset);
	d.backing_file_size = htobe32(h->backing_file_size);
	d.cluster_bits = htobe32(h->cluster_bits);
	d.size = htobe64(h->size);
	d.crypt_method = htobe32(h->crypt_method);
	d.l1_size = htobe32(h->l1_size);
	d.l1_table_offset = htobe64(h->l1_table_offset);
	d.refcount_table_offset = htobe64(h->refcount_table_offset);
	d.refcount_table_clusters = htobe32(h->refcount_table_clusters);
	d.nb_snapshots = htobe32(h->nb_snapshots);
	d.snapshots_offset = htobe64(h->snapshots_offset);
	if (h->version >= 3) {
		d.incompatible_features = htobe64(h->incompatible_features);
		d.compatible_features = htobe64(h->compatible_features);
		d.autoclear_features = htobe64(h->autoclear_features);
		d.refcount_order = htobe32(h->refcount_order);
		d.header_length = htobe32(h->header_length);
		if (h->header_length > QCOW2_V3_HEADER_BYTES)
			d.compression_type = (uint8_t)h->compression_type;
	}
	memcpy(buf, &d, sizeof(d));
}
