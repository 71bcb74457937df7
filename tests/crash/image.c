// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reads and judges a qcow2 image in memory. It shares no code with what it
 * judges, the format's numbers included: docs/interop/qcow2.rst of QEMU is
 * what it follows. check.c compares it with qemu-img now and then.
 *
 * Does not know bitmaps.
 */
#include <endian.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

#define OFFSET UINT64_C(0x00fffffffffffe00)
#define COPIED (UINT64_C(1) << 63)
#define PACKED (UINT64_C(1) << 62)
#define DIRTY 1u
#define DATA_FILE 4u
#define ZSTD 8u
#define EXTL2 16u
#define RAW 2u			/* an autoclear bit */
#define IN_USE 0x444d5143u	/* the mark of who has it attached */
#define LUKS 0x0537be77u

enum { K_FREE, K_HEADER, K_RTABLE, K_RBLOCK, K_SNAPS, K_LUKS, K_L1, K_L2, K_DATA };

static const char *const kind_names[] = {
	"free", "header", "refcount table", "refcount block", "snapshot table",
	"LUKS header", "L1 table", "L2 table", "data",
};

__attribute__((format(printf, 2, 3)))
static bool bad(struct image *img, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(img->why, sizeof(img->why), format, args);
	va_end(args);
	return false;
}

static uint64_t be64_at(const struct image *img, uint64_t at)
{
	uint64_t v;

	memcpy(&v, img->disk + at, 8);
	return be64toh(v);
}

static uint32_t be32_at(const struct image *img, uint64_t at)
{
	uint32_t v;

	memcpy(&v, img->disk + at, 4);
	return be32toh(v);
}

static uint64_t cluster_size(const struct image *img)
{
	return 1ULL << img->bits;
}

static uint64_t round_up(const struct image *img, uint64_t bytes)
{
	return (bytes + cluster_size(img) - 1) >> img->bits << img->bits;
}

/* --- references ---------------------------------------------------------------- */

/* One more reference to each of the clusters that [off, off + len) touches */
static bool refer(struct image *img, uint64_t off, uint64_t len, int kind)
{
	uint64_t c = off >> img->bits, last = (off + len - 1) >> img->bits;

	if (!len)
		return true;
	if (off + len < off || round_up(img, off + len) > img->bytes)
		return bad(img, "%s at %#" PRIx64 " lies behind the end",
			   kind_names[kind], off);
	if (kind != K_DATA && off & (cluster_size(img) - 1))
		return bad(img, "%s at %#" PRIx64 " is not aligned",
			   kind_names[kind], off);
	for (; c <= last; c++) {
		if (img->refs[c] && (img->kinds[c] != kind ||
				     (kind != K_L2 && kind != K_DATA)))
			return bad(img, "cluster %#" PRIx64 " is %s and %s",
				   c << img->bits, kind_names[img->kinds[c]],
				   kind_names[kind]);
		img->refs[c]++;
		img->kinds[c] = kind;
	}
	return true;
}

static uint64_t refcount(const struct image *img, uint64_t c)
{
	uint64_t per_block = cluster_size(img) * 8 >> img->order;
	uint64_t i = c / per_block, block, at;
	unsigned int width = 1u << img->order;

	if (i >= img->rt_n)
		return 0;
	block = be64_at(img, img->rt + 8 * i) & ~511ULL;
	if (!block)
		return 0;
	i = c % per_block;
	at = block + (i * width) / 8;
	switch (width) {
	case 64: return be64_at(img, block + 8 * i);
	case 32: return be32_at(img, block + 4 * i);
	case 16: return img->disk[at] << 8 | img->disk[at + 1];
	case 8: return img->disk[at];
	default:
		return img->disk[at] >> (i * width % 8) & ((1u << width) - 1);
	}
}

/* --- the header ------------------------------------------------------------------ */

static bool read_header(struct image *img)
{
	uint64_t known = DIRTY | DATA_FILE | ZSTD | EXTL2;

	if (be32_at(img, 0) != 0x514649fb)
		return bad(img, "no qcow2 image");
	img->version = be32_at(img, 4);
	img->bits = be32_at(img, 20);
	img->size = be64_at(img, 24);
	img->l1_size = be32_at(img, 36);
	img->l1 = be64_at(img, 40);
	img->rt = be64_at(img, 48);
	img->rt_n = 0;
	img->snapshots = be32_at(img, 60);
	img->snapshots_at = be64_at(img, 64);
	img->incompat = img->version == 3 ? be64_at(img, 72) : 0;
	img->order = img->version == 3 ? be32_at(img, 96) : 4;
	img->extl2 = img->incompat & EXTL2;
	img->dirty = img->incompat & DIRTY;
	img->external = img->incompat & DATA_FILE;
	img->raw = img->external && be64_at(img, 88) & RAW;
	img->zstd = img->incompat & ZSTD && img->disk[104];
	if (img->version < 2 || img->version > 3 || img->bits < 9 ||
	    img->bits > 21 || img->order > 6 || img->incompat & ~known)
		return bad(img, "the header makes no sense");
	img->rt_n = (uint64_t)be32_at(img, 56) << img->bits >> 3;
	if (be32_at(img, 32) && be32_at(img, 32) != 2)
		return bad(img, "the header speaks of encryption that is not LUKS");
	if (img->external != !!img->data)
		return bad(img, "a data file is expected and there is none, or the other way");
	if (img->size > 1ULL << 40 || img->l1 + 8ULL * img->l1_size > img->bytes ||
	    img->rt + 8 * img->rt_n > img->bytes || img->snapshots > 1000)
		return bad(img, "a table lies behind the end");
	return true;
}

static void read_extension(struct image *img, uint64_t at, uint64_t len)
{
	uint32_t type = be32_at(img, at);

	if (type == IN_USE && len >= 4)
		img->in_use = be32_at(img, at + 8);
	if (type == LUKS && len >= 16) {
		img->luks_at = be64_at(img, at + 8);
		img->luks_bytes = be64_at(img, at + 16);
	}
}

/* Extensions that end properly; a name that lies behind them */
static bool check_extensions(struct image *img)
{
	uint64_t at = img->version == 3 ? be32_at(img, 100) : 72;
	uint64_t name = be64_at(img, 8), end = name ? name : cluster_size(img);

	img->in_use = false;
	img->luks_bytes = 0;
	if (name + be32_at(img, 16) > cluster_size(img))
		return bad(img, "the backing file's name is outside the header");
	while (at + 8 <= end && be32_at(img, at)) {
		uint64_t len = be32_at(img, at + 4);

		if (len > end - at - 8)
			return bad(img, "a header extension at %" PRIu64
				   " is too long", at);
		read_extension(img, at, len);
		at += 8 + ((len + 7) & ~7ULL);
	}
	if (!be32_at(img, 32) != !img->luks_bytes)
		return bad(img, "encryption without its header, or the other way");
	return true;
}

/* --- the tables ------------------------------------------------------------------- */

static bool check_refcount_table(struct image *img)
{
	if (!refer(img, img->rt, img->rt_n * 8, K_RTABLE))
		return false;
	for (uint64_t i = 0; i < img->rt_n; i++) {
		uint64_t block = be64_at(img, img->rt + 8 * i);

		if (block && !refer(img, block, cluster_size(img), K_RBLOCK))
			return false;
	}
	return true;
}

static void packed_range(const struct image *img, uint64_t entry,
			 uint64_t *off, uint64_t *len)
{
	unsigned int shift = 62 - (img->bits - 8);

	*off = entry & ((1ULL << shift) - 1);
	*len = ((entry >> shift & ((1ULL << (img->bits - 8)) - 1)) + 1) * 512 -
		(*off & 511);
}

/* COPIED says in the active tables that nobody else refers to it. */
static bool check_copied(struct image *img, uint64_t entry, int kind)
{
	uint64_t c = (entry & OFFSET) >> img->bits;
	uint64_t count = c < img->clusters ? refcount(img, c) : 0;

	if (img->dirty || (count == 1) == !!(entry & COPIED))
		return true;
	return bad(img, "%s at %#" PRIx64 " has COPIED %d, refcount %" PRIu64,
		   kind_names[kind], entry & OFFSET, !!(entry & COPIED), count);
}

/* Where the cluster is in the data file, and that it is nobody else's */
static bool check_external(struct image *img, uint64_t entry, uint64_t guest)
{
	uint64_t off = entry & OFFSET;

	if (entry & PACKED)
		return bad(img, "a compressed cluster beside a data file");
	if (!(entry & COPIED))
		return !off || bad(img, "a cluster in the data file without COPIED");
	return off == guest || bad(img, "the cluster of %#" PRIx64
				   " is elsewhere in the data file, at %#" PRIx64,
				   guest, off);
}

static bool check_entry(struct image *img, uint64_t entry, uint64_t guest, bool active)
{
	uint64_t off = entry & OFFSET, len = cluster_size(img);

	if (img->external)
		return check_external(img, entry, guest);
	if (entry & PACKED) {
		if (entry & COPIED)
			return bad(img, "a compressed cluster has COPIED");
		packed_range(img, entry, &off, &len);
		/* the last sector may be cut off by the file's end */
		if (off + len > img->bytes && off < img->bytes)
			len = img->bytes - off;
		return refer(img, off, len, K_DATA);
	}
	if (entry & 0x3f000000000001feULL)
		return bad(img, "reserved bits are set: %#" PRIx64, entry);
	if (!off)
		return !(entry & COPIED) || bad(img, "COPIED without a cluster");
	if (off & (len - 1))
		return bad(img, "data at %#" PRIx64 " is not aligned", off);
	return refer(img, off, len, K_DATA) &&
		(!active || check_copied(img, entry, K_DATA));
}

static bool check_l1(struct image *img, uint64_t l1, uint32_t n, bool active)
{
	unsigned int step = img->extl2 ? 16 : 8;
	uint64_t guest = 0;

	if (!refer(img, l1, n * 8ULL, K_L1))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t e = be64_at(img, l1 + 8ULL * i), off = e & OFFSET;

		guest = (i * (cluster_size(img) / step)) << img->bits;
		if (!off)
			continue;
		if (!refer(img, off, cluster_size(img), K_L2) ||
		    (active && !check_copied(img, e, K_L2)))
			return false;
		for (uint64_t at = off; at < off + cluster_size(img); at += step) {
			if (!check_entry(img, be64_at(img, at), guest, active))
				return false;
			guest += cluster_size(img);
		}
	}
	return true;
}

/* Where snapshot @nr has its L1 table */
static bool find_snapshot(struct image *img, uint32_t nr, uint64_t *l1,
			  uint32_t *n, uint64_t *end)
{
	uint64_t at = img->snapshots_at;

	for (uint32_t i = 0;; i++) {
		if (at + 40 > img->bytes)
			return bad(img, "the snapshot table has no end");
		*l1 = be64_at(img, at);
		*n = be32_at(img, at + 8);
		*end = at + 40 + be32_at(img, at + 36) +
			(be32_at(img, at + 12) >> 16) +
			(be32_at(img, at + 12) & 0xffff);
		if (i == nr)
			break;
		at = (*end + 7) & ~7ULL;
	}
	return *l1 + 8ULL * *n <= img->bytes || bad(img, "an L1 table is cut off");
}

static bool check_snapshots(struct image *img)
{
	uint64_t l1, end = img->snapshots_at;
	uint32_t n;

	for (uint32_t i = 0; i < img->snapshots; i++)
		if (!find_snapshot(img, i, &l1, &n, &end) ||
		    !check_l1(img, l1, n, false))
			return false;
	return refer(img, img->snapshots_at, end - img->snapshots_at, K_SNAPS);
}

static bool check_counts(struct image *img)
{
	for (uint64_t c = 0; c < img->clusters; c++) {
		uint64_t count = refcount(img, c);

		if (count < img->refs[c] && !img->dirty)
			return bad(img, "cluster %#" PRIx64 ", %s, has refcount %"
				   PRIu64 ", and %u references", c << img->bits,
				   kind_names[img->kinds[c]], count, img->refs[c]);
		img->leaks += count > img->refs[c];
	}
	return true;
}

bool image_check(struct image *img)
{
	image_free(img);
	img->leaks = 0;
	if (!read_header(img) || !check_extensions(img))
		return false;
	img->clusters = img->bytes >> img->bits;
	img->refs = calloc(img->clusters + 1, sizeof(*img->refs));
	img->kinds = calloc(img->clusters + 1, 1);
	if (!img->refs || !img->kinds)
		return bad(img, "out of memory");
	return refer(img, 0, cluster_size(img), K_HEADER) &&
		refer(img, img->luks_at, img->luks_bytes, K_LUKS) &&
		check_refcount_table(img) && check_snapshots(img) &&
		check_l1(img, img->l1, img->l1_size, true) && check_counts(img);
}

void image_free(struct image *img)
{
	free(img->refs);
	free(img->kinds);
	img->refs = NULL;
	img->kinds = NULL;
}

/* --- the content -------------------------------------------------------------------- */

static void from_backing(const struct image *img, uint64_t at, uint8_t *out,
			 uint64_t len)
{
	uint64_t n = 0;

	if (at < img->backing_bytes)
		n = img->backing_bytes - at < len ? img->backing_bytes - at : len;
	if (n)
		memcpy(out, img->backing + at, n);
	memset(out + n, 0, len - n);
}

static bool unpack_cluster(struct image *img, uint64_t entry, uint8_t *out)
{
	uint64_t off, len;

	packed_range(img, entry, &off, &len);
	if (off + len > img->bytes)
		len = img->bytes - off;
	return codec_unpack(img->zstd, img->disk + off, len, out, cluster_size(img)) ||
		bad(img, "compressed data at %#" PRIx64 " is damaged", off);
}

static void read_data(const struct image *img, uint64_t off, uint8_t *out, uint64_t len)
{
	const uint8_t *from = img->external ? img->data : img->disk;
	uint64_t bytes = img->external ? img->data_bytes : img->bytes, n = 0;

	if (off < bytes)
		n = bytes - off < len ? bytes - off : len;
	memcpy(out, from + off, n);
	memset(out + n, 0, len - n);
	if (img->cipher)
		cipher_decrypt(img->cipher, off, out, len);
}

static void read_subclusters(const struct image *img, uint64_t off,
			     uint64_t bitmap, uint64_t at, uint8_t *out)
{
	uint64_t sub = cluster_size(img) / 32;

	for (int i = 0; i < 32; i++, at += sub, out += sub) {
		if (bitmap >> i & 1)
			read_data(img, off + i * sub, out, sub);
		else if (bitmap >> (32 + i) & 1)
			memset(out, 0, sub);
		else
			from_backing(img, at, out, sub);
	}
}

static bool read_cluster(struct image *img, uint64_t l2, uint64_t i,
			 uint64_t at, uint8_t *out)
{
	uint64_t len = cluster_size(img), e = 0, off;

	if (l2)
		e = be64_at(img, l2 + i * (img->extl2 ? 16 : 8));
	off = e & OFFSET;
	if (e & PACKED)
		return unpack_cluster(img, e, out);
	if (img->extl2 && l2)
		read_subclusters(img, off, be64_at(img, l2 + i * 16 + 8), at, out);
	else if (img->version == 3 && e & 1)
		memset(out, 0, len);
	else if (off || (img->external && e & COPIED))
		read_data(img, off, out, len);
	else
		from_backing(img, at, out, len);
	return true;
}

bool image_read(struct image *img, int nr, uint8_t *out, uint64_t bytes)
{
	uint64_t l1 = img->l1, end, len = cluster_size(img);
	uint64_t per_table = len / (img->extl2 ? 16 : 8);
	uint64_t size = img->size < bytes ? img->size : bytes;
	uint32_t n = img->l1_size;
	uint8_t *last = malloc(len);

	if (!last)
		return bad(img, "out of memory");
	if (nr >= 0 && !find_snapshot(img, nr, &l1, &n, &end))
		size = 0;
	for (uint64_t at = 0; at < size; at += len) {
		uint64_t c = at >> img->bits, i = c / per_table;
		uint64_t l2 = i < n ? be64_at(img, l1 + 8 * i) & OFFSET : 0;
		uint8_t *to = size - at < len ? last : out + at;

		if (!read_cluster(img, l2, c % per_table, at, to)) {
			free(last);
			return false;
		}
		if (to == last)
			memcpy(out + at, last, size - at);
	}
	free(last);
	memset(out + size, 0, bytes - size);
	return true;
}
