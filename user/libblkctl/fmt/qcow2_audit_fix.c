// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Repairs of what a check has found.
 *
 * Owns their order: entries whose meaning is clear; then the refcounts, in
 * place or as new structures.  Must not give up anything that a table refers
 * to: where tables contradict each other the refcounts stay as they are.
 * Locking: the public functions hold q->lock.
 *
 * From the first refcount to the last the image is marked as dirty, so that
 * a crash leaves one that is repaired before anybody writes to it.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_audit_int.h"

#define HEADER_INCOMPAT_AT	72U

static int put_incompatible(struct blk_qcow2 *q, uint64_t bits)
{
	int ret;

	if (q->h.version < 3 || q->h.incompatible_features == bits)
		return 0;
	q->h.incompatible_features = bits;
	blk_header_emit(&q->h, q->head);
	ret = blk_q_write_head(q, HEADER_INCOMPAT_AT, 8);
	if (ret < 0)
		blk_q_reread_head(q);
	return ret;
}

/* The entries of a buffer, from @off in the file: those that differ */
static int fix_buffer(struct audit *a, uint8_t *buf, uint64_t len, uint64_t off,
		      bool l1)
{
	struct blk_qcow2 *q = a->q;
	uint64_t step = !l1 && blk_q_has_extl2(q) ? 16 : 8;
	int ret = 0;

	for (uint64_t i = 0; i < len && !ret; i += step) {
		uint64_t old = blk_get_be64(buf + i);
		uint64_t right = l1 ? audit_right_l1(old) :
			audit_right_entry(q, old);
		uint8_t be[8];

		if (right == old)
			continue;
		blk_put_be64(be, right);
		ret = blk_file_write(q->f, be, 8, off + i);
	}
	return ret;
}

/* Nothing else is in these clusters, so that they are what they seem to be. */
static bool is_alone(struct audit *a, uint64_t off, uint64_t len, uint64_t refs)
{
	uint32_t bits = a->q->h.cluster_bits;

	if (!off || off & (a->q->cs - 1) || off >= (uint64_t)a->file_len)
		return false;
	for (uint64_t c = off >> bits; c <= (off + len - 1) >> bits; c++)
		if (blk_refs_get(&a->refs, c) != refs)
			return false;
	return true;
}

static int fix_tables(struct audit *a, uint8_t *buf)
{
	struct blk_qcow2 *q = a->q;
	int ret = 0;

	for (size_t i = 0; i < a->n_tables && !ret; i++) {
		const struct audit_table *t = &a->table[i];

		if (!is_alone(a, t->off, q->cs, t->all))
			continue;
		ret = blk_file_read(q->f, buf, q->cs, t->off);
		if (!ret)
			ret = fix_buffer(a, buf, q->cs, t->off, false);
	}
	return ret;
}

static int fix_l1(struct audit *a, uint8_t *buf)
{
	struct blk_qcow2 *q = a->q;
	uint64_t off = q->h.l1_table_offset, len = (uint64_t)q->h.l1_size * 8;
	int ret = 0;

	if (!len || !is_alone(a, off, len, 1))
		return 0;
	for (uint64_t at = 0; at < len && !ret; at += q->cs) {
		uint64_t n = BLK_MIN(q->cs, len - at);

		ret = blk_file_read(q->f, buf, n, off + at);
		if (!ret)
			ret = fix_buffer(a, buf, n, off + at, true);
	}
	return ret;
}

static int fix_entries(struct blk_qcow2 *q, struct blk_error *e)
{
	struct blk_audit o;
	struct audit a = { .q = q, .e = e, .out = &o };
	uint8_t *buf blk_auto_free = NULL;
	int ret = audit_run(&a, 0);

	if (!ret && posix_memalign((void **)&buf, 4096,
				   BLK_MAX(q->cs, 4096U)))
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOMEM,
				    "out of memory");
	if (!ret) {
		ret = fix_tables(&a, buf);
		if (!ret)
			ret = fix_l1(&a, buf);
		if (!ret)
			ret = blk_file_flush(q->f);
		if (ret < 0)
			blk_q_io_error(q, e, ret, "repair table entries");
	}
	blk_audit_clear(&o);
	audit_free(&a);
	return ret;
}

static int fix_refcounts(struct blk_qcow2 *q, const struct blk_audit *found,
			 bool all, struct blk_error *e)
{
	uint64_t bits = q->h.incompatible_features;
	struct blk_repair how = {
		.leaks_only = !all,
		.no_copied = !all && (found->corruptions || found->errors),
		.keep_dirty = !all && bits & QCOW2_INCOMPAT_DIRTY,
	};
	bool touched = false;
	int ret = put_incompatible(q, bits | QCOW2_INCOMPAT_DIRTY);

	if (ret < 0)
		return blk_q_io_error(q, e, ret, "mark it as dirty");
	ret = blk_repair_refcounts(q, &how, &touched, e);
	if (ret < 0 && !touched && put_incompatible(q, bits) < 0)
		return blk_q_io_error(q, e, -EIO, "write the header");
	return ret;
}

static int fix(struct blk_qcow2 *q, const struct blk_audit *found, bool all,
	       struct blk_error *e)
{
	bool broken = found->rebuild || q->rt_why;
	int ret = all && found->entries ? fix_entries(q, e) : 0;

	if (!ret && broken && !all) {
		blk_q_corrupt(q, e,
			      "its refcounts cannot be used, and have to be made anew");
		blk_error_hint(e, "-r all does it");
		return -EUCLEAN;
	}
	if (ret < 0)
		return ret;
	if (!broken)
		ret = fix_refcounts(q, found, all, e);
	/* something may be where the refcounts are */
	if (broken || (ret == -EUCLEAN && all)) {
		ret = audit_rebuild(q, e);
		if (!ret)
			ret = fix_refcounts(q, found, all, e);
	}
	if (ret == -EUCLEAN)
		blk_error_hint(e, "refcounts are left as they are, so that nothing is lost: copy out what can be read, with \"blkctl image convert\"");
	return ret;
}

int blk_qcow2_audit_fix(struct blk_qcow2 *q, const struct blk_audit *found,
			bool all, struct blk_error *e)
{
	int ret;

	blk_guard_mutex(&q->lock);
	ret = fix(q, found, all, e);
	if (!ret && e)
		*e = (struct blk_error){ 0 };	/* of the first attempt */
	return ret;
}

int blk_qcow2_audit_clean(struct blk_qcow2 *q, struct blk_error *e)
{
	uint64_t bits;
	int ret;

	blk_guard_mutex(&q->lock);
	bits = q->h.incompatible_features &
		~(QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	ret = put_incompatible(q, bits);
	return ret < 0 ? blk_q_io_error(q, e, ret, "write the header") : 0;
}
