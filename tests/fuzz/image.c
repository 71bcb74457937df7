// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes a whole image: open, snapshots, repair, bitmaps, metadata, mark,
 * grants, release, leak scan, trim, and changes of size.
 *
 * The input is a sparse image: a header of at most 512 bytes, then patches
 * { cluster u8, offset u16, length u8, bytes } of an image of 32 clusters in a
 * memory file.  Whatever the image says, nothing may be written below the
 * first cluster but the header, no grant may overlap another, and everything
 * must end.  Where more refers to a cluster than its refcount says, a reference
 * that goes may take the grant's count with it: there, grants may overlap.  An
 * image that was repaired is not dirty.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/be.h"
#include "fmt/qcow2.h"
#include "fmt/qcow2_audit.h"

#define HEADER_BYTES	512U
#define FILE_BYTES	(2U << 20)
#define CLUSTERS	32U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int make_image(const uint8_t *data, size_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint32_t bits = blk_get_be32(data + 20) & 31;
	size_t pos = HEADER_BYTES;

	if (fd < 0 || ftruncate(fd, FILE_BYTES) ||
	    pwrite(fd, data, HEADER_BYTES, 0) != (ssize_t)HEADER_BYTES)
		abort();
	while (pos + 4 < size) {
		off_t off = ((off_t)(data[pos] % CLUSTERS) << bits) +
			blk_get_be16(data + pos + 1);
		size_t len = BLK_MIN((size_t)data[pos + 3], size - pos - 4);

		if (off + len <= FILE_BYTES &&
		    pwrite(fd, data + pos + 4, len, off) != (ssize_t)len)
			abort();
		pos += 4 + len;
	}
	return fd;
}

static void check_grants(const struct blk_qcow2 *q,
			 const struct dm_qcow_run *r, size_t n)
{
	uint64_t cs = qcow2_cluster_size(blk_qcow2_header(q));

	for (size_t i = 0; i < n; i++) {
		if (!r[i].length || !r[i].offset ||
		    (r[i].offset | r[i].length) & (cs - 1))
			abort();
		for (size_t j = 0; j < i; j++)
			if (r[i].offset < r[j].offset + r[j].length &&
			    r[j].offset < r[i].offset + r[i].length)
				abort();
	}
}

static void repair(struct blk_qcow2 *q)
{
	const struct qcow2_header *h = blk_qcow2_header(q);
	bool dirty = h->incompatible_features & QCOW2_INCOMPAT_DIRTY;
	struct blk_error e;
	bool repaired;

	if (!blk_qcow2_repair(q, &repaired, &e) &&
	    (repaired != dirty ||
	     h->incompatible_features & QCOW2_INCOMPAT_DIRTY))
		abort();
}

static void find_snapshots(struct blk_qcow2 *q)
{
	struct blk_qcow2_snapshot s;
	struct blk_error e;

	for (const char *tag = "1aZ"; *tag; tag++) {
		blk_qcow2_snapshot_find(q, tag, &s, &e);
		blk_qcow2_snapshot_clear(&s);
	}
}

static bool is_counted(struct blk_qcow2 *q)
{
	struct blk_audit a;
	struct blk_error e;
	bool counted;

	if (blk_qcow2_audit(q, 1, NULL, &a, &e))
		return false;
	counted = !a.corruptions && !a.errors;
	blk_audit_clear(&a);
	return counted;
}

/* The kernel may hold grants: these must not be given out again. */
static void resize(struct blk_qcow2 *q)
{
	const struct qcow2_header *h = blk_qcow2_header(q);
	uint64_t size = h->size & ~511ULL;
	uint64_t more = qcow2_cluster_size(h) * 70 + 512;
	struct dm_qcow_run runs[32];
	struct blk_error e;
	bool counted = is_counted(q);
	size_t n = 16, again = 16;

	if (blk_qcow2_alloc(q, 20000, runs, &n, &e))
		return;
	if (!blk_qcow2_resize(q, size + more, false, size + more / 2, &e) &&
	    h->size != size + more)
		abort();
	if (!blk_qcow2_alloc(q, 20000, runs + n, &again, &e) && counted)
		check_grants(q, runs, n + again);
	blk_qcow2_resize(q, size / 2 & ~511ULL, true, 0, &e);
	blk_qcow2_resize(q, size + 512, false, 0, &e);
}

static void use_image(struct blk_qcow2 *q)
{
	struct dm_qcow_run runs[32], *meta = NULL;
	size_t n = 16, more = 16, n_meta = 0;
	struct blk_error e;
	bool stop = false, was;
	uint64_t leaks, want;

	/* enough for a larger refcount table where that is little */
	want = qcow2_cluster_size(blk_qcow2_header(q)) > 512 ? 100000 : 3 << 20;
	blk_qcow2_can_attach(q, true, &e);
	find_snapshots(q);
	repair(q);
	blk_qcow2_bitmaps_begin(q, true, &e);
	if (!blk_qcow2_metadata(q, &meta, &n_meta, &e))
		free(meta);
	if (blk_qcow2_pad(q, true, &e) || blk_qcow2_mark(q, &was, &e))
		return;
	if (blk_qcow2_scan_begin(q, &e))
		return;
	if (blk_qcow2_alloc(q, want, runs, &n, &e))
		n = 0;
	if (blk_qcow2_alloc(q, 1, runs + n, &more, &e))
		more = 0;
	check_grants(q, runs, n + more);
	if (!blk_qcow2_scan_run(q, &stop, &e))
		blk_qcow2_scan_end(q, &leaks, &e);
	blk_qcow2_release(q, runs, n + more, &e);
	blk_qcow2_release(q, runs, 1, &e);
	resize(q);
	blk_qcow2_trim(q, &e);
	blk_qcow2_unmark(q, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct blk_file *f;
	struct blk_qcow2 *q;
	struct blk_error e;
	int fd;

	if (size < HEADER_BYTES || size > 1U << 16)
		return 0;
	fd = make_image(data, size);
	if (blk_file_from_fd(fd, "image", &f, &e)) {
		close(fd);
		return 0;
	}
	if (!blk_qcow2_open(f, &q, &e)) {
		use_image(q);
		blk_qcow2_close(q);
	}
	blk_file_close(f);
	return 0;
}
