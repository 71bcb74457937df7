// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image convert --bitmaps: the persistent bitmaps go with the disk.
 */
#include "image/convert.h"

#include <errno.h>

int convert_bitmaps_check(const struct image_run *r, struct blk_img *source,
			  bool skip, struct blk_error *e)
{
	struct blk_qcow2 *q = blk_img_qcow2(source);
	struct blk_qcow2_bitmap *b;
	size_t n, i;
	int ret;

	if (!q)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is raw and has no bitmaps: not with --bitmaps",
				     blk_img_name(source));
	ret = blk_qcow2_bitmaps_list(q, &b, &n, e);
	if (ret)
		return ret;
	for (i = 0; !ret && i < n; i++) {
		if (!b[i].in_use)
			continue;
		if (skip) {
			image_say(r, "bitmap '%s' is inconsistent, and is left out\n",
				  b[i].name);
			continue;
		}
		ret = blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				    "bitmap '%s' is inconsistent and cannot be copied",
				    b[i].name);
		blk_error_hint(e, "--skip-broken-bitmaps, or blkctl image bitmap --remove");
	}
	blk_qcow2_bitmaps_free(b, n);
	return ret;
}

static int copy_one(struct blk_qcow2 *to, struct blk_qcow2 *from,
		    const struct blk_qcow2_bitmap *b, struct blk_error *e)
{
	struct blk_qcow2_bitmap_change c[] = {
		{ .what = BLK_BITMAP_ADD, .granularity = b->granularity },
		{ .what = BLK_BITMAP_MERGE, .from = from, .source = b->name },
		{ .what = BLK_BITMAP_DISABLE },
	};

	return blk_qcow2_bitmaps_change(to, b->name, c, b->recording ? 2 : 3,
					e);
}

int convert_bitmaps(struct blk_img *source, struct blk_img *target,
		    struct blk_error *e)
{
	struct blk_qcow2 *from = blk_img_qcow2(source), *to;
	struct blk_qcow2_bitmap *b;
	size_t n, i;
	int ret = blk_qcow2_bitmaps_list(from, &b, &n, e);

	if (ret)
		return ret;
	ret = blk_qcow2_open(blk_img_file(target), &to, e);
	for (i = 0; !ret && i < n; i++)
		if (!b[i].in_use)
			ret = copy_one(to, from, &b[i], e);
	if (!ret && n)
		ret = blk_qcow2_trim(to, e);
	blk_qcow2_close(to);
	blk_qcow2_bitmaps_free(b, n);
	return ret;
}
