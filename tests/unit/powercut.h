/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A power cut at every point of something that changes an image.
 *
 * All changes are logged (cut_log is the file's hook), then played back from
 * base.qcow2 onto w.qcow2 up to each point; between two flushes also out of
 * order and with writes torn at sectors, on v.qcow2.
 */
#ifndef TESTS_UNIT_POWERCUT_H
#define TESTS_UNIT_POWERCUT_H

#include "image.h"

#define MAX_OPS		4096
#define SECTOR		512U

struct op {
	enum blk_file_op op;
	uint64_t off;
	uint64_t len;
	uint8_t *data;
};

static struct op ops[MAX_OPS];
static size_t n_ops;

/* States that were fine */
static uint64_t cut_known[2 * MAX_OPS];
static size_t n_cut_known;

static int cut_log(void *opaque, enum blk_file_op op, uint64_t off,
		  uint64_t len, const void *data)
{
	struct op *o = &ops[n_ops];

	if (n_ops == MAX_OPS)
		return -EIO;
	*o = (struct op){ .op = op, .off = off, .len = len };
	if (op == BLK_FILE_OP_WRITE) {
		o->data = malloc(len);
		memcpy(o->data, data, len);
	}
	n_ops++;
	return 0;
}

static void cut_forget(void)
{
	while (n_ops)
		free(ops[--n_ops].data);
	n_cut_known = 0;
}

static bool put(int fd, const void *data, uint64_t len, uint64_t off)
{
	return pwrite(fd, data, len, (off_t)off) == (ssize_t)len;
}

static bool put_zeroes(int fd, uint64_t off, uint64_t len, bool extend)
{
	struct stat st;

	if (fstat(fd, &st))
		return false;
	if (extend && off + len > (uint64_t)st.st_size &&
	    ftruncate(fd, (off_t)(off + len)))
		return false;
	return !fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)off, (off_t)len);
}

/* @parity: 0 or 1: only every other sector of a write; else all */
static bool apply(int fd, const struct op *o, int parity)
{
	bool ok = true;

	switch (o->op) {
	case BLK_FILE_OP_WRITE:
		if (parity > 1 || o->len <= SECTOR)
			return put(fd, o->data, o->len, o->off);
		for (uint64_t p = parity * SECTOR; p < o->len && ok;
		     p += 2 * SECTOR)
			ok = put(fd, o->data + p,
				 BLK_MIN(SECTOR, o->len - p), o->off + p);
		return ok;
	case BLK_FILE_OP_ZERO:
		return put_zeroes(fd, o->off, o->len, true);
	case BLK_FILE_OP_DISCARD:
		return put_zeroes(fd, o->off, o->len, false);
	case BLK_FILE_OP_TRUNCATE:
		return !ftruncate(fd, (off_t)o->off);
	default:
		return true;
	}
}

/* FNV-1a of a file, by words; 0: it cannot be read */
static uint64_t cut_hash(const char *path)
{
	uint64_t h = 0xcbf29ce484222325, word = 0;
	FILE *fp = fopen(path, "r");

	if (!fp)
		return 0;
	while (fread(&word, 1, sizeof(word), fp)) {
		h = (h ^ word) * 0x100000001b3;
		h ^= h >> 29;
		word = 0;
	}
	h ^= (uint64_t)ftell(fp);
	fclose(fp);
	return h;
}

/* Was a state with this content noted with @salt?  Else it is, with @note. */
IMG_UNUSED static bool cut_seen(const char *path, uint64_t salt, bool note)
{
	uint64_t h = cut_hash(path) + salt;

	for (size_t i = 0; i < n_cut_known; i++)
		if (cut_known[i] == h)
			return true;
	if (note && n_cut_known < 2 * MAX_OPS)
		cut_known[n_cut_known++] = h;
	return false;
}

/**
 * struct cut_judge - what every state has to be
 * @state: fine as it is, after @k changes; must not change it
 * @recovers: a copy of a state can be used again; may change it
 */
struct cut_judge {
	bool (*state)(void *opaque, const char *path, size_t k);
	bool (*recovers)(void *opaque, const char *path);
	void *opaque;
};

/* A copy of the state before op @from, with changes by the caller */
static int branch(void)
{
	if (sh("cp --reflink=auto --sparse=always w.qcow2 v.qcow2"))
		return -1;
	return open("v.qcow2", O_RDWR | O_CLOEXEC);
}

/*
 * Ops [from, to) lie between two flushes and any may be lost: each alone, all
 * but each, and each torn after all before it.
 */
static bool try_lost(const struct cut_judge *j, size_t from, size_t to,
		     unsigned int *states)
{
	bool ok = true;

	for (size_t m = from; m < to && ok; m++)
		for (int mode = 0; mode < (ops[m].op == BLK_FILE_OP_WRITE &&
					   ops[m].len > SECTOR ? 4 : 2) && ok;
		     mode++) {
			int fd = branch();

			ok = fd >= 0;
			for (size_t k = from; k < to && ok; k++) {
				bool in = mode == 0 ? k == m :
					mode == 1 ? k != m : k <= m;

				if (in)
					ok = apply(fd, &ops[k], mode > 1 &&
						   k == m ? mode - 2 : 2);
			}
			close(fd);
			ok = ok && j->state(j->opaque, "v.qcow2", from);
			(*states)++;
		}
	return ok;
}

static size_t next_flush(size_t k)
{
	while (k < n_ops && ops[k].op != BLK_FILE_OP_FLUSH)
		k++;
	return k;
}

/* One state: judged, and a copy of it repaired */
static bool try_state(const struct cut_judge *j, size_t k,
		      unsigned int *states)
{
	bool ok = j->state(j->opaque, "w.qcow2", k);
	int fd = ok ? branch() : -1;

	(*states)++;
	if (fd >= 0)
		close(fd);
	ok = fd >= 0 && j->recovers(j->opaque, "v.qcow2");
	if (!ok)
		ksft_print_msg("at op %zu of %zu", k, n_ops);
	return ok;
}

/*
 * Plays the log back onto base.qcow2, and looks at every state, or every
 * @step'th.
 */
IMG_UNUSED static bool cut_replay(const struct cut_judge *j, size_t step,
		       unsigned int *states)
{
	bool ok = !sh("cp base.qcow2 w.qcow2");
	int fd = open("w.qcow2", O_RDWR | O_CLOEXEC);

	for (size_t k = 0; k <= n_ops && ok; k++) {
		bool start = !k || ops[k - 1].op == BLK_FILE_OP_FLUSH;

		if (start && step == 1)
			ok = try_lost(j, k, next_flush(k), states);
		if (ok && !(k % step))
			ok = try_state(j, k, states);
		if (ok && k < n_ops)
			ok = apply(fd, &ops[k], 2);
	}
	close(fd);
	return ok;
}

#endif
