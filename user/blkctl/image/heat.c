// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A picture of a disk.
 *
 * Owns the grid, its colours, and two formats of files: SVG, and PNG with a
 * palette (W3C, "Portable Network Graphics"), for which zlib does the work.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "base/be.h"
#include "image/heat.h"

#define COLUMNS	64U
#define ROWS	32U
#define CELLS	(COLUMNS * ROWS)
#define PIXELS	10U	/* of a cell */
#define WIDTH	900U	/* of an SVG: the legend is longer than a row of cells */
#define DEPTHS	3U	/* the image, the one below, those further down */

/* @bytes: of each kind and depth in the cell */
struct cell {
	uint64_t bytes[HEAT_KINDS][DEPTHS];
};

struct heat {
	uint64_t off, len;
	uint64_t per;		/* bytes of a cell */
	unsigned int n;		/* cells in use */
	unsigned int images;	/* in the chain */
	struct cell cell[CELLS];
};

/* Letter and colour of each kind and depth */
static const struct {
	char letter;
	uint32_t rgb;
	const char *what;
} look[HEAT_KINDS][DEPTHS] = {
	[HEAT_HOLE] = { { '.', 0xf4f4f4, "nothing" },
			{ '.', 0xf4f4f4, NULL }, { '.', 0xf4f4f4, NULL } },
	[HEAT_ZERO] = { { '0', 0xc9d6df, "zeroes" },
			{ '0', 0xc9d6df, NULL }, { '0', 0xc9d6df, NULL } },
	[HEAT_COMPRESSED] = { { 'C', 0x7b3fa0, "compressed" },
			      { 'c', 0xa97fc4, "compressed, below" },
			      { 'c', 0xcbb3dc, NULL } },
	[HEAT_DATA] = { { '#', 0xc0392b, "data" },
			{ '+', 0xe67e22, "data of the image below" },
			{ '-', 0xf1c40f, "data further down" } },
	[HEAT_SHARED] = { { 'S', 0x1e8449, "data that snapshots share" },
			  { 's', 0x58d68d, "the same, below" },
			  { 's', 0xabebc6, NULL } },
};

struct heat *heat_new(uint64_t off, uint64_t len, unsigned int images)
{
	struct heat *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->off = off;
	h->images = images;
	h->len = len;
	h->per = len / CELLS + !!(len % CELLS);
	if (h->per < 512)
		h->per = 512;
	h->n = (unsigned int)(len / h->per + !!(len % h->per));
	return h;
}

void heat_free(struct heat *h)
{
	free(h);
}

void heat_add(struct heat *h, uint64_t off, uint64_t len, enum heat_kind kind,
	      unsigned int depth)
{
	uint64_t at = off - h->off;

	if (depth >= DEPTHS)
		depth = DEPTHS - 1;
	while (len && at < h->len) {
		uint64_t i = at / h->per;
		uint64_t n = BLK_MIN(len, (i + 1) * h->per - at);

		h->cell[i].bytes[kind][depth] += n;
		at += n;
		len -= n;
	}
}

/* What most of the cell is; anything counts for more than nothing. */
static void judge(const struct cell *c, unsigned int *kind,
		  unsigned int *depth)
{
	uint64_t most = 0;

	*kind = HEAT_HOLE;
	*depth = 0;
	for (unsigned int k = HEAT_ZERO; k < HEAT_KINDS; k++)
		for (unsigned int d = 0; d < DEPTHS; d++)
			if (c->bytes[k][d] > most) {
				most = c->bytes[k][d];
				*kind = k;
				*depth = d;
			}
}

void heat_print(const struct heat *h)
{
	unsigned int kind, depth;

	for (unsigned int i = 0; i < h->n; i++) {
		judge(&h->cell[i], &kind, &depth);
		putchar(look[kind][depth].letter);
		if (i % COLUMNS == COLUMNS - 1 || i + 1 == h->n)
			putchar('\n');
	}
	printf("\none letter: %llu bytes\nimages in the chain: %u\n",
	       (unsigned long long)h->per, h->images);
	for (kind = 0; kind < HEAT_KINDS; kind++)
		for (depth = 0; depth < DEPTHS; depth++)
			if (look[kind][depth].what)
				printf("  %c  %s\n", look[kind][depth].letter,
				       look[kind][depth].what);
}

static const char *ending(const char *path)
{
	const char *dot = strrchr(path, '.');

	return dot ? dot : "";
}

int heat_check(const char *path, struct blk_error *e)
{
	if (!strcmp(ending(path), ".svg") || !strcmp(ending(path), ".png"))
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			     "'%s' must end in .svg or .png", path);
}

static unsigned int rows(const struct heat *h)
{
	return h->n ? (h->n + COLUMNS - 1) / COLUMNS : 1;
}

static void write_svg(const struct heat *h, FILE *f)
{
	unsigned int kind, depth, y = rows(h) * PIXELS + 24, x = 4;

	fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" font-family=\"sans-serif\" font-size=\"11\">\n",
		WIDTH, y + 26);
	fprintf(f, "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n");
	for (unsigned int i = 0; i < h->n; i++) {
		judge(&h->cell[i], &kind, &depth);
		fprintf(f, "<rect x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" fill=\"#%06x\"><title>%llu</title></rect>\n",
			i % COLUMNS * PIXELS, i / COLUMNS * PIXELS, PIXELS - 1,
			PIXELS - 1, look[kind][depth].rgb,
			(unsigned long long)(h->off + i * h->per));
	}
	for (kind = 0; kind < HEAT_KINDS; kind++)
		for (depth = 0; depth < DEPTHS; depth++) {
			if (!look[kind][depth].what)
				continue;
			fprintf(f, "<rect x=\"%u\" y=\"%u\" width=\"9\" height=\"9\" fill=\"#%06x\"/><text x=\"%u\" y=\"%u\">%s</text>\n",
				x, y - 8, look[kind][depth].rgb, x + 13, y,
				look[kind][depth].what);
			x += 26 + 6 * (unsigned int)strlen(
				look[kind][depth].what);
		}
	fprintf(f, "<text x=\"4\" y=\"%u\">images in the chain: %u</text>\n",
		y + 16, h->images);
	fprintf(f, "</svg>\n");
}

static void put_chunk(FILE *f, const char *type, const uint8_t *data,
		      uint32_t len)
{
	uint8_t word[4];
	uLong crc = crc32(crc32(0, NULL, 0), (const Bytef *)type, 4);

	if (len)
		crc = crc32(crc, data, len);
	blk_put_be32(word, len);
	fwrite(word, 4, 1, f);
	fwrite(type, 4, 1, f);
	if (len)
		fwrite(data, len, 1, f);
	blk_put_be32(word, (uint32_t)crc);
	fwrite(word, 4, 1, f);
}

/* Every line: a filter (none), then a byte for each pixel */
static uint8_t *raster(const struct heat *h, size_t *len)
{
	size_t width = COLUMNS * PIXELS, height = rows(h) * PIXELS;
	uint8_t *p;
	unsigned int kind, depth;

	*len = (width + 1) * height;
	p = calloc(1, *len);
	for (size_t y = 0; p && y < height; y++)
		for (size_t x = 0; x < width; x++) {
			size_t i = y / PIXELS * COLUMNS + x / PIXELS;

			if (i >= h->n || x % PIXELS == PIXELS - 1 ||
			    y % PIXELS == PIXELS - 1)
				continue;	/* colour 0 is white */
			judge(&h->cell[i], &kind, &depth);
			p[y * (width + 1) + 1 + x] =
				(uint8_t)(1 + kind * DEPTHS + depth);
		}
	return p;
}

static int write_png(const struct heat *h, FILE *f)
{
	static const uint8_t magic[8] = { 137, 'P', 'N', 'G', 13, 10, 26, 10 };
	uint8_t head[13] = { 0 }, palette[3 * (1 + HEAT_KINDS * DEPTHS)];
	size_t len;
	uint8_t *p = raster(h, &len), *packed;
	uLongf size = compressBound(len);

	packed = p ? malloc(size) : NULL;
	if (!packed || compress(packed, &size, p, len) != Z_OK) {
		free(p);
		free(packed);
		return -ENOMEM;
	}
	memset(palette, 0xff, 3);
	for (unsigned int i = 0; i < HEAT_KINDS * DEPTHS; i++) {
		uint32_t rgb = look[i / DEPTHS][i % DEPTHS].rgb;

		palette[3 * i + 3] = (uint8_t)(rgb >> 16);
		palette[3 * i + 4] = (uint8_t)(rgb >> 8);
		palette[3 * i + 5] = (uint8_t)rgb;
	}
	blk_put_be32(head, COLUMNS * PIXELS);
	blk_put_be32(head + 4, rows(h) * PIXELS);
	head[8] = 8;	/* bits */
	head[9] = 3;	/* palette */
	fwrite(magic, sizeof(magic), 1, f);
	put_chunk(f, "IHDR", head, sizeof(head));
	put_chunk(f, "PLTE", palette, sizeof(palette));
	put_chunk(f, "IDAT", packed, (uint32_t)size);
	put_chunk(f, "IEND", NULL, 0);
	free(p);
	free(packed);
	return 0;
}

int heat_write(const struct heat *h, const char *path, struct blk_error *e)
{
	FILE *f = fopen(path, "we");
	int ret = 0;

	if (f && !strcmp(ending(path), ".png"))
		ret = write_png(h, f);
	else if (f)
		write_svg(h, f);
	if (f && !ret && ferror(f))
		ret = -EIO;
	if (!f || (fclose(f) && !ret))
		ret = -errno;
	return ret ? blk_error_set(e, BLK_ERR_FAILED, -ret,
				   "cannot write '%s': %s", path,
				   strerror(-ret)) : 0;
}
