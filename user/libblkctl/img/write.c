// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Writing to the disk in an image.
 *
 * Owns: blk_img.remap and .deflate.  Whole clusters are made of what the disk
 * reads as and of what is written, where an old one cannot be written to.
 * Locking: blk_img.write_lock around everything, so that writers wait for each
 * other; blk_img.lock in it while tables change, for readers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "fmt/remap.h"
#include "img/img_int.h"

#define ZEROES	(1U << 20)

static int begin(struct blk_img *m, struct blk_error *e)
{
	bool repaired;
	int ret;

	if (m->remap || !m->q)
		return 0;
	ret = blk_qcow2_repair(m->q, &repaired, e);
	/* nothing here tells bitmaps what is written */
	if (!ret && !(m->flags & BLK_IMG_RECORDED))
		ret = blk_qcow2_bitmaps_begin(m->q, false, e);
	if (!ret)
		ret = blk_remap_open(m->q, m->data ? m->data : m->file,
				     &m->remap, e);
	if (!ret)
		img_table_forget(m);
	return ret;
}

/* Another table may become what is on disk. */
static void before_table(struct blk_img *m, uint64_t at)
{
	uint64_t l1;

	if (!blk_remap_peek(m->remap, at, &l1))
		img_table_forget(m);
}

static int get_entry(struct blk_img *m, uint64_t at, uint64_t *entry,
		     uint64_t *bitmap, struct blk_error *e)
{
	blk_guard_mutex(&m->lock);
	before_table(m, at);
	return blk_remap_get(m->remap, at, entry, bitmap, e);
}

static int set_entry(struct blk_img *m, uint64_t at, uint64_t entry,
		     uint64_t bitmap, struct blk_error *e)
{
	blk_guard_mutex(&m->lock);
	before_table(m, at);
	return blk_remap_set(m->remap, at, entry, bitmap, e);
}

/* Plain text at @host of the file; encrypted on the way, in a copy */
static int put(struct blk_img *m, const void *buf, size_t len, uint64_t host,
	       struct blk_error *e)
{
	struct blk_file *f = m->data ? m->data : m->file;
	void *copy = NULL;
	int ret;

	if (m->q && m->h.crypt_method) {
		if (!m->key)
			return blk_error_set(e, BLK_ERR_FAILED, ENOKEY,
					     "'%s' is encrypted, and there is no key",
					     m->file->path);
		if (posix_memalign(&copy, 4096, blk_align_up(len, 4096)))
			return img_no_memory(e);
		memcpy(copy, buf, len);
		img_encrypt(m->key, host, copy, len);
		buf = copy;
	}
	ret = blk_file_write(f, buf, len, host);
	free(copy);
	return ret < 0 ? img_io_error(f, ret, "write", e) : 0;
}

/* Bytes of the cluster that the disk has */
static uint64_t in_disk(const struct blk_img *m, uint64_t at)
{
	return BLK_MIN(m->cs, m->size - at);
}

/* One cluster: what it reads as, with @buf in it */
static int compose(struct blk_img *m, uint8_t *whole, const void *buf,
		   size_t len, uint64_t at, uint64_t in, struct blk_error *e)
{
	uint64_t n = in_disk(m, at);
	int ret = 0;

	memset(whole + n, 0, m->cs - n);
	if (in)
		ret = blk_img_read(m, whole, in, at, e);
	if (!ret && in + len < n)
		ret = blk_img_read(m, whole + in + len, n - in - len,
				   at + in + len, e);
	if (!ret)
		memcpy(whole + in, buf, len);
	return ret;
}

/* Its place, if it has one that may be written to; else a new one */
static int find_place(struct blk_img *m, uint64_t at, uint64_t entry,
		      uint64_t *host, struct blk_error *e)
{
	int ret;

	*host = at;
	if (m->data)
		return 0;
	ret = blk_remap_is_own(m->remap, entry, e);
	if (ret > 0) {
		*host = entry & QCOW2_OFFSET_MASK;
		return 0;
	}
	return ret ? ret : blk_remap_alloc(m->remap, host, e);
}

/* It has, or gets, a cluster that is its own, and all of it is written. */
static int write_whole(struct blk_img *m, const void *buf, size_t len,
		       uint64_t at, uint64_t in, uint64_t entry,
		       struct blk_error *e)
{
	uint8_t *whole = NULL;
	uint64_t host;
	int ret;

	if (len < m->cs) {
		if (posix_memalign((void **)&whole, 4096,
				   BLK_MAX(m->cs, 4096U)))
			return img_no_memory(e);
		ret = compose(m, whole, buf, len, at, in, e);
		buf = whole;
	} else {
		ret = 0;
	}
	if (!ret)
		ret = find_place(m, at, entry, &host, e);
	if (!ret)
		ret = put(m, buf, m->data ? in_disk(m, at) : m->cs, host, e);
	free(whole);
	return ret ? ret : set_entry(m, at, host | QCOW2_ENTRY_COPIED,
				     img_has_extl2(m) ?
				     QCOW2_EXTL2_ALL_ALLOC : 0, e);
}

/* Are all of its bytes there already, in a cluster that may be changed? */
static int is_in_place(struct blk_img *m, uint64_t entry, uint64_t bitmap,
		       uint64_t in, size_t len, struct blk_error *e)
{
	uint32_t bits = m->h.cluster_bits - 5;

	if (entry & (QCOW2_L2_COMPRESSED | QCOW2_L2_ZERO))
		return 0;
	/* the rest of a sector has to be decrypted first */
	if (m->h.crypt_method && (in | len) & 511)
		return 0;
	for (uint64_t sc = in >> bits; img_has_extl2(m) &&
	     sc <= (in + len - 1) >> bits; sc++)
		if (!(bitmap & QCOW2_EXTL2_ALLOC(sc)))
			return 0;
	return blk_remap_is_own(m->remap, entry, e);
}

static int write_cluster(struct blk_img *m, const void *buf, size_t len,
			 uint64_t at, uint64_t in, struct blk_error *e)
{
	uint64_t entry, bitmap;
	int ret = get_entry(m, at, &entry, &bitmap, e);

	if (!ret)
		ret = is_in_place(m, entry, bitmap, in, len, e);
	if (ret < 0)
		return ret;
	if (ret)
		return put(m, buf, len, (m->data ? at :
					 entry & QCOW2_OFFSET_MASK) + in, e);
	return write_whole(m, buf, len, at, in, entry, e);
}

typedef int (*cluster_fn)(struct blk_img *m, const void *buf, size_t len,
			  uint64_t at, uint64_t in, struct blk_error *e);

static int check_range(const struct blk_img *m, uint64_t off, uint64_t len,
		       struct blk_error *e)
{
	if (!(m->flags & BLK_IMG_WRITE))
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "'%s' is open for reading only", m->name);
	return off <= m->size && len <= m->size - off ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			      "a write behind the end of '%s'", m->name);
}

static int each_cluster(struct blk_img *m, const void *buf, uint64_t len,
			uint64_t off, cluster_fn fn, struct blk_error *e)
{
	const uint8_t *p = buf;
	int ret = begin(m, e);

	while (len && !ret) {
		uint64_t at = blk_align_down(off, m->cs), in = off - at;
		uint64_t n = BLK_MIN(len, m->cs - in);

		ret = fn(m, p, n, at, in, e);
		if (p)
			p += n;
		off += n;
		len -= n;
	}
	return ret;
}

int blk_img_write(struct blk_img *m, const void *buf, size_t len, uint64_t off,
		  struct blk_error *e)
{
	int ret = check_range(m, off, len, e);

	blk_guard_mutex(&m->write_lock);
	if (ret < 0)
		return ret;
	if (m->q)
		return each_cluster(m, buf, len, off, write_cluster, e);
	ret = blk_file_write(m->file, buf, len, off);
	return ret < 0 ? img_io_error(m->file, ret, "write", e) : 0;
}

/*
 * Compressed clusters
 */

static int check_packed(const struct blk_img *m, struct blk_error *e)
{
	const char *why = !m->q ? "a raw image" :
		m->data ? "an image with a data file" :
		m->h.crypt_method ? "an encrypted image" : NULL;

	return why ? blk_error_set(e, BLK_ERR_USAGE, ENOTSUP,
				   "'%s' cannot have compressed clusters: it is %s",
				   m->name, why) : 0;
}

static int put_packed(struct blk_img *m, const void *packed, size_t size,
		      uint64_t at, struct blk_error *e)
{
	uint32_t bits = m->h.cluster_bits;
	uint64_t host, sectors;
	int ret = blk_remap_pack(m->remap, size, &host, e);

	if (ret < 0)
		return ret;
	ret = blk_file_write(m->file, packed, size, host);
	if (ret < 0)
		return img_io_error(m->file, ret, "write", e);
	sectors = (host + size - 1) / 512 - host / 512;
	return set_entry(m, at, QCOW2_L2_COMPRESSED | host |
			 sectors << qcow2_compressed_shift(bits), 0, e);
}

int img_write_packed(struct blk_img *m, const void *packed, size_t size,
		     uint64_t at, struct blk_error *e)
{
	int ret = check_range(m, at, in_disk(m, at), e);

	blk_guard_mutex(&m->write_lock);
	if (!ret)
		ret = check_packed(m, e);
	if (!ret)
		ret = begin(m, e);
	return ret ? ret : put_packed(m, packed, size, at, e);
}

/* A cluster of @whole, which has room for another */
static int write_smaller(struct blk_img *m, const void *buf, size_t len,
			 uint64_t at, uint8_t *whole, struct blk_error *e)
{
	size_t size;

	memcpy(whole, buf, len);
	memset(whole + len, 0, m->cs - len);
	return blk_codec_deflate(m->deflate, whole, m->cs, whole + m->cs,
				 m->cs - 1, &size) ?
		write_cluster(m, buf, len, at, 0, e) :
		put_packed(m, whole + m->cs, size, at, e);
}

static int compress_cluster(struct blk_img *m, const void *buf, size_t len,
			    uint64_t at, uint64_t in, struct blk_error *e)
{
	uint8_t *whole;
	int ret;

	if (in || len < in_disk(m, at))
		return write_cluster(m, buf, len, at, in, e);
	if (!m->deflate)
		m->deflate = blk_codec_deflate_new(m->h.compression_type);
	whole = m->deflate ? malloc(2 * m->cs) : NULL;
	if (!whole)
		return img_no_memory(e);
	ret = write_smaller(m, buf, len, at, whole, e);
	free(whole);
	return ret;
}

int blk_img_write_compressed(struct blk_img *m, const void *buf, size_t len,
			     uint64_t off, struct blk_error *e)
{
	int ret = check_range(m, off, len, e);

	blk_guard_mutex(&m->write_lock);
	if (!ret)
		ret = check_packed(m, e);
	return ret ? ret : each_cluster(m, buf, len, off, compress_cluster, e);
}

/*
 * Zeroes
 */

static int put_zeroes(struct blk_file *f, uint64_t off, uint64_t len,
		      struct blk_error *e)
{
	int ret = blk_file_zero(f, off, len);
	void *buf;

	if (ret != -EOPNOTSUPP)
		return ret < 0 ? img_io_error(f, ret, "write zeroes to", e) : 0;
	if (posix_memalign(&buf, 4096, ZEROES))
		return img_no_memory(e);
	memset(buf, 0, ZEROES);
	for (ret = 0; len && !ret;) {
		uint64_t n = BLK_MIN(len, ZEROES);

		ret = blk_file_write(f, buf, n, off);
		off += n;
		len -= n;
	}
	free(buf);
	return ret < 0 ? img_io_error(f, ret, "write zeroes to", e) : 0;
}

static int write_zero_bytes(struct blk_img *m, size_t len, uint64_t at,
			    uint64_t in, struct blk_error *e)
{
	struct blk_extent x;
	void *buf;
	int ret = blk_img_map(m, at + in, len, &x, e);

	if (ret < 0)
		return ret;
	if (x.len >= len && (x.kind == BLK_EXT_HOLE || x.kind == BLK_EXT_ZERO))
		return 0;
	if (posix_memalign(&buf, 4096, blk_align_up(len, 4096)))
		return img_no_memory(e);
	memset(buf, 0, len);
	ret = write_cluster(m, buf, len, at, in, e);
	free(buf);
	return ret;
}

/* All of a cluster, or up to the disk's end */
static bool is_whole(const struct blk_img *m, size_t len, uint64_t at,
		     uint64_t in)
{
	return !in && len >= in_disk(m, at);
}

static int zero_cluster(struct blk_img *m, size_t len, uint64_t at,
			uint64_t in, bool unmap, struct blk_error *e)
{
	uint64_t entry, bitmap, place;
	int ret = get_entry(m, at, &entry, &bitmap, e);

	if (ret < 0)
		return ret;
	if (!is_whole(m, len, at, in) ||
	    (m->h.version < 3 && (m->backing || !unmap)))
		return write_zero_bytes(m, len, at, in, e);
	if (!m->backing && !(m->flags & BLK_IMG_MAP_ZEROES) && !entry &&
	    !bitmap)
		return 0;
	if (m->data) {
		ret = put_zeroes(m->data, at, len, e);
		if (ret < 0)
			return ret;
	}
	if (m->h.version < 3)
		return set_entry(m, at, 0, 0, e);
	ret = unmap && !m->data ? 0 : blk_remap_is_own(m->remap, entry, e);
	if (ret < 0)
		return ret;
	place = ret ? entry & (QCOW2_OFFSET_MASK | QCOW2_ENTRY_COPIED) : 0;
	return img_has_extl2(m) ?
		set_entry(m, at, place, QCOW2_EXTL2_ALL_ZERO, e) :
		set_entry(m, at, place | QCOW2_L2_ZERO, 0, e);
}

static int zero_keep(struct blk_img *m, const void *buf, size_t len,
		     uint64_t at, uint64_t in, struct blk_error *e)
{
	return zero_cluster(m, len, at, in, false, e);
}

static int zero_unmap(struct blk_img *m, const void *buf, size_t len,
		      uint64_t at, uint64_t in, struct blk_error *e)
{
	return zero_cluster(m, len, at, in, true, e);
}

int blk_img_write_zeroes(struct blk_img *m, uint64_t off, uint64_t len,
			 bool unmap, struct blk_error *e)
{
	int ret = check_range(m, off, len, e);

	blk_guard_mutex(&m->write_lock);
	if (ret < 0)
		return ret;
	if (m->q)
		return each_cluster(m, NULL, len, off,
				    unmap ? zero_unmap : zero_keep, e);
	ret = put_zeroes(m->file, off, len, e);
	if (!ret && unmap)
		blk_file_discard(m->file, off, len);
	return ret;
}

static int reveal_cluster(struct blk_img *m, const void *buf, size_t len,
			  uint64_t at, uint64_t in, struct blk_error *e)
{
	uint64_t entry, bitmap;
	int ret;

	if (!is_whole(m, len, at, in))
		return 0;
	ret = get_entry(m, at, &entry, &bitmap, e);
	return ret < 0 || (!entry && !bitmap) ? ret :
		set_entry(m, at, 0, 0, e);
}

static int discard_cluster(struct blk_img *m, const void *buf, size_t len,
			   uint64_t at, uint64_t in, struct blk_error *e)
{
	if (!is_whole(m, len, at, in) || (m->h.version < 3 && m->backing))
		return 0;
	if (m->backing)
		return zero_cluster(m, len, at, in, true, e);
	if (m->data)
		blk_file_discard(m->data, at, len);
	return reveal_cluster(m, buf, len, at, in, e);
}

int blk_img_discard(struct blk_img *m, uint64_t off, uint64_t len, bool reveal,
		    struct blk_error *e)
{
	int ret = check_range(m, off, len, e);

	blk_guard_mutex(&m->write_lock);
	if (ret < 0)
		return ret;
	if (m->q)
		return each_cluster(m, NULL, len, off, reveal ?
				    reveal_cluster : discard_cluster, e);
	blk_file_discard(m->file, off, len);
	return 0;
}

static int settle(struct blk_img *m, struct blk_error *e)
{
	blk_guard_mutex(&m->lock);
	return blk_remap_settle(m->remap, e);
}

int blk_img_flush(struct blk_img *m, struct blk_error *e)
{
	int ret = 0;

	blk_guard_mutex(&m->write_lock);
	if (m->flags & BLK_IMG_UNSAFE)
		return 0;
	if (m->data)
		ret = blk_file_flush(m->data);
	if (!ret)
		ret = blk_file_flush(m->file);
	if (ret < 0)
		return img_io_error(m->file, ret, "flush", e);
	return m->remap ? settle(m, e) : 0;
}

int blk_img_settle(struct blk_img *m, struct blk_error *e)
{
	int ret = blk_img_flush(m, e), rc;

	blk_guard_mutex(&m->write_lock);
	rc = img_write_end(m, ret ? NULL : e);
	return ret ? ret : rc;
}

int blk_img_empty(struct blk_img *m, struct blk_error *e)
{
	int ret = blk_img_discard(m, 0, m->size, true, e);

	if (!ret)
		ret = blk_img_settle(m, e);
	if (!ret && m->data)	/* not before: until then it is what is read */
		blk_file_discard(m->data, 0, m->size);
	return ret;
}

int img_write_end(struct blk_img *m, struct blk_error *e)
{
	struct blk_remap *r = blk_take(m->remap);

	return r ? blk_remap_close(r, e) : 0;
}
