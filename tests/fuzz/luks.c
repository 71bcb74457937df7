// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes the LUKS header of an encrypted image, and its key slots. The input is
 * the header; behind it are zeroes. Numbers of iterations are cut down, they
 * take nothing but time.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/be.h"
#include "fmt/luks.h"
#include "fmt/qcow2.h"

#define CLUSTER		65536U
#define LUKS_AT		(4 * CLUSTER)
#define LUKS_BYTES	(16 * CLUSTER)
#define HEADER		592U
#define MAX_ITERATIONS	1000U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(int fd, off_t at, uint64_t value, unsigned int n)
{
	uint8_t buf[8];

	for (unsigned int i = 0; i < n; i++)
		buf[i] = (uint8_t)(value >> (8 * (n - 1 - i)));
	if (pwrite(fd, buf, n, at) != n)
		abort();
}

static void put_header(int fd)
{
	static const struct {
		off_t at;
		uint64_t value;
		unsigned int n;
	} fields[] = {
		{ 0, 0x514649fb, 4 }, { 4, 3, 4 }, { 20, 16, 4 },
		{ 24, 1 << 20, 8 }, { 32, 2, 4 }, { 36, 1, 4 },
		{ 40, 3 * CLUSTER, 8 }, { 48, CLUSTER, 8 }, { 56, 1, 4 },
		{ 96, 4, 4 }, { 100, 104, 4 }, { 104, 0x0537be77, 4 },
		{ 108, 16, 4 }, { 112, LUKS_AT, 8 }, { 120, LUKS_BYTES, 8 },
		{ CLUSTER, 2 * CLUSTER, 8 },
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
		put(fd, fields[i].at, fields[i].value, fields[i].n);
	for (unsigned int c = 0; c < 20; c++)
		put(fd, 2 * CLUSTER + 2 * c, 1, 2);
}

static void cut(uint8_t *at)
{
	if (blk_get_be32(at) > MAX_ITERATIONS) {
		at[0] = at[1] = 0;
		at[2] &= 3;
	}
}

static int make_image(const uint8_t *data, size_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);
	uint8_t buf[4096] = { 0 };

	memcpy(buf, data, BLK_MIN(size, sizeof(buf)));
	cut(buf + 164);
	for (unsigned int slot = 0; slot < 8; slot++)
		cut(buf + 208 + 48 * slot + 4);
	if (fd < 0 || ftruncate(fd, LUKS_AT + LUKS_BYTES) ||
	    pwrite(fd, buf, sizeof(buf), LUKS_AT) != sizeof(buf))
		abort();
	put_header(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct blk_luks_key *key = NULL;
	struct blk_qcow2 *q = NULL;
	struct blk_file *f = NULL;
	struct blk_error e;
	int fd;

	if (size < HEADER)
		return 0;
	fd = make_image(data, size);
	if (blk_file_from_fd(fd, "image", &f, &e))
		abort();
	if (blk_qcow2_open(f, &q, &e))
		abort();	/* its own header is sound */
	if (!blk_luks_unlock(q, "secret", 6, &key, &e) &&
	    (key->size > sizeof(key->key) ||
	     strspn(key->cipher, "abcdefghijklmnopqrstuvwxyz"
		    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_:") !=
	     strlen(key->cipher)))
		abort();
	blk_luks_free(key);
	blk_qcow2_close(q);
	blk_file_close(f);
	return 0;
}
