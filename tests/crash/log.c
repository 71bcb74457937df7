// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Reads the log of dm-log-writes (Documentation/admin-guide/device-mapper/
 * log-writes.rst): a super block, then entries of one sector each, each with
 * its data behind it. Owns the mapping that the entries point into.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crash.h"

#define LOG_MAGIC 0x6a736677736872ULL

struct disk_super {
	uint64_t magic, version, n;
	uint32_t block;
} __attribute__((packed));

struct disk_entry {
	uint64_t sector, count, flags, bytes;
} __attribute__((packed));

static int map_file(struct log *log, const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) || !st.st_size) {
		perror(path);
		if (fd >= 0)
			close(fd);
		return -EIO;
	}
	log->mapped = st.st_size;
	log->map = mmap(NULL, log->mapped, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return log->map == MAP_FAILED ? -errno : 0;
}

/* One entry at *@at; its block is @unit bytes long. */
static bool take(struct log *log, size_t *at, size_t unit)
{
	struct entry *e = &log->v[log->n];
	const uint8_t *p = (const uint8_t *)log->map + *at;
	size_t data = 0;
	struct disk_entry d;

	if (*at + unit > log->mapped)
		return false;
	memcpy(&d, p, sizeof(d));
	*e = (struct entry){
		.sector = le64toh(d.sector) * (unit / SECTOR),
		.count = le64toh(d.count) * (unit / SECTOR),
		.flags = le64toh(d.flags),
	};
	if (e->flags & LOG_MARK) {
		e->data = p + sizeof(d);
		e->bytes = le64toh(d.bytes);
		e->count = 0;
	} else if (!(e->flags & LOG_DISCARD)) {
		e->data = p + unit;
		e->bytes = data = e->count * SECTOR;
	}
	*at += unit + data;
	if (*at > log->mapped || (e->flags & LOG_MARK && e->bytes > unit - sizeof(d)))
		return false;
	log->n++;
	return true;
}

int log_open(struct log *log, const char *path)
{
	struct disk_super s;
	size_t n, unit, at;
	int ret = map_file(log, path);

	if (ret)
		return ret;
	if (log->mapped < SECTOR)
		return -EINVAL;
	memcpy(&s, log->map, sizeof(s));
	n = le64toh(s.n);
	at = unit = le32toh(s.block);
	if (le64toh(s.magic) != LOG_MAGIC || le64toh(s.version) != 1 ||
	    unit < SECTOR || unit > 65536 || n > log->mapped / SECTOR) {
		fprintf(stderr, "%s: not a log of dm-log-writes\n", path);
		return -EINVAL;
	}
	log->v = calloc(n ? n : 1, sizeof(*log->v));
	if (!log->v)
		return -ENOMEM;
	while (log->n < n) {
		if (!take(log, &at, unit)) {
			fprintf(stderr, "%s: ends at entry %zu of %zu\n", path,
				log->n, n);
			return -EINVAL;
		}
	}
	return 0;
}

void log_close(struct log *log)
{
	free(log->v);
	munmap(log->map, log->mapped);
}
