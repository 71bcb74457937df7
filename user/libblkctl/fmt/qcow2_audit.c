// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The check of an image that may be damaged in any way.
 *
 * Owns the list of findings, and the order of the check.  Must not write, nor
 * end at the first thing that is wrong: an entry that makes no sense is a
 * finding, and counts for what QEMU counts it.  Locking: the caller holds
 * q->lock; a.lock is for the threads of a check.
 *
 * A table that many L1 entries name is read once, and what is in it counted as
 * often as it is named.  So time is bounded by the tables, not the snapshots.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fmt/qcow2_audit_int.h"
#include "qcow2/snapshot.h"

#define MAX_CLUSTERS	((uint64_t)INT32_MAX)	/* QEMU's limit */

static void sum(struct blk_audit *o, enum blk_audit_kind kind, uint64_t by)
{
	if (kind == BLK_AUDIT_ERROR)
		o->errors += by;
	else if (kind == BLK_AUDIT_CORRUPTION)
		o->corruptions += by;
	else
		o->leaks += by;
}

static void add_finding(struct blk_audit *o,
			const struct blk_audit_finding *f)
{
	if (o->n_findings == BLK_AUDIT_FINDINGS)
		o->left_out++;
	else
		o->finding[o->n_findings++] = *f;
}

void audit_say(struct audit *a, enum blk_audit_kind kind, uint64_t by,
	       uint64_t at, uint64_t len, const char *fmt, ...)
{
	struct blk_audit_finding f = {
		.kind = kind, .at = at, .len = len, .count = by,
	};
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f.text, sizeof(f.text), fmt, ap);
	va_end(ap);
	blk_guard_mutex(&a->lock);
	sum(a->out, kind, by);
	add_finding(a->out, &f);
}

bool audit_stopped(struct audit *a)
{
	return atomic_load(&a->failed) ||
		(a->watch && a->watch->stop && a->watch->stop(a->watch->opaque));
}

int audit_count(struct audit *a, struct blk_refs *refs, uint64_t off,
		uint64_t len, uint64_t by, uint64_t at)
{
	uint32_t bits = a->q->h.cluster_bits;
	uint64_t first = off >> bits, end;

	if (!len)
		return 0;
	/* the last cluster may be there in part */
	if ((int64_t)(off + len) - a->file_len >= (int64_t)a->q->cs) {
		audit_say(a, BLK_AUDIT_CORRUPTION, by, at, 0,
			  "refers to 0x%llx, %llu bytes, outside the file",
			  (unsigned long long)off, (unsigned long long)len);
		return 0;
	}
	end = ((off + len - 1) >> bits) + 1;
	return blk_refs_add_run(refs, first, end - first, by);
}

static int count_run(void *opaque, uint64_t off, uint64_t len)
{
	struct audit *a = opaque;

	return audit_count(a, &a->refs, off, len, 1, off);
}

static int visit_snapshot(void *opaque, const struct blk_snap *s)
{
	struct audit *a = opaque;
	uint64_t at = a->q->h.snapshots_offset;
	int name = (int)BLK_MIN(s->name_len, 60U);

	if (a->q->h.version >= 3 && s->extra_len < 16)
		audit_say(a, BLK_AUDIT_CORRUPTION, 1, at, 0,
			  "the entry of snapshot '%.*s' is incomplete", name,
			  s->name);
	if (s->l1_offset & (a->q->cs - 1) ||
	    s->l1_size > QCOW2_MAX_L1_BYTES / 8) {
		audit_say(a, BLK_AUDIT_CORRUPTION, 1, at, 0,
			  "snapshot '%.*s' has an L1 table that cannot be: 0x%llx, %u entries",
			  name, s->name, (unsigned long long)s->l1_offset,
			  s->l1_size);
		return 0;
	}
	return audit_l1(a, s->l1_offset, s->l1_size, false);
}

static int audit_snapshots(struct audit *a)
{
	struct blk_qcow2 *q = a->q;
	uint64_t bytes = 0;
	int ret;

	if (q->h.nb_snapshots > QCOW2_MAX_SNAPSHOTS ||
	    q->h.snapshots_offset & (q->cs - 1) ||
	    q->h.snapshots_offset > INT64_MAX - BLK_SNAP_MAX_TABLE)
		return blk_q_corrupt(q, a->e,
				     "the header's place of the snapshot table cannot be right");
	if (q->h.nb_snapshots && blk_q_has_data_file(q))
		audit_say(a, BLK_AUDIT_CORRUPTION, 1, q->h.snapshots_offset, 0,
			  "%u snapshots in an image with a data file",
			  q->h.nb_snapshots);
	q->lenient = true;
	ret = blk_walk_snapshot_table(q, visit_snapshot, a, &bytes, a->e);
	q->lenient = false;
	return ret ? ret : audit_count(a, &a->refs, q->h.snapshots_offset,
				       bytes, 1, 60);
}

static int audit_structures(struct audit *a)
{
	struct blk_qcow2 *q = a->q;
	int ret = audit_count(a, &a->refs, 0, q->cs, 1, 0);

	if (!ret)
		ret = audit_l1(a, q->h.l1_table_offset, q->h.l1_size, true);
	if (!ret)
		ret = audit_snapshots(a);
	if (!ret)
		ret = audit_count(a, &a->refs, q->h.refcount_table_offset,
				  q->rt_n * 8, 1, 48);
	if (!ret && q->ext.has_crypto)
		ret = audit_count(a, &a->refs, q->ext.crypto_offset,
				  q->ext.crypto_length, 1, 0);
	return ret ? ret : blk_walk_bitmaps(q, count_run, a, a->e);
}

static int compare_findings(const void *x, const void *y)
{
	const struct blk_audit_finding *a = x, *b = y;

	if (a->kind != b->kind)
		return (int)a->kind - (int)b->kind;
	return a->at < b->at ? -1 : a->at > b->at;
}

static int begin(struct audit *a)
{
	struct blk_qcow2 *q = a->q;

	a->file_len = blk_file_size(q->f);
	if (a->file_len < 0)
		return blk_q_io_error(q, a->e, (int)a->file_len,
				      "find the size");
	a->clusters = ((uint64_t)a->file_len + q->cs - 1) >> q->h.cluster_bits;
	a->limit = a->clusters + 1;
	if (a->clusters > MAX_CLUSTERS)
		return blk_error_set(a->e, BLK_ERR_FAILED, EFBIG,
				     "'%s' has too many clusters to be checked",
				     q->f->path);
	a->out->total_clusters = (q->h.size + q->cs - 1) >> q->h.cluster_bits;
	a->out->finding = calloc(BLK_AUDIT_FINDINGS, sizeof(*a->out->finding));
	a->single = calloc(a->limit / 64 + 2, sizeof(*a->single));
	if (!a->out->finding || !a->single ||
	    blk_refs_init(&a->refs, a->limit))
		return -ENOMEM;
	return 0;
}

static int check(struct audit *a, unsigned int threads)
{
	int ret = begin(a);

	if (!ret)
		ret = audit_load_single(a);
	if (!ret)
		ret = audit_structures(a);
	if (!ret) {
		audit_sort_tables(a);
		ret = audit_tables(a, threads);
	}
	if (!ret)
		ret = audit_blocks(a);
	if (!ret)
		ret = audit_compare(a);
	a->out->memory = a->refs.bytes + a->limit / 8 +
		a->thread_bytes + a->room * sizeof(*a->table) +
		a->out->threads * (sizeof(struct blk_refs_page) *
				   (a->refs.n >> BLK_REFS_PAGE_BITS) +
				   audit_batch(a->q) * a->q->cs);
	return ret;
}

int audit_run(struct audit *a, unsigned int threads)
{
	struct blk_audit *o = a->out;
	int ret;

	memset(o, 0, sizeof(*o));
	pthread_mutex_init(&a->lock, NULL);
	ret = check(a, threads);
	if (ret == -ENOMEM || ret == -EOVERFLOW || ret == -ERANGE)
		blk_error_set(a->e, BLK_ERR_FAILED, ENOMEM,
			      "'%s' needs too much memory to be checked",
			      a->q->f->path);
	if (o->finding)
		qsort(o->finding, o->n_findings, sizeof(*o->finding),
		      compare_findings);
	return ret;
}

void audit_free(struct audit *a)
{
	blk_refs_free(&a->refs);
	free(a->single);
	free(a->table);
	pthread_mutex_destroy(&a->lock);
}

int blk_qcow2_audit(struct blk_qcow2 *q, unsigned int threads,
		    const struct blk_audit_watch *watch, struct blk_audit *out,
		    struct blk_error *e)
{
	struct audit a = { .q = q, .e = e, .watch = watch, .out = out };
	int ret;

	blk_guard_mutex(&q->lock);
	ret = audit_run(&a, threads);
	audit_free(&a);
	if (ret < 0)
		blk_audit_clear(out);
	return ret;
}

void blk_audit_clear(struct blk_audit *a)
{
	free(a->finding);
	memset(a, 0, sizeof(*a));
}
