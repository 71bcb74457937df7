// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The load of the crash test: random operations on a device, many at once,
 * whose sectors describe themselves. Each operation is in the journal before
 * it begins; what a flush or a FUA write has acknowledged goes as a mark into
 * the log below the image, or as a line into a file. Also copies that log.
 *
 * Operations that run at once never overlap: each sector has one history. A FUA
 * write is to clusters only that nothing has been written to since the last
 * flush: the log does not tell which came first.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <libdevmapper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crash.h"
#include "../prop/prop.h"

#define HOT 4
#define RECENT_MAX 4096

struct writer {
	struct rnd rnd;
	struct io io;
	const char *log_name;		/* device of dm-log-writes */
	int journal, acks;		/* -1: none */
	uint32_t seq;			/* operations in the journal */
	uint32_t cluster, limit;	/* in sectors */
	uint32_t max;			/* sectors of one operation with data */
	uint32_t hot[HOT];
	unsigned int flushes, discards;	/* percent */
	struct op recent[RECENT_MAX];
	size_t n_recent;		/* operations since the last flush */
	struct op batch[BATCH_MAX];
	uint32_t seqs[BATCH_MAX];
};

static const char usage[] =
"usage: writer [OPTION]... DEVICE\n"
"       writer --save-log DEVICE FILE\n"
"       writer --note KIND:SECTOR:COUNT --journal FILE [--log NAME]\n"
"\n"
"  --seed S         the same operations for the same S\n"
"  --ops N          how many (400)\n"
"  --cluster B      bytes of a cluster\n"
"  --limit B        only this far into the device\n"
"  --flushes P      percent that are flushes or FUA (20)\n"
"  --discards P     percent that are discards or zeroes (20)\n"
"  --journal FILE   what is done is noted there, behind what it has\n"
"  --log NAME       the device-mapper device that takes marks\n"
"  --acks FILE      the file that takes them\n";

static int mark(const struct writer *w, char kind, uint32_t seq)
{
	struct dm_task *t;
	char text[40];
	int ok, n;

	n = snprintf(text, sizeof(text), "%c%u\n", kind, seq);
	if (w->acks >= 0 && write(w->acks, text, n) != n)
		return -EIO;
	if (!w->log_name)
		return 0;
	t = dm_task_create(DM_DEVICE_TARGET_MSG);
	if (!t)
		return -ENOMEM;
	snprintf(text, sizeof(text), "mark %c%u", kind, seq);
	ok = dm_task_set_name(t, w->log_name) && dm_task_set_sector(t, 0) &&
		dm_task_set_message(t, text) && dm_task_run(t);
	dm_task_destroy(t);
	return ok ? 0 : -EIO;
}

static int note(struct writer *w, enum rec_kind kind, uint32_t sector,
		uint32_t count)
{
	struct rec r = { .kind = kind, .sector = sector, .count = count };

	if (write(w->journal, &r, sizeof(r)) != sizeof(r))
		return -EIO;
	w->seq++;
	return 0;
}

/* --- choosing --------------------------------------------------------------- */

static enum op_type pick_type(struct writer *w)
{
	static const enum op_type zeroes[] = {
		OP_ZEROOUT, OP_PUNCH, OP_ZERORANGE, OP_DISCARD, OP_DISCARD,
	};

	if (rnd_percent(&w->rnd, w->flushes))
		return rnd_percent(&w->rnd, 50) ? OP_FLUSH : OP_FUA;
	if (rnd_percent(&w->rnd, w->discards))
		return zeroes[rnd_below(&w->rnd, 5)];
	return OP_WRITE;
}

static void pick_range(struct writer *w, struct op *op)
{
	uint32_t n, at;

	switch (rnd_below(&w->rnd, 6)) {
	case 0 ... 1:
		n = 1 + rnd_below(&w->rnd, 8);
		break;
	case 2:
		n = 8;
		break;
	case 3:
		n = w->cluster;
		break;
	case 4:
		n = w->cluster * (1 + rnd_below(&w->rnd, 4));
		break;
	default:
		n = 1 + rnd_below(&w->rnd, 2 * w->cluster);
	}
	if (!op_has_data(op->type) && rnd_percent(&w->rnd, 20))
		n *= 8;
	if (op_has_data(op->type) && n > w->max)
		n = w->max;
	if (n > w->limit / 4)
		n = w->limit / 4;
	at = rnd_below(&w->rnd, w->limit - n + 1);
	if (rnd_percent(&w->rnd, 60))
		at = w->hot[rnd_below(&w->rnd, HOT)] +
			rnd_below(&w->rnd, 6 * w->cluster);
	if (rnd_percent(&w->rnd, 40))
		at -= at % w->cluster;
	if (at > w->limit - n)
		at = w->limit - n;
	op->sector = at;
	op->count = n;
}

/* Copy-on-write takes whole clusters along. */
static bool shares_cluster(const struct writer *w, const struct op *a,
			   const struct op *b)
{
	uint32_t c = w->cluster;

	return a->sector / c <= (b->sector + b->count - 1) / c &&
		b->sector / c <= (a->sector + a->count - 1) / c;
}

static bool clashes(const struct writer *w, size_t n)
{
	const struct op *a = &w->batch[n];

	for (size_t i = 0; i < n; i++) {
		const struct op *b = &w->batch[i];

		if (b->type == OP_FLUSH)
			continue;
		if (b->type == OP_FUA && shares_cluster(w, a, b))
			return true;
		if (a->sector < b->sector + b->count &&
		    b->sector < a->sector + a->count)
			return true;
	}
	return false;
}

/* Has something been done to its clusters since the last flush? */
static bool is_recent(const struct writer *w, const struct op *op)
{
	for (size_t i = 0; i < w->n_recent; i++)
		if (shares_cluster(w, op, &w->recent[i]))
			return true;
	return w->n_recent == RECENT_MAX;
}

static enum rec_kind kind_of(enum op_type type)
{
	if (type == OP_DISCARD)
		return REC_DISCARD;
	return op_is_write(type) ? REC_WRITE : REC_ZERO;
}

/* Chooses one more of the batch, and notes it. 1: it would overlap. */
static int add(struct writer *w, size_t n)
{
	struct op *op = &w->batch[n];
	int ret;

	op->type = pick_type(w);
	op->sector = op->count = 0;
	if (op->type == OP_FLUSH)
		return 0;
	pick_range(w, op);
	if (clashes(w, n))
		return 1;
	if (op->type == OP_FUA && is_recent(w, op))
		op->type = OP_WRITE;
	if (w->n_recent < RECENT_MAX)
		w->recent[w->n_recent++] = *op;
	ret = note(w, kind_of(op->type), op->sector, op->count);
	if (ret)
		return ret;
	w->seqs[n] = w->seq;
	for (uint32_t i = 0; i < op->count && op_is_write(op->type); i++)
		sector_make((char *)op->buf + (size_t)i * SECTOR, op->sector + i,
			    w->seq);
	return 0;
}

/* --- doing ------------------------------------------------------------------ */

/* A flush does not cover what ran beside it. */
static void forget_flushed(struct writer *w, size_t n)
{
	w->n_recent = 0;
	for (size_t i = 0; i < n; i++)
		if (w->batch[i].type != OP_FLUSH)
			w->recent[w->n_recent++] = w->batch[i];
}

/* @before: the last operation that had ended when the batch began */
static int acknowledge(struct writer *w, size_t n, uint32_t before)
{
	bool flushed = false;
	int ret = 0;

	for (size_t i = 0; i < n && !ret; i++) {
		const struct op *op = &w->batch[i];

		if (op->result) {
			fprintf(stderr, "%s of %u +%u: %s\n", op_names[op->type],
				op->sector, op->count, strerror(-op->result));
			return op->result;
		}
		flushed |= op->type == OP_FLUSH;
		if (op->type == OP_FUA)
			ret = mark(w, MARK_ONE, w->seqs[i]);
	}
	if (!ret && flushed) {
		forget_flushed(w, n);
		ret = mark(w, MARK_ALL, before);
	}
	return ret;
}

static int run_ops(struct writer *w, uint32_t ops)
{
	while (ops) {
		uint32_t before = w->seq;
		size_t wanted = 1 + rnd_below(&w->rnd, 8), n = 0;

		for (int tries = 0; tries < 20 && n < wanted; tries++) {
			int ret = add(w, n);

			if (ret < 0)
				return ret;
			n += !ret;
		}
		/* the pool's threads: all kinds can run at once there */
		io_batch(&w->io, w->batch, n, ENGINE_THREADS);
		if (acknowledge(w, n, before))
			return -EIO;
		ops -= ops < n ? ops : n;
	}
	return 0;
}

static int last_flush(struct writer *w)
{
	struct op op = { .type = OP_FLUSH };

	io_do(&w->io, &op);
	return op.result ? op.result : mark(w, MARK_ALL, w->seq);
}

/* --- copying the log -------------------------------------------------------- */

static int copy(int from, int to, uint64_t at, uint64_t bytes)
{
	static char buf[1 << 20];

	while (bytes) {
		size_t n = bytes < sizeof(buf) ? bytes : sizeof(buf);

		if (pread(from, buf, n, at) != (ssize_t)n ||
		    pwrite(to, buf, n, at) != (ssize_t)n)
			return -EIO;
		at += n;
		bytes -= n;
	}
	return 0;
}

static int save_log(const char *device, const char *path)
{
	uint64_t head[4], unit, n, end;
	int from = open(device, O_RDONLY | O_CLOEXEC);
	int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (from < 0 || to < 0 || pread(from, head, 32, 0) != 32)
		return -EIO;
	n = le64toh(head[2]);
	end = unit = le32toh((uint32_t)head[3]);
	while (n--) {
		if (pread(from, head, 32, end) != 32)
			return -EIO;
		end += unit;
		if (!(le64toh(head[2]) & (LOG_DISCARD | LOG_MARK)))
			end += le64toh(head[1]) * unit;
	}
	return copy(from, to, 0, end);
}

/* --- options ---------------------------------------------------------------- */

struct options {
	uint64_t seed, ops, cluster, limit;
	const char *journal, *note, *acks;
	bool save;
};

static bool parse(struct writer *w, struct options *o, int argc, char **argv)
{
	static const struct option table[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "ops", required_argument, NULL, 'n' },
		{ "cluster", required_argument, NULL, 'c' },
		{ "limit", required_argument, NULL, 'l' },
		{ "flushes", required_argument, NULL, 'f' },
		{ "discards", required_argument, NULL, 'd' },
		{ "journal", required_argument, NULL, 'j' },
		{ "log", required_argument, NULL, 'g' },
		{ "acks", required_argument, NULL, 'a' },
		{ "save-log", no_argument, NULL, 'S' },
		{ "note", required_argument, NULL, 'N' },
		{ }
	};
	int c;

	while ((c = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (c) {
		case 's': o->seed = strtoull(optarg, NULL, 0); break;
		case 'n': o->ops = strtoull(optarg, NULL, 0); break;
		case 'c': o->cluster = strtoull(optarg, NULL, 0); break;
		case 'l': o->limit = strtoull(optarg, NULL, 0); break;
		case 'f': w->flushes = strtoul(optarg, NULL, 0); break;
		case 'd': w->discards = strtoul(optarg, NULL, 0); break;
		case 'j': o->journal = optarg; break;
		case 'g': w->log_name = optarg; break;
		case 'a': o->acks = optarg; break;
		case 'S': o->save = true; break;
		case 'N': o->note = optarg; break;
		default: return false;
		}
	}
	return optind + (o->save ? 2 : o->note ? 0 : 1) == argc &&
		o->cluster >= SECTOR && (o->save || o->journal);
}

static int open_journal(struct writer *w, const char *path, const char *acks)
{
	const int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;
	struct stat st;

	w->acks = acks ? open(acks, flags, 0666) : -1;
	w->journal = open(path, flags, 0666);
	if (w->journal < 0 || fstat(w->journal, &st))
		return -errno;
	w->seq = st.st_size / sizeof(struct rec);
	return 0;
}

/* Something that another program does: noted before, marked afterwards. */
static int note_other(struct writer *w, const char *text)
{
	unsigned int kind, sector, count;

	if (!strcmp(text, "done"))
		return mark(w, MARK_ALL, w->seq);
	if (sscanf(text, "%u:%u:%u", &kind, &sector, &count) != 3)
		return -EINVAL;
	return note(w, kind, sector, count);
}

static int work(struct writer *w, const struct options *o, const char *device)
{
	int ret = io_open(&w->io, device, false);

	if (ret)
		return ret;
	w->rnd.state = o->seed;
	w->cluster = o->cluster / SECTOR;
	w->limit = w->io.size / SECTOR;
	if (o->limit && o->limit / SECTOR < w->limit)
		w->limit = o->limit / SECTOR;
	w->max = 256;
	for (int i = 0; i < HOT; i++)
		w->hot[i] = rnd_below(&w->rnd, w->limit);
	w->hot[0] = w->limit - w->limit % w->cluster;
	for (int i = 0; i < BATCH_MAX; i++)
		if (posix_memalign(&w->batch[i].buf, 4096, OP_MAX))
			return -ENOMEM;
	ret = run_ops(w, o->ops);
	if (!ret)
		ret = last_flush(w);
	io_close(&w->io);
	return ret;
}

int main(int argc, char **argv)
{
	static struct writer w = { .acks = -1, .flushes = 20, .discards = 20 };
	struct options o = { .seed = 1, .ops = 400, .cluster = 65536 };
	int ret;

	if (!parse(&w, &o, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	if (o.save) {
		ret = save_log(argv[optind], argv[optind + 1]);
	} else {
		ret = open_journal(&w, o.journal, o.acks);
		if (!ret)
			ret = o.note ? note_other(&w, o.note) :
				work(&w, &o, argv[optind]);
	}
	if (ret)
		fprintf(stderr, "writer: %s\n", strerror(-ret));
	return ret ? 1 : 0;
}
