// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The L1 and L2 tables of an image that is checked.
 *
 * Owns the list of L2 tables and the threads that read them.  Must not write.
 * Locking: threads share struct audit: the next table is taken by an atomic
 * counter, findings are added under a.lock; each thread has counts and sums of
 * its own, which are added when it ends.
 */
#include <errno.h>
#include <string.h>

#include "fmt/qcow2_audit_int.h"

#define MAX_THREADS	16U
#define MAX_TABLES	(8U << 20)
#define L1_WINDOW	(1U << 20)
#define BATCH_BYTES	(256U << 10)	/* of tables, read at once */
/*
 * That all threads together may count, a byte or more for each: a larger file
 * has fewer threads.
 */
#define THREAD_CLUSTERS	(256ULL << 20)

static int compare_tables(const void *x, const void *y)
{
	const struct audit_table *a = x, *b = y;

	return a->off < b->off ? -1 : a->off > b->off;
}

void audit_sort_tables(struct audit *a)
{
	size_t n = 0;

	if (!a->n_tables)
		return;
	qsort(a->table, a->n_tables, sizeof(*a->table), compare_tables);
	for (size_t i = 1; i < a->n_tables; i++) {
		struct audit_table *t = &a->table[n];

		if (t->off == a->table[i].off) {
			t->active += a->table[i].active;
			t->all += a->table[i].all;
		} else {
			a->table[++n] = a->table[i];
		}
	}
	a->n_tables = n + 1;
}

static int room_for_table(struct audit *a)
{
	struct audit_table *p;
	size_t room = a->room ? a->room * 2 : 1024;

	if (a->n_tables < a->room)
		return 0;
	audit_sort_tables(a);
	if (a->n_tables < a->room / 2)
		return 0;
	p = room > MAX_TABLES ? NULL : realloc(a->table, room * sizeof(*p));
	if (!p)
		return -ENOMEM;
	a->table = p;
	a->room = room;
	return 0;
}

static int l1_entry(struct audit *a, uint64_t entry, uint64_t at, bool active)
{
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	int ret, one;

	if (entry & QCOW2_L1_RESERVED)
		audit_say(a, BLK_AUDIT_CORRUPTION, 1, at, 0,
			  "L1 entry with reserved bits: 0x%llx",
			  (unsigned long long)entry);
	if (off & (a->q->cs - 1))
		audit_say(a, BLK_AUDIT_CORRUPTION, 1, at, 0,
			  "L1 entry whose L2 table is not aligned: 0x%llx",
			  (unsigned long long)off);
	if (active && audit_right_l1(entry) != entry)
		a->out->entries++;
	ret = audit_count(a, &a->refs, off, a->q->cs, 1, at);
	if (!ret)
		ret = room_for_table(a);
	if (ret < 0)
		return ret;
	/* a table without an offset is the header for QEMU's check, too */
	a->table[a->n_tables++] = (struct audit_table){
		.off = off, .active = active, .all = 1,
	};
	one = audit_single(a, off >> a->q->h.cluster_bits);
	if (active && off && one >= 0 && one != !!(entry & QCOW2_ENTRY_COPIED))
		audit_say(a, BLK_AUDIT_CORRUPTION, 1, at, 0,
			  "L1 entry 0x%llx %s COPIED, its L2 table has %s",
			  (unsigned long long)entry, one ? "lacks" : "has",
			  one ? "refcount 1" : "another refcount than 1");
	return 0;
}

int audit_l1(struct audit *a, uint64_t off, uint32_t n, bool active)
{
	uint64_t len = (uint64_t)n * 8;
	uint8_t *buf blk_auto_free = n ? malloc(L1_WINDOW) : NULL;
	int ret = n ? audit_count(a, &a->refs, off, len, 1,
				  active ? 40 : off) : 0;

	if (n && !buf)
		return -ENOMEM;
	for (uint64_t at = 0; at < len && !ret; at += L1_WINDOW) {
		uint64_t k = BLK_MIN(len - at, L1_WINDOW);

		ret = blk_file_read(a->q->f, buf, k, off + at);
		if (ret < 0)
			return blk_q_io_error(a->q, a->e, ret,
					      "read an L1 table");
		if (audit_stopped(a))
			return -ECANCELED;
		for (uint64_t i = 0; i < k && !ret; i += 8) {
			uint64_t entry = blk_get_be64(buf + i);

			if (entry)
				ret = l1_entry(a, entry, off + at + i, active);
		}
	}
	return ret;
}

static void say(struct audit_reader *r, uint64_t by, uint64_t at, uint64_t entry,
		const char *what)
{
	if (by)
		audit_say(r->a, BLK_AUDIT_CORRUPTION, by, at, 0,
			  "L2 entry 0x%llx %s", (unsigned long long)entry,
			  what);
}

static int compressed(struct audit_reader *r, uint64_t entry, uint64_t bitmap,
		      uint64_t at)
{
	struct blk_qcow2 *q = r->a->q;
	uint32_t bits = q->h.cluster_bits;

	if (entry & QCOW2_ENTRY_COPIED)
		say(r, r->t->all, at, entry, "is compressed and has COPIED");
	if (blk_q_has_data_file(q) || bitmap) {
		say(r, r->t->all, at, entry, bitmap ?
		    "is compressed and has subclusters" :
		    "is compressed, beside a data file");
		return 0;
	}
	r->s.allocated += r->t->active;
	r->s.fragmented += r->t->active;
	r->s.compressed += r->t->active;
	return audit_count(r->a, r->refs, qcow2_compressed_offset(entry, bits),
			   qcow2_compressed_length(entry, bits), r->t->all, at);
}

static void check_copied(struct audit_reader *r, uint64_t entry, uint64_t off,
			 uint64_t at)
{
	struct blk_qcow2 *q = r->a->q;
	int one = blk_q_has_data_file(q) ? 1 :
		audit_single(r->a, off >> q->h.cluster_bits);

	if (one >= 0 && one != !!(entry & QCOW2_ENTRY_COPIED))
		say(r, r->t->active, at, entry, one ?
		    "lacks COPIED, its cluster has refcount 1" :
		    "has COPIED, its cluster has another refcount than 1");
}

/* Normal, or zero with a place */
static int allocated(struct audit_reader *r, uint64_t entry, uint64_t bitmap,
		     uint64_t at)
{
	struct blk_qcow2 *q = r->a->q;
	uint64_t off = entry & QCOW2_OFFSET_MASK;
	bool data = blk_q_has_extl2(q) ? bitmap & QCOW2_EXTL2_ALL_ALLOC :
		!(entry & QCOW2_L2_ZERO);

	if (r->t->off)
		check_copied(r, entry, off, at);
	if (bitmap >> 32 & bitmap)
		say(r, r->t->all, at, entry,
		    "has subclusters that are data and zeroes");
	if (off & (q->cs - 1))
		say(r, r->t->all, at, entry, data ?
		    "is a data cluster that is not aligned" :
		    "is a preallocated cluster that is not aligned");
	r->s.allocated += r->t->active;
	if (r->expect && off != r->expect)
		r->s.fragmented += r->t->active;
	r->expect = off + q->cs;
	return blk_q_has_data_file(q) ? 0 :
		audit_count(r->a, r->refs, off, q->cs, r->t->all, at);
}

static int l2_entry(struct audit_reader *r, uint64_t entry, uint64_t bitmap,
		    uint64_t at)
{
	struct blk_qcow2 *q = r->a->q;

	if (audit_right_entry(q, entry) != entry)
		r->s.entries++;
	if (entry & QCOW2_L2_COMPRESSED)
		return compressed(r, entry, bitmap, at);
	if (entry & QCOW2_L2_RESERVED)
		say(r, r->t->all, at, entry, "has reserved bits");
	if (entry & QCOW2_OFFSET_MASK ||
	    (blk_q_has_data_file(q) && entry & QCOW2_ENTRY_COPIED &&
	     (blk_q_has_extl2(q) || !(entry & QCOW2_L2_ZERO))))
		return allocated(r, entry, bitmap, at);
	if (bitmap & QCOW2_EXTL2_ALL_ALLOC)
		say(r, r->t->all, at, entry,
		    "has subclusters with data, but no cluster");
	return 0;
}

static int read_entries(struct audit_reader *r, const uint8_t *buf)
{
	struct blk_qcow2 *q = r->a->q;
	bool ext = blk_q_has_extl2(q);
	uint64_t i = 0;
	int ret = 0;

	r->expect = 0;
	while (!ret) {
		uint64_t entry, bitmap;

		i = audit_plain(r, buf, i);
		if (i >= q->cs || r->ret)
			break;
		entry = blk_get_be64(buf + i);
		bitmap = ext ? blk_get_be64(buf + i + 8) : 0;
		if (entry | bitmap)
			ret = l2_entry(r, entry, bitmap, r->t->off + i);
		i += ext ? 16 : 8;
	}
	return r->ret ? r->ret : ret;
}

size_t audit_batch(const struct blk_qcow2 *q)
{
	return BLK_MAX(BATCH_BYTES / q->cs, 1U);
}

/* Tables [i, end): those that are side by side in the file, at once */
static int read_tables(struct audit_reader *r, size_t i, size_t end)
{
	struct audit *a = r->a;
	uint64_t cs = a->q->cs;
	int ret = 0;

	while (i < end && !ret) {
		const struct audit_table *t = &a->table[i];
		size_t n = 1;

		while (i + n < end && t[n].off == t->off + n * cs)
			n++;
		ret = blk_file_read(a->q->f, r->buf, n * cs, t->off);
		for (size_t k = 0; k < n && !ret; k++) {
			r->t = &t[k];
			ret = audit_stopped(a) ? -ECANCELED :
				read_entries(r, r->buf + k * cs);
			if (a->watch && a->watch->done)
				a->watch->done(a->watch->opaque);
		}
		i += n;
	}
	return ret;
}

static void *run_reader(void *arg)
{
	struct audit_reader *r = arg;
	struct audit *a = r->a;
	size_t batch = audit_batch(a->q), i;

	while (!r->ret &&
	       (i = atomic_fetch_add(&a->next, batch)) < a->n_tables)
		r->ret = read_tables(r, i, BLK_MIN(i + batch, a->n_tables));
	if (r->ret)
		atomic_store(&a->failed, 1);
	return NULL;
}

static void add_sums(struct blk_audit *o, const struct audit_sums *s)
{
	o->allocated_clusters += s->allocated;
	o->fragmented_clusters += s->fragmented;
	o->compressed_clusters += s->compressed;
	o->entries += s->entries;
}

static unsigned int pick_threads(const struct audit *a, unsigned int threads)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!threads)
		threads = cpus > 0 ? (unsigned int)BLK_MIN(cpus, 8L) : 1;
	threads = BLK_MIN(threads, MAX_THREADS);
	threads = (unsigned int)BLK_MIN(threads, THREAD_CLUSTERS / a->limit);
	return (unsigned int)BLK_MAX(1U, BLK_MIN(threads, a->n_tables / 4));
}

/* The first of several failures that is not only the end of the others */
static int join(struct audit *a, struct audit_reader *r, pthread_t *id,
		unsigned int n)
{
	int ret = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (i)
			pthread_join(id[i], NULL);
		add_sums(a->out, &r[i].s);
		a->thread_bytes += r[i].own.bytes;
		if (i && !r[i].ret)
			r[i].ret = blk_refs_merge(&a->refs, &r[i].own);
		blk_refs_free(&r[i].own);
		if (r[i].ret && (!ret || ret == -ECANCELED))
			ret = r[i].ret;
	}
	if (ret && ret != -ECANCELED && ret != -ENOMEM)
		blk_q_io_error(a->q, a->e, ret, "read an L2 table");
	return ret;
}

/* A thread that cannot be is not needed. */
static bool start(struct audit_reader *r, pthread_t *id)
{
	r->refs = &r->own;
	if (blk_refs_init(&r->own, r->a->limit))
		return false;
	if (!pthread_create(id, NULL, run_reader, r))
		return true;
	blk_refs_free(&r->own);
	return false;
}

int audit_tables(struct audit *a, unsigned int threads)
{
	struct audit_reader r[MAX_THREADS] = { 0 };
	pthread_t id[MAX_THREADS];
	uint8_t *mem blk_auto_free = NULL;
	size_t each = BLK_MAX(audit_batch(a->q) * a->q->cs, 4096U);
	unsigned int n = pick_threads(a, threads), started = 1;

	if (posix_memalign((void **)&mem, 4096, n * each))
		return -ENOMEM;
	if (a->watch && a->watch->tables)
		a->watch->tables(a->watch->opaque, a->n_tables);
	for (unsigned int i = 0; i < n; i++)
		r[i] = (struct audit_reader){
			.a = a, .refs = &a->refs, .buf = mem + i * each,
		};
	while (started < n && start(&r[started], &id[started]))
		started++;
	a->out->threads = started;
	run_reader(&r[0]);
	return join(a, r, id, started);
}
