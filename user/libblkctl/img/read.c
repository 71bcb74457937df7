// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Reading what the disk has.
 *
 * Any number of threads; memory is allocated for a compressed cluster, and for
 * unaligned parts of an encrypted one, and freed before it returns.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "codec/inflate.h"
#include "img/img_int.h"

#define SECTOR 512U

static int no_sense(const struct blk_img *m, uint64_t off, struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, EIO,
			     "'%s' is damaged: the compressed cluster at %llu of its disk cannot be decompressed",
			     m->file->path, (unsigned long long)off);
}

/* The whole cluster at @off, to @out */
static int inflate_cluster(struct blk_img *m, uint64_t off, void *out,
			   struct blk_error *e)
{
	uint64_t entry, bitmap, at, len;
	void *in blk_auto_free = NULL;
	int rc = img_entry(m, off, &entry, &bitmap, e);

	if (rc)
		return rc;
	at = qcow2_compressed_offset(entry, m->h.cluster_bits);
	len = qcow2_compressed_length(entry, m->h.cluster_bits);
	if (!(entry & QCOW2_L2_COMPRESSED) || len > 2 * m->cs + SECTOR)
		return no_sense(m, off, e);
	in = malloc(len);
	if (!in)
		return img_no_memory(e);
	rc = blk_file_read(m->file, in, len, at);
	if (rc)
		return img_io_error(m->file, rc, "read", e);
	rc = blk_codec_inflate(m->h.compression_type, in, len, out, m->cs);
	if (rc == -ENOMEM)
		return img_no_memory(e);
	return rc ? no_sense(m, off, e) : 0;
}

static int read_compressed(struct blk_img *m, uint8_t *buf, uint64_t len,
			   uint64_t off, struct blk_error *e)
{
	void *whole blk_auto_free = NULL;
	int rc = 0;

	while (!rc && len) {
		uint64_t in = off & (m->cs - 1);
		uint64_t n = m->cs - in < len ? m->cs - in : len;

		if (n == m->cs) {
			rc = inflate_cluster(m, off, buf, e);
		} else {
			if (!whole)
				whole = malloc(m->cs);
			rc = whole ? inflate_cluster(m, off - in, whole, e) :
				img_no_memory(e);
			if (!rc)
				memcpy(buf, (uint8_t *)whole + in, n);
		}
		buf += n;
		off += n;
		len -= n;
	}
	return rc;
}

static int read_encrypted(struct blk_img *m, struct blk_file *f, uint8_t *buf,
			  uint64_t len, uint64_t host, struct blk_error *e)
{
	uint64_t from = host & ~(uint64_t)(SECTOR - 1);
	uint64_t to = (host + len + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	uint8_t *bounce blk_auto_free = NULL, *p = buf;
	int rc;

	if (!m->key)
		return blk_error_set(e, BLK_ERR_FAILED, ENOKEY,
				     "'%s' is encrypted, and there is no key",
				     m->file->path);
	if (from != host || to != host + len) {
		bounce = p = malloc(to - from);
		if (!bounce)
			return img_no_memory(e);
	}
	rc = blk_file_read(f, p, to - from, from);
	if (rc)
		return img_io_error(f, rc, "read", e);
	img_decrypt(m->key, from, p, to - from);
	if (bounce)
		memcpy(buf, bounce + (host - from), len);
	return 0;
}

static int read_extent(struct blk_img *m, const struct blk_extent *x,
		       uint8_t *buf, struct blk_error *e)
{
	unsigned int i;
	int rc;

	for (i = 0; i < x->layer && m->backing; i++)
		m = m->backing;
	switch (x->kind) {
	case BLK_EXT_COMPRESSED:
		return read_compressed(m, buf, x->len, x->off, e);
	case BLK_EXT_DATA:
		if (m->q && m->h.crypt_method)
			return read_encrypted(m, x->file, buf, x->len, x->host,
					      e);
		rc = blk_file_read(x->file, buf, x->len, x->host);
		return rc ? img_io_error(x->file, rc, "read", e) : 0;
	default:
		memset(buf, 0, x->len);
		return 0;
	}
}

int blk_img_read(struct blk_img *m, void *buf, size_t len, uint64_t off,
		 struct blk_error *e)
{
	uint8_t *p = buf;
	int rc = 0;

	while (!rc && len) {
		struct blk_extent x;

		rc = blk_img_map(m, off, len, &x, e);
		if (!rc)
			rc = read_extent(m, &x, p, e);
		if (rc)
			break;
		p += x.len;
		off += x.len;
		len -= x.len;
	}
	return rc;
}
