// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Opening a qcow2 image and judging what it is.
 *
 * Owns the object, the header in memory and the names in it.  Must not write.
 * Everything read here is hostile: the header is validated field by field, the
 * refcount table is only remembered as unusable when it is, since a reader
 * does not need it.  Locking: open has the object alone; the header fields
 * that change later (the refcount table's place) change under the lock.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fmt/qcow2_audit.h"
#include "fmt/qcow2_int.h"

int blk_q_corrupt(const struct blk_qcow2 *q, struct blk_error *e,
		  const char *why)
{
	blk_error_set(e, BLK_ERR_FAILED, EUCLEAN, "the image '%s' is damaged: %s",
		      q->f->path, why);
	blk_error_hint(e, "see what \"qemu-img check\" says");
	return -EUCLEAN;
}

int blk_q_io_error(const struct blk_qcow2 *q, struct blk_error *e, int err,
		   const char *what)
{
	return blk_error_set(e, BLK_ERR_FAILED, -err, "cannot %s of '%s': %s",
			     what, q->f->path, strerror(-err));
}

int64_t blk_q_rounded_size(const struct blk_qcow2 *q)
{
	int64_t size = blk_file_size(q->f);

	if (size < 0)
		return size;
	if (size > INT64_MAX - (int64_t)q->cs)
		return -EFBIG;
	return (int64_t)blk_align_up(size, q->cs);
}

int blk_q_write_head(struct blk_qcow2 *q, uint32_t off, uint32_t len)
{
	uint64_t lo = blk_align_down(off, BLK_MIN(q->f->align, q->cs));
	uint64_t hi = blk_align_up(off + len, BLK_MIN(q->f->align, q->cs));
	int ret = blk_file_write(q->f, q->head + lo, hi - lo, lo);

	return ret < 0 ? ret : blk_file_flush(q->f);
}

int blk_q_write_table(struct blk_qcow2 *q, const void *table, uint64_t at,
		      uint64_t lo, uint64_t hi)
{
	uint64_t a = BLK_MIN(q->f->align, q->cs);

	lo = blk_align_down(lo, a);
	hi = blk_align_up(hi, a);
	return blk_file_write(q->f, (const uint8_t *)table + lo, hi - lo,
			      at + lo);
}

int blk_q_reread_head(struct blk_qcow2 *q)
{
	int ret = blk_file_read(q->f, q->head, q->cs, 0);

	if (!ret && (qcow2_header_decode(q->head, &q->h) ||
		     blk_ext_parse(q->head, q->cs, &q->h, &q->ext)))
		ret = -EUCLEAN;
	if (ret < 0)
		q->stuck = true;
	return ret;
}

static int read_header(struct blk_qcow2 *q, struct blk_error *e)
{
	char buf[QCOW2_HEADER_MIN_READ];
	const char *why;
	int64_t size = blk_file_size(q->f);
	int ret = size < 0 ? (int)size :
		blk_file_read(q->f, buf, sizeof(buf), 0);

	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read the header");
	q->size_at_open = size;
	why = qcow2_header_decode(buf, &q->h);
	if (why)
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL, "'%s': %s",
				     q->f->path, why);
	if (q->h.cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
	    q->h.cluster_bits > QCOW2_MAX_CLUSTER_BITS)
		return blk_q_corrupt(q, e,
				     "cluster_bits is out of range (9..21)");
	q->cs = qcow2_cluster_size(&q->h);
	if (posix_memalign((void **)&q->head, 4096, BLK_MAX(q->cs, 4096U)))
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	ret = blk_file_read(q->f, q->head, q->cs, 0);
	if (ret < 0)
		return blk_q_io_error(q, e, ret, "read the header");
	return 0;
}

/* Named before anything else is judged: a newer format may change the rest. */
static int check_unknown_features(struct blk_qcow2 *q, struct blk_error *e)
{
	uint64_t unknown = q->h.incompatible_features & ~QCOW2_INCOMPAT_KNOWN;
	struct blk_ext_info ext;
	char names[256];

	if (!unknown)
		return 0;
	if (blk_ext_parse(q->head, q->cs, &q->h, &ext))
		ext.features.len = 0;
	blk_ext_feature_names(q->head, &ext, BLK_FEATURE_INCOMPATIBLE, unknown,
			      names, sizeof(names));
	blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
		      "'%s' uses qcow2 features that are not known here: %s",
		      q->f->path, names);
	blk_error_hint(e, "a newer version may know them");
	return -EOPNOTSUPP;
}

static int copy_name(char **out, const uint8_t *p, size_t len)
{
	if (!len)
		return 0;
	*out = strndup((const char *)p, len);
	return *out ? 0 : -ENOMEM;
}

static int read_names(struct blk_qcow2 *q, struct blk_error *e)
{
	int ret = 0;

	if (q->h.backing_file_offset)
		ret = copy_name(&q->backing_file,
				q->head + q->h.backing_file_offset,
				q->h.backing_file_size);
	if (!ret)
		ret = copy_name(&q->backing_format,
				q->head + q->ext.backing_format.off,
				q->ext.backing_format.len);
	if (!ret)
		ret = copy_name(&q->data_file, q->head + q->ext.data_file.off,
				q->ext.data_file.len);
	return ret ? blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				   "out of memory") : 0;
}

/* Features that contradict each other; QEMU refuses these too. */
static const char *contradiction(const struct blk_qcow2 *q)
{
	bool raw = q->h.version >= 3 &&
		q->h.autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW;

	if (raw && !blk_q_has_data_file(q))
		return "its data file is said to be raw, but it has none";
	if (raw && (q->backing_file || q->h.backing_file_offset))
		return "it has a raw data file and a backing file";
	if (q->h.crypt_method == QCOW2_CRYPT_LUKS && !q->ext.has_crypto)
		return "it is encrypted, but has no LUKS header";
	return NULL;
}

/* Of a damaged one: tables outside the file are for the check to find. */
static const char *validate(const struct blk_qcow2 *q, bool damaged)
{
	struct qcow2_header h = q->h;

	if (!damaged)
		return qcow2_header_validate(&h, q->size_at_open);
	if (!h.refcount_table_clusters)
		h.refcount_table_clusters = 1;
	h.nb_snapshots = 0;
	return qcow2_header_validate(&h, UINT64_MAX);
}

static int open_image(struct blk_qcow2 *q, bool damaged, struct blk_error *e)
{
	const char *why;
	int ret = read_header(q, e);

	if (!ret)
		ret = check_unknown_features(q, e);
	if (ret < 0)
		return ret;
	why = validate(q, damaged);
	if (!why)
		why = blk_ext_parse(q->head, q->cs, &q->h, &q->ext);
	if (!why && damaged)
		why = contradiction(q);
	if (why)
		return blk_q_corrupt(q, e, why);
	q->rb_bits = blk_refcount_block_bits(q->h.cluster_bits,
					     q->h.refcount_order);
	ret = read_names(q, e);
	if (!ret)
		ret = blk_rt_load(q, e);
	return ret;
}

static int open_file(struct blk_file *file, bool damaged,
		     struct blk_qcow2 **out, struct blk_error *e)
{
	struct blk_qcow2 *q = calloc(1, sizeof(*q));
	int ret;

	if (!q)
		return blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				     "out of memory");
	q->f = file;
	pthread_mutex_init(&q->lock, NULL);
	ret = open_image(q, damaged, e);
	if (ret < 0) {
		blk_qcow2_close(q);
		return ret;
	}
	*out = q;
	return 0;
}

int blk_qcow2_open(struct blk_file *file, struct blk_qcow2 **out,
		   struct blk_error *e)
{
	return open_file(file, false, out, e);
}

int blk_qcow2_open_damaged(struct blk_file *file, struct blk_qcow2 **out,
			   struct blk_error *e)
{
	return open_file(file, true, out, e);
}

void blk_qcow2_close(struct blk_qcow2 *q)
{
	if (!q)
		return;
	blk_scan_free(q);
	blk_slots_free(q);
	free(q->meta.run);
	free(q->freed);
	free(q->sector);
	free(q->rt);
	free(q->backing_file);
	free(q->backing_format);
	free(q->data_file);
	free(q->head);
	pthread_mutex_destroy(&q->lock);
	free(q);
}

const struct qcow2_header *blk_qcow2_header(const struct blk_qcow2 *q)
{
	return &q->h;
}

const char *blk_qcow2_backing_file(const struct blk_qcow2 *q)
{
	return q->backing_file;
}

const char *blk_qcow2_backing_format(const struct blk_qcow2 *q)
{
	return q->backing_format;
}

bool blk_qcow2_leaked(struct blk_qcow2 *q)
{
	blk_guard_mutex(&q->lock);
	return q->leaked;
}

void blk_qcow2_set_ops(struct blk_qcow2 *q, const struct blk_qcow2_ops *ops,
		       void *opaque)
{
	blk_guard_mutex(&q->lock);
	q->ops = ops;
	q->opaque = opaque;
	q->announced = 0;	/* whatever the last user was told */
}

const char *blk_qcow2_data_file(const struct blk_qcow2 *q)
{
	return q->data_file;
}

bool blk_qcow2_data_file_raw(const struct blk_qcow2 *q)
{
	return blk_q_has_data_file(q) &&
		q->h.autoclear_features & QCOW2_AUTOCLEAR_DATA_FILE_RAW;
}

static int check_kind(const struct blk_qcow2 *q, struct blk_error *e)
{
	const char *why = contradiction(q);

	if (why)
		return blk_q_corrupt(q, e, why);
	if (q->h.crypt_method != QCOW2_CRYPT_AES)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
		      "'%s' is encrypted with AES in the old, insecure way, which only QEMU's tools still read",
		      q->f->path);
	blk_error_hint(e, "convert it with \"qemu-img convert\", to LUKS if it is to stay encrypted");
	return -EOPNOTSUPP;
}

static int can_write(const struct blk_qcow2 *q, struct blk_error *e)
{
	const char *path = q->f->path;

	if (!q->f->writable)
		return blk_error_set(e, BLK_ERR_FAILED, EROFS,
				     "'%s' is open for reading only", path);
	if (q->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT) {
		blk_q_corrupt(q, e, "it is marked as corrupt");
		blk_error_hint(e, "repair it with \"qemu-img check -r all\"");
		return -EUCLEAN;
	}
	if (q->rt_why)
		return blk_q_corrupt(q, e, q->rt_why);
	if (q->h.nb_snapshots && blk_q_has_data_file(q)) {
		blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			      "'%s' has internal snapshots and an external data file: a write would change the snapshots",
			      path);
		blk_error_hint(e, "attach it read-only");
		return -EOPNOTSUPP;
	}
	if (q->cs < q->f->align)
		return blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
				     "'%s' has clusters of %llu bytes, smaller than the blocks of %zu bytes of what it is on",
				     path, (unsigned long long)q->cs,
				     q->f->align);
	return 0;
}

int blk_qcow2_can_attach(struct blk_qcow2 *q, bool writable,
			 struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	ret = check_kind(q, e);
	return ret || !writable ? ret : can_write(q, e);
}
