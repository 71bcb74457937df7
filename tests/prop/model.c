// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The model of a device: a raw file with the content that it should have, and
 * which sectors may read as zeroes because they were discarded. Knows nothing of
 * the device itself. Not for use by several threads at once.
 *
 * A sector that was written carries the number of the operation and its own
 * place, so that a mismatch can tell where the wrong data came from.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prop.h"

#define STAMP 0x706f7270u	/* "prop" */
#define SHOWN 40		/* operations of the log in a report */

struct stamp {
	uint32_t magic;
	uint32_t nr;
	uint32_t sector;
	uint32_t seed;
};

int model_open(struct model *m, const char *path, uint64_t size, uint64_t seed)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
	struct stat st;

	*m = (struct model){ .size = size, .seed = seed };
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) || (st.st_size < (off_t)size && ftruncate(fd, size)))
		return -errno;
	m->data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	m->unsure = calloc(size / SECTOR, 1);
	return m->data == MAP_FAILED || !m->unsure ? -ENOMEM : 0;
}

int model_close(struct model *m)
{
	int ret = munmap(m->data, m->size) ? -errno : 0;

	free(m->unsure);
	free(m->log);
	return ret;
}

static void fill_sector(uint8_t *p, struct rnd *r, const struct stamp *stamp)
{
	uint64_t *words = (uint64_t *)p;

	memcpy(p, stamp, sizeof(*stamp));
	for (size_t i = sizeof(*stamp) / 8; i < SECTOR / 8; i++)
		words[i] = rnd_next(r);
}

void model_fill(const struct model *m, struct op *op)
{
	struct rnd r = { m->seed * 0x10001 + op->nr };
	unsigned int kind = rnd_below(&r, 16);
	uint8_t *p = op->buf;

	for (uint32_t i = 0; i < op->count; i++, p += SECTOR) {
		struct stamp stamp = { STAMP, op->nr, op->sector + i, m->seed };

		if (kind == 0)
			memset(p, 0, SECTOR);
		else if (kind == 1)
			memset(p, 1 + op->nr % 255, SECTOR);
		else if (kind == 2 && i & 1)
			memset(p, 0, SECTOR);
		else
			fill_sector(p, &r, &stamp);
	}
}

static void log_op(struct model *m, const struct op *op)
{
	if (m->logged == m->log_room) {
		m->log_room = m->log_room ? 2 * m->log_room : 1024;
		m->log = realloc(m->log, m->log_room * sizeof(*m->log));
		if (!m->log)
			abort();
	}
	m->log[m->logged++] = *op;
}

void model_apply(struct model *m, const struct op *op)
{
	uint8_t *data = m->data + (uint64_t)op->sector * SECTOR;

	log_op(m, op);
	if (op->result || op->type == OP_READ || op->type == OP_FLUSH)
		return;
	if (op->type == OP_DISCARD) {
		memset(m->unsure + op->sector, 1, op->count);
		return;
	}
	memset(m->unsure + op->sector, 0, op->count);
	if (op_is_write(op->type))
		memcpy(data, op->buf, (size_t)op->count * SECTOR);
	else
		memset(data, 0, (size_t)op->count * SECTOR);
}

static bool is_zero(const uint8_t *p)
{
	return !p[0] && !memcmp(p, p + 1, SECTOR - 1);
}

static void describe(const struct model *m, const char *what, const uint8_t *p)
{
	struct stamp stamp;

	memcpy(&stamp, p, sizeof(stamp));
	printf("  %s ", what);
	if (is_zero(p)) {
		printf("zeroes\n");
	} else if (stamp.magic == STAMP) {
		printf("what operation %u of seed %u wrote to sector %u\n",
		       stamp.nr, stamp.seed, stamp.sector);
	} else {
		for (int i = 0; i < 16; i++)
			printf("%02x ", p[i]);
		printf("...\n");
	}
}

static void report(const struct model *m, uint64_t sector, const uint8_t *got,
		   const char *who)
{
	size_t shown = 0;

	printf("MISMATCH at sector %" PRIu64 " (byte %#" PRIx64 "), found by %s\n",
	       sector, sector * SECTOR, who);
	describe(m, m->unsure[sector] ? "wanted zeroes or" : "wanted",
		 m->data + sector * SECTOR);
	describe(m, "got", got);
	printf("  operations that touched its MiB, the last ones first:\n");
	for (size_t i = m->logged; i-- > 0 && shown < SHOWN;) {
		const struct op *op = &m->log[i];
		bool hit = op->sector <= sector && sector < op->sector + op->count;

		if (op->type != OP_FLUSH && op->sector / 2048 > sector / 2048)
			continue;
		if (op->type != OP_FLUSH &&
		    (op->sector + op->count - 1) / 2048 < sector / 2048)
			continue;
		shown++;
		printf("  %c %6u %-10s %8u +%u%s%s\n", hit ? '*' : ' ', op->nr,
		       op_names[op->type], op->sector, op->count,
		       op->result ? ": " : "",
		       op->result ? strerror(-op->result) : "");
	}
}

static bool check_sector(struct model *m, uint64_t sector, const uint8_t *got,
			 const char *who)
{
	uint8_t *wanted = m->data + sector * SECTOR;
	bool same = !memcmp(wanted, got, SECTOR);

	if (!same && m->unsure[sector] && is_zero(got)) {
		memset(wanted, 0, SECTOR);
		same = true;
	}
	if (!same) {
		report(m, sector, got, who);
		return false;
	}
	m->unsure[sector] = 0;
	return true;
}

bool model_check_bytes(struct model *m, uint64_t offset, const uint8_t *got,
		       size_t bytes, const char *who)
{
	uint64_t first = offset / SECTOR;

	/* Mostly all of it is right, and known to be. */
	if (!memcmp(m->data + offset, got, bytes)) {
		memset(m->unsure + first, 0, bytes / SECTOR);
		return true;
	}
	for (size_t i = 0; i < bytes / SECTOR; i++) {
		if (!check_sector(m, first + i, got + i * SECTOR, who))
			return false;
	}
	return true;
}

bool model_check(struct model *m, const struct op *op)
{
	char who[64];

	snprintf(who, sizeof(who), "operation %u, a read of %u +%u", op->nr,
		 op->sector, op->count);
	return model_check_bytes(m, (uint64_t)op->sector * SECTOR, op->buf,
				 (size_t)op->count * SECTOR, who);
}
