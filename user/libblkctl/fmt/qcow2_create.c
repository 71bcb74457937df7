// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Making a qcow2 image.
 *
 * Owns the layout of a new one, which is QEMU's: header, refcount table,
 * refcount blocks, L1 table, and the LUKS header where there is one; each in
 * clusters of its own, one behind the other.
 * Must not: know where the file comes from, or make the data file.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "fmt/qcow2_create.h"
#include "fmt/qcow2_header_int.h"
#include "qcow2/refcount.h"

#define FEATURE_BYTES	48U	/* type, bit, name */

/* In clusters of the file */
struct layout {
	uint64_t table, table_n;
	uint64_t block, block_n;
	uint64_t l1, l1_n;
	uint64_t luks, luks_n;
	uint64_t end;
};

struct maker {
	struct blk_file *f;
	const struct blk_qcow2_new *n;
	struct qcow2_header h;
	struct layout at;
	uint8_t *luks;
	uint64_t luks_bytes;
	struct blk_error *e;
};

static const struct {
	uint8_t type, bit;
	const char *name;
} features[] = {
	{ BLK_FEATURE_INCOMPATIBLE, 0, "dirty bit" },
	{ BLK_FEATURE_INCOMPATIBLE, 1, "corrupt bit" },
	{ BLK_FEATURE_INCOMPATIBLE, 2, "external data file" },
	{ BLK_FEATURE_INCOMPATIBLE, 3, "compression type" },
	{ BLK_FEATURE_INCOMPATIBLE, 4, "extended L2 entries" },
	{ BLK_FEATURE_COMPATIBLE, 0, "lazy refcounts" },
	{ BLK_FEATURE_AUTOCLEAR, 0, "bitmaps" },
	{ BLK_FEATURE_AUTOCLEAR, 1, "raw external data" },
};

void blk_qcow2_new_init(struct blk_qcow2_new *n)
{
	*n = (struct blk_qcow2_new){
		.version = 3,
		.cluster_size = 64 << 10,
		.refcount_bits = 16,
	};
}

static bool is_power(uint64_t v, uint64_t min, uint64_t max)
{
	return v >= min && v <= max && !(v & (v - 1));
}

/* What version 2 does not have; NULL: nothing of it is asked for */
static const char *needs_v3(const struct blk_qcow2_new *n)
{
	return n->refcount_bits != 16 ? "refcount_bits other than 16" :
		n->extended_l2 ? "extended_l2" :
		n->lazy_refcounts ? "lazy_refcounts" :
		n->zstd ? "compression_type=zstd" :
		n->data_file ? "data_file" : NULL;
}

static const char *contradicts(const struct blk_qcow2_new *n)
{
	if (n->extended_l2 && n->cluster_size < 16 << 10)
		return "extended_l2 needs clusters of 16 KiB or more";
	if (n->data_raw && !n->data_file)
		return "data_file_raw needs a data_file";
	if (n->data_raw && n->backing_file)
		return "a data file that is a raw image (data_file_raw) goes with no backing file";
	if (n->data_file && n->luks)
		return "an external data file cannot be encrypted";
	if (n->backing_file &&
	    strlen(n->backing_file) > QCOW2_MAX_BACKING_NAME)
		return "the name of the backing file is longer than 1023 bytes";
	return NULL;
}

static uint64_t l1_entries(const struct blk_qcow2_new *n)
{
	uint32_t bits = (uint32_t)__builtin_ctz(n->cluster_size);
	uint32_t span = 2 * bits - (n->extended_l2 ? 4 : 3);

	return (n->size >> span) + !!(n->size & ((1ULL << span) - 1));
}

int blk_qcow2_new_check(const struct blk_qcow2_new *n, struct blk_error *e)
{
	const char *why = NULL;

	if (!is_power(n->cluster_size, 512, 2 << 20))
		why = "cluster_size must be a power of two from 512 to 2M";
	else if (!is_power(n->refcount_bits, 1, 64))
		why = "refcount_bits must be a power of two from 1 to 64";
	else if (n->version < 3 && needs_v3(n))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "compat=0.10 does not have %s: compat=1.1 does",
				     needs_v3(n));
	else if (n->size & 511 || n->size > INT64_MAX)
		why = "the size must be a multiple of 512";
	if (!why)
		why = contradicts(n);
	if (why)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "%s", why);
	if (l1_entries(n) > QCOW2_MAX_L1_BYTES / 8) {
		blk_error_set(e, BLK_ERR_USAGE, EFBIG,
			      "an image with clusters of %u bytes cannot be that large",
			      n->cluster_size);
		blk_error_hint(e, "use a larger cluster_size");
		return -EFBIG;
	}
	return 0;
}

/* The refcounts of all that is here must be here too: grows until it fits. */
static void lay_out(struct maker *m)
{
	uint64_t cs = m->n->cluster_size;
	uint64_t counts = cs * 8 / m->n->refcount_bits, blocks;
	struct layout *l = &m->at;

	l->l1_n = blk_div_up(m->h.l1_size * 8ULL, cs);
	l->luks_n = blk_div_up(m->luks_bytes, cs);
	l->table_n = 1;
	l->block_n = 1;
	for (;;) {
		l->end = 1 + l->table_n + l->block_n + l->l1_n + l->luks_n;
		blocks = blk_div_up(l->end, counts);
		if (blocks == l->block_n &&
		    blk_div_up(blocks * 8, cs) == l->table_n)
			break;
		l->block_n = blocks;
		l->table_n = blk_div_up(blocks * 8, cs);
	}
	l->table = 1;
	l->block = l->table + l->table_n;
	l->l1 = l->block + l->block_n;
	l->luks = l->l1 + l->l1_n;
}

static void fill_header(struct maker *m)
{
	const struct blk_qcow2_new *n = m->n;
	struct qcow2_header *h = &m->h;

	h->version = n->version;
	h->cluster_bits = (uint32_t)__builtin_ctz(n->cluster_size);
	h->crypt_method = n->luks ? QCOW2_CRYPT_LUKS : QCOW2_CRYPT_NONE;
	h->l1_size = (uint32_t)l1_entries(n);
	h->refcount_order = (uint32_t)__builtin_ctz(n->refcount_bits);
	h->header_length = n->version < 3 ? QCOW2_V2_HEADER_BYTES :
		QCOW2_HEADER_MIN_READ;
	h->compression_type = n->zstd;
	h->size = n->size;
	if (n->data_file)
		h->incompatible_features |= QCOW2_INCOMPAT_DATA_FILE;
	if (n->zstd)
		h->incompatible_features |= QCOW2_INCOMPAT_COMPRESSION;
	if (n->extended_l2)
		h->incompatible_features |= QCOW2_INCOMPAT_EXTL2;
	if (n->lazy_refcounts)
		h->compatible_features |= QCOW2_COMPAT_LAZY_REFCOUNTS;
	if (n->data_raw)
		h->autoclear_features |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

static int write_at(struct maker *m, const void *buf, uint64_t len,
		    uint64_t cluster)
{
	int ret = blk_file_write(m->f, buf, len,
				 cluster * m->n->cluster_size);

	return ret < 0 ? blk_error_set(m->e, BLK_ERR_FAILED, -ret,
				       "cannot write '%s': %s", m->f->path,
				       strerror(-ret)) : 0;
}

/* Every cluster up to the end is in use once. */
static int write_refcounts(struct maker *m)
{
	const struct layout *l = &m->at;
	uint64_t cs = m->n->cluster_size, per = cs * 8 / m->n->refcount_bits;
	uint8_t *buf blk_auto_free = calloc(l->table_n + l->block_n, cs);
	uint8_t *counts;

	if (!buf)
		return blk_error_set(m->e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	counts = buf + l->table_n * cs;
	for (uint64_t i = 0; i < l->block_n; i++)
		blk_put_be64(buf + i * 8, (l->block + i) * cs);
	for (uint64_t i = 0; i < l->end; i++)
		blk_refcount_set(counts + i / per * cs, m->h.refcount_order,
				 i % per, 1);
	return write_at(m, buf, (l->table_n + l->block_n) * cs, l->table);
}

/* The L1 table, all zeroes, and the rest up to a cluster's end */
static int write_l1(struct maker *m)
{
	uint64_t cs = m->n->cluster_size;
	uint8_t *buf blk_auto_free = NULL;

	if (!m->at.l1_n)
		return 0;
	buf = calloc(m->at.l1_n, cs);
	if (!buf)
		return blk_error_set(m->e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	return write_at(m, buf, m->at.l1_n * cs, m->at.l1);
}

static int write_luks(struct maker *m)
{
	uint64_t len = m->at.luks_n * m->n->cluster_size;
	uint8_t *buf blk_auto_free = NULL;

	if (!len)
		return 0;
	buf = calloc(1, len);
	if (!buf)
		return blk_error_set(m->e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	memcpy(buf, m->luks, m->luks_bytes);
	return write_at(m, buf, len, m->at.luks);
}

static uint32_t put_ext(uint8_t *head, uint32_t at, uint32_t magic,
			uint32_t len)
{
	blk_put_be32(head + at, magic);
	blk_put_be32(head + at + 4, len);
	return at + 8;
}

static uint64_t room_for_name(const char *name)
{
	return name ? 8 + blk_align_up(strlen(name), 8) : 0;
}

/* The names of features, where they leave room for the rest */
static void put_features(const struct maker *m, uint8_t *head, uint32_t at)
{
	const struct blk_qcow2_new *n = m->n;
	uint32_t len = BLK_COUNT(features) * FEATURE_BYTES;

	if (n->version < 3 ||
	    at + 8 + len + 8 + room_for_name(n->backing_format) +
	    room_for_name(n->data_file) +
	    (n->backing_file ? strlen(n->backing_file) : 0) > n->cluster_size)
		return;
	at = put_ext(head, at, QCOW2_EXT_FEATURE_TABLE, len);
	for (size_t i = 0; i < BLK_COUNT(features); i++) {
		uint8_t *p = head + at + i * FEATURE_BYTES;

		p[0] = features[i].type;
		p[1] = features[i].bit;
		memcpy(p + 2, features[i].name, strlen(features[i].name));
	}
}

static int write_header(struct maker *m)
{
	uint64_t cs = m->n->cluster_size;
	uint8_t *head blk_auto_free = calloc(1, cs);
	uint32_t at = m->h.header_length;

	if (!head)
		return blk_error_set(m->e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	m->h.refcount_table_offset = m->at.table * cs;
	m->h.refcount_table_clusters = (uint32_t)m->at.table_n;
	m->h.l1_table_offset = m->at.l1_n ? m->at.l1 * cs : 0;
	blk_header_emit(&m->h, head);
	if (m->luks) {
		at = put_ext(head, at, QCOW2_EXT_CRYPTO, 16);
		blk_put_be64(head + at, m->at.luks * cs);
		blk_put_be64(head + at + 8, m->luks_bytes);
		at += 16;
	}
	put_features(m, head, at);
	return write_at(m, head, cs, 0);
}

/* As fmt/qcow2_header.c does it for an image that exists */
static int put_names(struct maker *m)
{
	const struct blk_qcow2_new *n = m->n;
	struct blk_head_new to;
	struct blk_qcow2 *q;
	int ret;

	if (!n->backing_file && !n->data_file)
		return 0;
	ret = blk_qcow2_open(m->f, &q, m->e);
	if (ret)
		return ret;
	pthread_mutex_lock(&q->lock);
	blk_head_keep(q, &to);
	to.backing_file = n->backing_file;
	to.backing_format = n->backing_format;
	to.data_file = n->data_file;
	ret = blk_head_put(q, &to, m->e);
	pthread_mutex_unlock(&q->lock);
	blk_qcow2_close(q);
	return ret;
}

static int flush(struct maker *m)
{
	int ret = blk_file_flush(m->f);

	return ret < 0 ? blk_error_set(m->e, BLK_ERR_FAILED, -ret,
				       "cannot write '%s': %s", m->f->path,
				       strerror(-ret)) : 0;
}

static int make(struct maker *m)
{
	int ret;

	fill_header(m);
	lay_out(m);
	ret = write_refcounts(m);
	if (!ret)
		ret = write_l1(m);
	if (!ret)
		ret = write_luks(m);
	if (!ret)
		ret = flush(m);
	if (!ret)
		ret = write_header(m);
	if (!ret)
		ret = flush(m);
	return ret ? ret : put_names(m);
}

int blk_qcow2_create(struct blk_file *f, const struct blk_qcow2_new *n,
		     struct blk_error *e)
{
	struct maker m = { .f = f, .n = n, .e = e };
	int ret = blk_qcow2_new_check(n, e);

	if (!ret && n->luks)
		ret = blk_luks_format(n->luks, &m.luks, &m.luks_bytes, e);
	if (!ret)
		ret = make(&m);
	free(m.luks);
	return ret;
}
