// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Does random operations on a block device and compares it with a model, a raw
 * file with the content that it has at the start, and at the end must have. The
 * same seed gives the same operations. This file chooses them.
 *
 * Operations that run at once never overlap, so that it is known what each of
 * them must find; but they share clusters.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prop.h"

enum { RC_FINE, RC_MISMATCH, RC_USAGE, RC_ERROR };

#define HOT 4			/* places that most operations go to */
#define MUST_DISCARD (1u << OP_DISCARD)
#define MUST_ZERO (1u << OP_PUNCH | 1u << OP_ZERORANGE)

struct prop {
	struct rnd rnd;
	struct io io;
	struct model model;
	const char *device, *model_path;
	uint64_t seed, ops, cluster;
	bool read_only, no_first, no_threads, pile;
	unsigned int must;	/* kinds that must be supported, as bits */
	uint32_t hot[HOT];
	uint32_t nr;
	struct op batch[BATCH_MAX];
	unsigned int done[OP_TYPES], unsupported[OP_TYPES];
};

static const char usage[] =
"usage: prop [OPTION]... DEVICE MODEL\n"
"\n"
"Does random operations on DEVICE and compares it with MODEL, a raw file with\n"
"its content, before and after. MODEL is made to follow.\n"
"\n"
"  --seed S        the same operations for the same S (1)\n"
"  --ops N         how many (400)\n"
"  --cluster B     bytes of a cluster: a hint where the corners are (65536)\n"
"  --read-only     only reads\n"
"  --no-first      do not compare before the first operation\n"
"  --sequential    one operation after the other\n"
"  --pile          always many at once, in one cluster\n"
"  --must LIST     what must be supported: discard, zero\n"
"\n"
"Exit codes: 1 if something differs, 3 after an error.\n";

/* --- choosing ----------------------------------------------------------------- */

static uint32_t sectors(const struct prop *p)
{
	return p->io.size / SECTOR;
}

static uint32_t pick_count(struct prop *p, enum op_type type)
{
	uint32_t cluster = p->cluster / SECTOR, n;

	switch (rnd_below(&p->rnd, 10)) {
	case 0 ... 3:
		n = 1 + rnd_below(&p->rnd, 8);
		break;
	case 4 ... 5:
		n = 8;
		break;
	case 6 ... 7:
		n = 1 + rnd_below(&p->rnd, cluster);
		break;
	case 8:
		n = 1 + rnd_below(&p->rnd, 512);
		break;
	default:
		n = cluster * (1 + rnd_below(&p->rnd, 4));
	}
	if (!op_has_data(type) && rnd_percent(&p->rnd, 30))
		n = rnd_percent(&p->rnd, 90) ? n * 8 : sectors(p) / 4;
	if (op_has_data(type) && n > 512)
		n = 512;
	return n;
}

static uint32_t pick_sector(struct prop *p, uint32_t count)
{
	uint32_t cluster = p->cluster / SECTOR, room = sectors(p) - count, at;

	switch (rnd_below(&p->rnd, 10)) {
	case 0 ... 5:
		at = p->hot[rnd_below(&p->rnd, HOT)] +
			rnd_below(&p->rnd, 3 * cluster + 16);
		break;
	case 6:
		at = room - (room ? rnd_below(&p->rnd, room < 16 ? room : 16) : 0);
		break;
	default:
		at = rnd_below(&p->rnd, room + 1);
	}
	if (rnd_percent(&p->rnd, 30))
		at -= at % cluster;
	return at < room ? at : room;
}

static void pick_range(struct prop *p, struct op *op)
{
	uint32_t unit = p->io.unit, n = pick_count(p, op->type);

	n = (n + unit - 1) / unit * unit;
	if (n > sectors(p))
		n = sectors(p);
	op->count = n;
	op->sector = pick_sector(p, n) / unit * unit;
}

static enum op_type pick_type(struct prop *p, enum engine engine)
{
	static const unsigned char weights[OP_TYPES] = {
		[OP_READ] = 24, [OP_WRITE] = 40, [OP_FUA] = 4, [OP_FLUSH] = 1,
		[OP_ZEROOUT] = 5, [OP_PUNCH] = 5, [OP_ZERORANGE] = 3,
		[OP_DISCARD] = 8,
	};
	unsigned int sum = 0, n, type;

	if (p->read_only)
		return OP_READ;
	for (type = 0; type < OP_TYPES; type++)
		sum += weights[type];
	do {
		n = rnd_below(&p->rnd, sum);
		for (type = 0; n >= weights[type]; type++)
			n -= weights[type];
	} while (engine == ENGINE_URING && !io_uring_can(type));
	return type;
}

static bool overlaps(const struct op *a, const struct op *b)
{
	return a->type != OP_FLUSH && b->type != OP_FLUSH &&
		a->sector < b->sector + b->count &&
		b->sector < a->sector + a->count;
}

/* A range inside one cluster, so that those of a batch meet there. */
static void pile_up(struct prop *p, struct op *op, uint32_t start)
{
	uint32_t unit = p->io.unit, cluster = p->cluster / SECTOR;
	uint32_t max = cluster / 4 > unit ? cluster / 4 : unit;

	op->count = (1 + rnd_below(&p->rnd, max < 64 ? max : 64));
	op->count = (op->count + unit - 1) / unit * unit;
	if (op->count > sectors(p))
		op->count = sectors(p);
	op->sector = start + rnd_below(&p->rnd, cluster) / unit * unit;
	if (op->sector + op->count > sectors(p))
		op->sector = sectors(p) - op->count;
}

/* Operations that run at once; most of them in one cluster if @pile. */
static size_t pick_batch(struct prop *p, size_t wanted, enum engine engine)
{
	uint32_t cluster = p->cluster / SECTOR, start;
	bool pile = p->pile || (wanted > 1 && rnd_percent(&p->rnd, 60));
	size_t n = 0;

	start = p->hot[rnd_below(&p->rnd, HOT)] / cluster * cluster;
	if (rnd_percent(&p->rnd, 40))
		start = rnd_below(&p->rnd, sectors(p)) / cluster * cluster;
	for (size_t tries = 0; n < wanted && tries < 4 * wanted; tries++) {
		struct op *op = &p->batch[n];
		bool clash = false;

		op->type = pick_type(p, engine);
		if (op->type == OP_FLUSH)
			op->sector = op->count = 0;
		else if (pile && (p->pile || rnd_percent(&p->rnd, 80)))
			pile_up(p, op, start);
		else
			pick_range(p, op);
		for (size_t i = 0; i < n && !clash; i++)
			clash = overlaps(op, &p->batch[i]);
		if (clash)
			continue;
		op->nr = ++p->nr;
		if (op_is_write(op->type))
			model_fill(&p->model, op);
		n++;
	}
	return n;
}

/* --- doing -------------------------------------------------------------------- */

static bool may_be_missing(const struct prop *p, const struct op *op)
{
	return op->result == -EOPNOTSUPP && !(p->must & 1u << op->type) &&
		(op->type == OP_DISCARD || op->type == OP_PUNCH ||
		 op->type == OP_ZERORANGE);
}

static int settle(struct prop *p, const struct op *op)
{
	p->done[op->type]++;
	if (may_be_missing(p, op)) {
		p->unsupported[op->type]++;
	} else if (op->result) {
		printf("ERROR: operation %u, %s of %u +%u: %s\n", op->nr,
		       op_names[op->type], op->sector, op->count,
		       strerror(-op->result));
		return RC_ERROR;
	}
	/* Before it is applied: a batch never overlaps itself. */
	if (op->type == OP_READ && !model_check(&p->model, op))
		return RC_MISMATCH;
	model_apply(&p->model, op);
	return RC_FINE;
}

static int run_ops(struct prop *p)
{
	while (p->nr < p->ops) {
		enum engine engine = rnd_below(&p->rnd, 2);
		size_t n = 1;

		if (p->pile || (!p->no_threads && rnd_percent(&p->rnd, 50)))
			n = 2 + rnd_below(&p->rnd, BATCH_MAX - 1);
		n = pick_batch(p, n, engine);
		io_batch(&p->io, p->batch, n, engine);
		for (size_t i = 0; i < n; i++) {
			int rc = settle(p, &p->batch[i]);

			if (rc)
				return rc;
		}
	}
	return RC_FINE;
}

/* The whole device, with as many reads at once as a batch has. */
static int compare_all(struct prop *p, const char *who)
{
	const uint32_t step = (256u << 10) / SECTOR;
	uint32_t at = 0;

	while (at < sectors(p)) {
		size_t n;

		for (n = 0; n < 8 && at < sectors(p); n++) {
			struct op *op = &p->batch[n];

			op->type = OP_READ;
			op->sector = at;
			op->count = sectors(p) - at < step ? sectors(p) - at : step;
			at += op->count;
		}
		io_batch(&p->io, p->batch, n, ENGINE_URING);
		for (size_t i = 0; i < n; i++) {
			struct op *op = &p->batch[i];

			if (op->result) {
				printf("ERROR: %s, read of %u +%u: %s\n", who,
				       op->sector, op->count, strerror(-op->result));
				return RC_ERROR;
			}
			if (!model_check_bytes(&p->model, (uint64_t)op->sector * SECTOR,
					       op->buf, (size_t)op->count * SECTOR, who))
				return RC_MISMATCH;
		}
	}
	return RC_FINE;
}

static int run(struct prop *p)
{
	int rc = RC_FINE;

	for (int i = 0; i < HOT; i++)
		p->hot[i] = rnd_below(&p->rnd, sectors(p));
	/* The end, and where one L2 table of small clusters ends, are corners. */
	p->hot[0] = sectors(p) - sectors(p) % (p->cluster / SECTOR);
	p->hot[1] = p->cluster / 8 * (p->cluster / SECTOR);
	if (p->hot[1] >= sectors(p))
		p->hot[1] = 0;
	if (!p->no_first)
		rc = compare_all(p, "the comparison at the start");
	if (!rc)
		rc = run_ops(p);
	if (!rc)
		rc = compare_all(p, "the comparison at the end");
	return rc;
}

static void summary(const struct prop *p, int rc)
{
	printf("%s seed %" PRIu64 ":", rc ? "FAILED" : "fine", p->seed);
	for (int i = 0; i < OP_TYPES; i++) {
		if (!p->done[i])
			continue;
		printf(" %u %s", p->done[i], op_names[i]);
		if (p->unsupported[i])
			printf(" (%u not supported)", p->unsupported[i]);
	}
	printf("\n");
	if (rc)
		printf("replay: prop --seed %" PRIu64 " --ops %" PRIu64
		       " --cluster %" PRIu64 "%s%s%s %s %s\n", p->seed, p->ops,
		       p->cluster, p->read_only ? " --read-only" : "",
		       p->no_threads ? " --sequential" : "",
		       p->pile ? " --pile" : "", p->device, p->model_path);
}

/* --- options ------------------------------------------------------------------ */

static unsigned int parse_must(char *list)
{
	unsigned int must = 0;

	for (char *s = strtok(list, ","); s; s = strtok(NULL, ",")) {
		if (!strcmp(s, "discard"))
			must |= MUST_DISCARD;
		else if (!strcmp(s, "zero"))
			must |= MUST_ZERO;
	}
	return must;
}

static bool parse(struct prop *p, int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'n' },
		{ "cluster", required_argument, NULL, 'c' },
		{ "must", required_argument, NULL, 'm' },
		{ "read-only", no_argument, NULL, 'r' },
		{ "no-first", no_argument, NULL, 'f' },
		{ "sequential", no_argument, NULL, 'q' },
		{ "pile", no_argument, NULL, 'p' },
		{ }
	};
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's': p->seed = strtoull(optarg, NULL, 0); break;
		case 'n': p->ops = strtoull(optarg, NULL, 0); break;
		case 'c': p->cluster = strtoull(optarg, NULL, 0); break;
		case 'm': p->must = parse_must(optarg); break;
		case 'r': p->read_only = true; break;
		case 'f': p->no_first = true; break;
		case 'q': p->no_threads = true; break;
		case 'p': p->pile = true; break;
		default: return false;
		}
	}
	if (optind + 2 != argc || p->cluster < SECTOR || p->cluster > 2 << 20)
		return false;
	p->device = argv[optind];
	p->model_path = argv[optind + 1];
	return true;
}

int main(int argc, char **argv)
{
	static struct prop p = { .seed = 1, .ops = 400, .cluster = 65536 };
	int rc, ret;

	if (!parse(&p, argc, argv)) {
		fputs(usage, stderr);
		return RC_USAGE;
	}
	p.rnd.state = p.seed;
	for (int i = 0; i < BATCH_MAX; i++) {
		if (posix_memalign(&p.batch[i].buf, 4096, OP_MAX))
			return RC_ERROR;
	}
	ret = io_open(&p.io, p.device, p.read_only);
	if (!ret)
		ret = model_open(&p.model, p.model_path, p.io.size, p.seed);
	if (ret) {
		printf("ERROR: cannot open: %s\n", strerror(-ret));
		return RC_ERROR;
	}
	rc = run(&p);
	summary(&p, rc);
	ret = model_close(&p.model);
	io_close(&p.io);
	return rc ? rc : ret ? RC_ERROR : RC_FINE;
}
