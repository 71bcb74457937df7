// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The sources of a copy, one behind the other, as one disk.
 *
 * Owns nothing; any thread.
 */
#include <string.h>
#include <unistd.h>

#include "base/be.h"
#include "img/copy_int.h"

#define SECTOR 512U

/* Of which source is @off, and where in it; NULL: behind all */
static struct blk_img *source_at(const struct blk_copy *c, uint64_t *off,
				 uint64_t *left)
{
	size_t i;

	for (i = 0; i < c->n_src; i++) {
		uint64_t size = blk_img_size(c->src[i]);

		if (*off < size) {
			*left = size - *off;
			return c->src[i];
		}
		*off -= size;
	}
	return NULL;
}

int copy_look(const struct blk_copy *c, uint64_t off, uint64_t len,
	      struct blk_extent *x, struct blk_error *e)
{
	uint64_t left = 0, at = off;
	struct blk_img *m = source_at(c, &at, &left);
	int rc;

	*x = (struct blk_extent){ .len = len };
	if (!m)
		return 0;
	len = BLK_MIN(len, left);
	rc = c->own ? blk_img_map_own(m, at, len, x, e) :
		blk_img_map(m, at, len, x, e);
	if (!rc || !c->bad)
		return rc;
	/* reading will say what of it is lost */
	*x = (struct blk_extent){
		.len = BLK_MIN(len, SECTOR), .kind = BLK_EXT_DATA,
	};
	return 0;
}

/*
 * What cannot be read
 */

/**
 * struct loss - bytes behind each other that are lost
 * @len: 0: none
 */
struct loss {
	const struct blk_copy *c;
	uint64_t off, len;
	struct blk_error e;
};

static void tell(struct loss *l)
{
	if (l->len)
		l->c->bad(l->c->opaque, l->off, l->len, &l->e);
	l->len = 0;
}

static void lose(struct loss *l, uint64_t off, uint64_t len,
		 const struct blk_error *e)
{
	if (!l->len || l->off + l->len != off) {
		tell(l);
		l->off = off;
		l->e = *e;
	}
	l->len += len;
}

/* Halves, until what is bad is no more than a sector; @off: for the report */
static void salvage(struct loss *l, struct blk_img *m, uint8_t *buf, uint64_t n,
		    uint64_t at, uint64_t off)
{
	struct blk_error e;
	uint64_t half;

	if (!blk_img_read(m, buf, n, at, &e))
		return;
	if (n <= SECTOR) {
		memset(buf, 0, n);
		lose(l, off, n, &e);
		return;
	}
	half = blk_align_up(n / 2, SECTOR);
	salvage(l, m, buf, half, at, off);
	salvage(l, m, buf + half, n - half, at + half, off + half);
}

static int read_source(const struct blk_copy *c, struct blk_img *m,
		       uint8_t *buf, uint64_t n, uint64_t at, uint64_t off,
		       struct blk_error *e)
{
	struct loss l = { .c = c };
	int rc = blk_img_read(m, buf, n, at, e);

	if (!rc || !c->bad)
		return rc;
	salvage(&l, m, buf, n, at, off);
	tell(&l);
	return 0;
}

int copy_read(const struct blk_copy *c, uint8_t *buf, uint64_t off,
	      uint64_t len, struct blk_error *e)
{
	int rc = 0;

	while (!rc && len) {
		uint64_t left = len, at = off, n;
		struct blk_img *m = source_at(c, &at, &left);

		n = BLK_MIN(left, len);
		if (m)
			rc = read_source(c, m, buf, n, at, off, e);
		else
			memset(buf, 0, n);
		buf += n;
		off += n;
		len -= n;
	}
	return rc;
}

/*
 * Copies that the host makes
 */

bool copy_is_plain(const struct blk_copy *c, uint64_t off, uint64_t len)
{
	struct blk_extent x;

	for (; len; off += x.len, len -= x.len)
		if (copy_look(c, off, len, &x, NULL) ||
		    x.kind != BLK_EXT_DATA || !x.has_host)
			return false;
	return true;
}

static bool copy_range(struct blk_file *from, off_t at, struct blk_file *f,
		       off_t to, uint64_t len)
{
	while (len) {
		ssize_t n = copy_file_range(from->fd, &at, f->fd, &to, len, 0);

		if (n <= 0)
			return false;
		len -= n;
	}
	return true;
}

bool copy_by_host(const struct blk_copy *c, uint64_t off, uint64_t len,
		  struct blk_file *f, uint64_t to)
{
	struct blk_extent x;

	for (; len; off += x.len, to += x.len, len -= x.len)
		if (copy_look(c, off, len, &x, NULL) ||
		    !copy_range(x.file, (off_t)x.host, f, (off_t)to, x.len))
			return false;
	return true;
}
