// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Random I/O on a disk that may fail, and what may be read afterwards.
 *
 *   fault-io run DEVICE STATE SECONDS SEED [THREADS]
 *	 writes, FUA writes, zeroes, discards, flushes and reads; errors are
 *	 counted.  What is read must be what was acknowledged, or what a later
 *	 write that failed wanted.  After a SIGUSR1 nothing of that counts: the
 *	 disk is about to lose everything.
 *   fault-io check DEVICE STATE
 *	 after the device was detached, or lost its power: what was flushed is
 *	 there, or something newer.
 *
 * Every sector says which block and which generation it is of.  STATE keeps for
 * each block its generations since the last that is surely on disk.  Each thread
 * has blocks of its own, with one operation under way.
 *
 * Exit code: 0, 1 for a lie, 2 if it could not run.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define BLOCK		4096
#define SECTOR		512
#define GENS		24
#define MAX_RUN		32	/* blocks of one operation */
#define MAX_THREADS	16
#define MAX_LIES	20

struct block {
	uint32_t n;		/* generations; 0 is zeroes */
	uint32_t acked;		/* index of the newest that is acknowledged */
	uint32_t gen[GENS];	/* [0] is on disk */
};

struct state {
	uint64_t blocks;
	uint32_t next;		/* generation */
	uint32_t lies;
	uint64_t done, failed;
	struct block b[];
};

struct worker {
	pthread_t thread;
	unsigned int seed;
	uint64_t first, count;	/* its blocks */
	uint8_t *buf;
	uint64_t done, failed;
};

static struct state *st;
static int fd, fd_fua;
static time_t end;
static volatile sig_atomic_t lost;

static void fill(uint8_t *buf, uint64_t block, uint32_t gen)
{
	uint32_t head[4] = { 0xfa017000, (uint32_t)block, gen, ~gen };
	int i;

	memset(buf, gen & 0xff, BLOCK);
	for (i = 0; i < BLOCK; i += SECTOR)
		memcpy(buf + i, head, sizeof(head));
}

/* The generation of a sector; UINT32_MAX: it is of none. */
static uint32_t gen_of(const uint8_t *s, uint64_t block)
{
	static const uint8_t zero[SECTOR];
	uint32_t head[4];
	size_t i;

	if (!memcmp(s, zero, SECTOR))
		return 0;
	memcpy(head, s, sizeof(head));
	if (head[0] != 0xfa017000 || head[1] != block || head[2] != ~head[3])
		return UINT32_MAX;
	for (i = sizeof(head); i < SECTOR; i++)
		if (s[i] != (head[2] & 0xff))
			return UINT32_MAX;
	return head[2];
}

static void lie(uint64_t block, int sector, uint32_t got, uint32_t from)
{
	const struct block *b = &st->b[block];
	uint32_t i;

	if (__atomic_fetch_add(&st->lies, 1, __ATOMIC_RELAXED) >= MAX_LIES)
		return;
	flockfile(stdout);
	printf("block %llu (byte %#llx) sector %d: %d, may be",
	       (unsigned long long)block, (unsigned long long)block * BLOCK,
	       sector, (int)got);
	for (i = from; i < b->n; i++)
		printf(" %u%s", b->gen[i], i == b->acked ? "*" : "");
	printf("\n");
	funlockfile(stdout);
}

static bool allowed(const struct block *b, uint32_t from, uint32_t gen)
{
	uint32_t i;

	for (i = from; i < b->n; i++)
		if (b->gen[i] == gen)
			return true;
	return false;
}

/* @live: what was acknowledged counts, flushed or not. */
static void look(const uint8_t *buf, uint64_t block, bool live)
{
	struct block *b = &st->b[block];
	uint32_t from = live ? b->acked : 0;
	uint32_t gen, first = gen_of(buf, block);
	bool same = true;
	int i;

	for (i = 0; i < BLOCK / SECTOR; i++) {
		gen = gen_of(buf + i * SECTOR, block);
		same &= gen == first;
		if (!allowed(b, from, gen))
			lie(block, i, gen, from);
	}
	if (live || !same)
		return;
	b->n = 1;
	b->acked = 0;
	b->gen[0] = first;
}

static void add(struct block *b, uint32_t gen, bool ok)
{
	b->gen[b->n] = gen;
	if (ok)
		b->acked = b->n;
	b->n++;
}

static void durable(struct block *b)
{
	if (lost)
		return;
	memmove(b->gen, b->gen + b->acked, (b->n - b->acked) * sizeof(*b->gen));
	b->n -= b->acked;
	b->acked = 0;
}

static void flush(struct worker *w)
{
	uint64_t i;

	if (fdatasync(fd)) {
		w->failed++;
		return;
	}
	w->done++;
	for (i = 0; i < w->count; i++)
		durable(&st->b[w->first + i]);
}

static bool room(uint64_t block, uint32_t n)
{
	while (n--)
		if (st->b[block + n].n == GENS)
			return false;
	return true;
}

static void do_read(struct worker *w, uint64_t block, uint32_t n)
{
	uint32_t i;

	if (pread(fd, w->buf, n * BLOCK, block * BLOCK) != n * BLOCK) {
		w->failed++;
		return;
	}
	w->done++;
	for (i = 0; i < n && !lost; i++)
		look(w->buf + i * BLOCK, block + i, true);
}

static void do_write(struct worker *w, uint64_t block, uint32_t n, bool fua)
{
	uint32_t gen = __atomic_add_fetch(&st->next, 1, __ATOMIC_RELAXED), i;
	bool ok;

	for (i = 0; i < n; i++)
		fill(w->buf + i * BLOCK, block + i, gen);
	ok = pwrite(fua ? fd_fua : fd, w->buf, n * BLOCK, block * BLOCK) ==
		n * BLOCK;
	for (i = 0; i < n; i++) {
		add(&st->b[block + i], gen, ok);
		if (ok && fua)
			durable(&st->b[block + i]);
	}
	*(ok ? &w->done : &w->failed) += 1;
}

static void do_zero(struct worker *w, uint64_t block, uint32_t n, bool discard)
{
	uint64_t range[2] = { block * BLOCK, n * BLOCK };
	bool ok = !ioctl(fd, discard ? BLKDISCARD : BLKZEROOUT, range);
	struct block *b;
	uint32_t i;

	/* a discard may do nothing: what was there is acknowledged again */
	for (i = 0; i < n; i++) {
		b = &st->b[block + i];
		add(b, 0, ok && !discard);
	}
	*(ok ? &w->done : &w->failed) += 1;
}

static void one(struct worker *w)
{
	unsigned int what = rand_r(&w->seed) % 100;
	uint32_t n = 1 + rand_r(&w->seed) % (what & 1 ? 4 : MAX_RUN);
	uint64_t block = w->first + (((uint64_t)rand_r(&w->seed) << 15) ^
				     rand_r(&w->seed)) % (w->count - n);

	if (what < 35)
		do_read(w, block, n);
	else if (what >= 96 || !room(block, n))
		flush(w);
	else if (what < 80)
		do_write(w, block, n, false);
	else if (what < 86)
		do_write(w, block, n, true);
	else
		do_zero(w, block, n, what & 1);
}

static void *work(void *arg)
{
	struct worker *w = arg;

	while (time(NULL) < end)
		one(w);
	return NULL;
}

static void on_signal(int sig)
{
	(void)sig;
	lost = 1;
}

static int run(int seconds, unsigned int seed, unsigned int threads)
{
	struct worker w[MAX_THREADS] = { 0 };
	uint64_t share = st->blocks / threads;
	unsigned int i;

	signal(SIGUSR1, on_signal);
	end = time(NULL) + seconds;
	for (i = 0; i < threads; i++) {
		w[i].seed = seed * 1000 + i;
		w[i].first = i * share;
		w[i].count = share;
		if (posix_memalign((void **)&w[i].buf, BLOCK, MAX_RUN * BLOCK) ||
		    pthread_create(&w[i].thread, NULL, work, &w[i]))
			return 2;
	}
	for (i = 0; i < threads; i++) {
		pthread_join(w[i].thread, NULL);
		st->done += w[i].done;
		st->failed += w[i].failed;
		free(w[i].buf);
	}
	printf("%llu done, %llu failed\n", (unsigned long long)st->done,
	       (unsigned long long)st->failed);
	return 0;
}

static int check(void)
{
	uint8_t *buf;
	uint64_t i;

	if (posix_memalign((void **)&buf, BLOCK, BLOCK))
		return 2;
	for (i = 0; i < st->blocks; i++) {
		if (pread(fd, buf, BLOCK, i * BLOCK) != BLOCK) {
			printf("block %llu cannot be read: %s\n",
			       (unsigned long long)i, strerror(errno));
			st->lies++;
			break;
		}
		look(buf, i, false);
	}
	free(buf);
	return 0;
}

/* A new state begins with a disk of zeroes. */
static bool map_state(const char *path, uint64_t blocks)
{
	size_t len = sizeof(*st) + blocks * sizeof(struct block);
	int f = open(path, O_RDWR | O_CREAT, 0600);
	off_t have = lseek(f, 0, SEEK_END);
	uint64_t i;

	if (f < 0 || ftruncate(f, len))
		return false;
	st = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	close(f);
	if (st == MAP_FAILED)
		return false;
	for (i = 0; !have && i < blocks; i++)
		st->b[i].n = 1;
	st->blocks = blocks;
	st->done = st->failed = st->lies = 0;
	return true;
}

int main(int argc, char **argv)
{
	bool running = argc >= 6 && !strcmp(argv[1], "run");
	uint64_t bytes = 0;
	int ret;

	if (argc < 4)
		return 2;
	fd = open(argv[2], (running ? O_RDWR : O_RDONLY) | O_DIRECT);
	fd_fua = running ? open(argv[2], O_RDWR | O_DIRECT | O_DSYNC) : fd;
	if (fd < 0 || fd_fua < 0 || ioctl(fd, BLKGETSIZE64, &bytes) ||
	    !map_state(argv[3], bytes / BLOCK)) {
		perror(argv[2]);
		return 2;
	}
	ret = running ? run(atoi(argv[4]), atoi(argv[5]),
			    argc > 6 ? atoi(argv[6]) : 1) : check();
	if (!ret && st->lies)
		printf("%u lies\n", st->lies);
	return ret ? ret : st->lies ? 1 : 0;
}
