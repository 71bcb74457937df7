// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image map: what is where in an image and those below it.
 *
 * Owns the list of extents as qemu-img has it: neighbours that are alike are
 * one. Pictures of it are in heat.c.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/be.h"
#include "image/heat.h"
#include "image/image.h"

struct map_args {
	const char *file;
	const char *start;
	const char *max;
	const char *heat;
	bool draw;
	bool shared;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct map_args, field)

static const struct opt map_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	IMAGE_OPT_FORMAT(struct map_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct map_args, common),
	IMAGE_OPT_OBJECT(struct map_args, common),
	{ OPT_STRING, 's', "start-offset", "OFFSET", "begin there", ARG(start) },
	{ OPT_STRING, 'l', "max-length", "LENGTH", "no more than that",
	  ARG(max) },
	{ OPT_FLAG, 0, "draw", NULL, "draw it in letters", ARG(draw) },
	{ OPT_STRING, 0, "heat", "FILE",
	  "draw it into a file, NAME.svg or NAME.png",
	  .complete = OPT_COMPLETE_FILE, ARG(heat) },
	{ OPT_FLAG, 0, "shared", NULL,
	  "say what internal snapshots have too; --draw and --heat do",
	  ARG(shared) },
	IMAGE_OPT_SHARE(struct map_args, common),
	IMAGE_OPT_OUTPUT(struct map_args, common),
	{}
};

/* What is shown as one */
struct piece {
	uint64_t start, length, offset;
	unsigned int depth;
	bool present, zero, data, compressed, has_offset, shared;
	const char *file;
};

struct map {
	struct image_run *r;
	const struct map_args *a;
	struct blk_img *m;
	json_t *list;
	struct heat *heat;
	struct piece last;	/* not shown yet; length 0: none */
};

static struct piece piece_of(const struct map *map, const struct blk_extent *x)
{
	struct blk_img *layer = map->m;
	struct piece p = {
		.start = x->off,
		.length = x->len,
		.offset = x->host,
		.depth = x->layer,
		.present = x->kind != BLK_EXT_HOLE,
		.zero = x->kind == BLK_EXT_HOLE || x->kind == BLK_EXT_ZERO,
		.data = x->kind == BLK_EXT_DATA ||
			x->kind == BLK_EXT_COMPRESSED || x->preallocated,
		.compressed = x->kind == BLK_EXT_COMPRESSED,
		.has_offset = x->has_host,
		.shared = x->shared,
	};

	for (unsigned int i = 0; i < x->layer && layer; i++) {
		struct blk_img *below = blk_img_backing(layer);

		/* it ends before: the one above has zeroes there, as QEMU says */
		if (below && x->off >= blk_img_size(below)) {
			p.depth = i;
			p.present = p.has_offset = false;
			break;
		}
		layer = below;
	}
	p.file = x->file ? x->file->path : layer ? blk_img_name(layer) : "";
	return p;
}

static bool goes_on(const struct piece *a, const struct piece *b)
{
	return a->depth == b->depth && a->present == b->present &&
		a->zero == b->zero && a->data == b->data &&
		a->compressed == b->compressed &&
		a->has_offset == b->has_offset && a->shared == b->shared &&
		(!a->has_offset || a->offset + a->length == b->offset);
}

static void show_json(struct map *map, const struct piece *p)
{
	json_t *o = json_pack("{s:I, s:I, s:I, s:b, s:b, s:b, s:b}", "start",
			      (json_int_t)p->start, "length",
			      (json_int_t)p->length, "depth",
			      (json_int_t)p->depth, "present", p->present,
			      "zero", p->zero, "data", p->data, "compressed",
			      p->compressed);

	if (p->has_offset)
		json_object_set_new(o, "offset",
				    json_integer((json_int_t)p->offset));
	if (map->a->shared)
		json_object_set_new(o, "shared", json_boolean(p->shared));
	json_array_append_new(map->list, o);
}

static enum heat_kind kind_of(const struct piece *p)
{
	if (p->compressed)
		return HEAT_COMPRESSED;
	if (p->data && !p->zero)
		return p->shared ? HEAT_SHARED : HEAT_DATA;
	return p->present ? HEAT_ZERO : HEAT_HOLE;
}

static void show_human(const struct map *map, const struct piece *p)
{
	if (!p->data || p->zero)
		return;
	printf("%#-16" PRIx64 "%#-16" PRIx64, p->start, p->length);
	if (p->has_offset)
		printf("%#-16" PRIx64, p->offset);
	else
		printf("%-16s", p->compressed ? "compressed" : "encrypted");
	if (map->a->shared)
		printf("%-8s", p->shared ? "yes" : "no");
	out_text(p->file);
	putchar('\n');
}

static void show(struct map *map)
{
	const struct piece *p = &map->last;

	if (!p->length)
		return;
	if (map->heat)
		heat_add(map->heat, p->start, p->length, kind_of(p),
			 p->depth);
	if (map->r->cli->json)
		show_json(map, p);
	else if (!map->heat)
		show_human(map, p);
}

static int walk(struct map *map, uint64_t off, uint64_t end,
		struct blk_error *e)
{
	struct blk_extent x;
	struct piece p;
	int ret = 0;

	while (off < end) {
		ret = image_interrupted(e);
		if (!ret)
			ret = blk_img_map(map->m, off, end - off, &x, e);
		if (ret)
			return ret;
		p = piece_of(map, &x);
		off += x.len;
		if (map->last.length && goes_on(&map->last, &p)) {
			map->last.length += p.length;
			continue;
		}
		show(map);
		map->last = p;
	}
	show(map);
	return 0;
}

static int parse(const struct map_args *a, uint64_t size, uint64_t *off,
		 uint64_t *end, struct blk_error *e)
{
	uint64_t max = UINT64_MAX;
	int ret = a->start ? size_parse(a->start, off, e) : 0;

	if (!ret && a->max)
		ret = size_parse(a->max, &max, e);
	*end = *off < size && max < size - *off ? *off + max : size;
	return ret;
}

static int draw(struct map *map, struct blk_error *e)
{
	if (map->a->draw)
		heat_print(map->heat);
	return map->a->heat ? heat_write(map->heat, map->a->heat, e) : 0;
}

static unsigned int images(struct blk_img *m)
{
	unsigned int n = 0;

	for (; m; m = blk_img_backing(m))
		n++;
	return n;
}

static int work(struct image_run *r, const struct map_args *a,
		struct blk_error *e)
{
	struct map map = { .r = r, .a = a, .list = json_array() };
	uint64_t off = 0, end = 0;
	unsigned int shared = a->shared || a->heat || a->draw ?
		BLK_IMG_SHARED : 0;
	int ret = a->heat ? heat_check(a->heat, e) : 0;

	if (!ret)
		ret = image_open(r, a->file, image_flags(r, false) | shared |
				 BLK_IMG_NO_DATA, &map.m, e);
	if (!ret)
		ret = parse(a, blk_img_size(map.m), &off, &end, e);
	if (!ret && (a->heat || a->draw))
		map.heat = heat_new(off, end > off ? end - off : 0,
				    images(map.m));
	if (!ret && !map.heat && !r->cli->json)
		printf("%-16s%-16s%-16s%s%s\n", "Offset", "Length",
		       "Mapped to", a->shared ? "Shared  " : "", "File");
	if (!ret)
		ret = walk(&map, off, end, e);
	if (!ret && map.heat)
		ret = draw(&map, e);
	if (!ret && r->cli->json)
		out_document(r->cli, "map", json_incref(map.list));
	heat_free(map.heat);
	json_decref(map.list);
	blk_img_close(map.m, NULL);
	return ret;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct map_args *a = args;
	struct image_run r;
	int ret = image_begin(cli, &a->common, &r, e);

	if (!ret)
		ret = work(&r, a, e);
	return image_end(&r, ret, e);
}

const struct verb verb_image_map = {
	.name = "map",
	.of = "image",
	.qemu_codes = true,
	.summary = "say what is where in an image and those below it",
	.opts = map_opts,
	.args_size = sizeof(struct map_args),
	.run = run,
};
