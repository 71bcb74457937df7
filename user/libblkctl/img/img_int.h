/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of img/ share.  Nobody else includes it.
 */
#ifndef BLK_IMG_IMG_INT_H
#define BLK_IMG_IMG_INT_H

#include <pthread.h>

#include "codec/deflate.h"
#include "fmt/luks.h"
#include "img/image.h"

struct blk_remap;

/**
 * struct img_table - one L2 table in memory, as on disk
 * @at: where it is in the file, 0: this place is free
 * @used: when, by blk_img.clock
 */
struct img_table {
	uint64_t at;
	uint64_t used;
	uint8_t *data;
};

/**
 * struct blk_img - an open image
 * @name, @file, @data, @q, @key, @backing: owned; NULL where there is none
 * @flags: BLK_IMG_*
 * @size: of the disk, bytes
 * @h: of a qcow2 image
 * @cs, @entry: bytes of a cluster, and of an L2 entry
 * @l1, @l1_n: host byte order: the active table, or a snapshot's
 * @sparse: much of what is mapped has no place in the file: looking is worth it
 * @lock: protects what is behind it
 * @remap: once something was written: has the newest tables
 * @deflate: once something was compressed; under @write_lock
 * @write_lock: of who writes, taken before @lock
 */
struct blk_img {
	char *name;
	unsigned int flags;
	uint64_t size;
	struct blk_file *file;
	struct blk_file *data;
	struct blk_qcow2 *q;
	struct blk_luks_key *key;
	struct blk_img *backing;
	struct qcow2_header h;
	uint64_t cs;
	uint32_t entry;
	uint64_t *l1;
	uint32_t l1_n;
	bool sparse;
	pthread_mutex_t lock;
	struct img_table *table;
	size_t n_tables;
	uint64_t clock;
	struct blk_remap *remap;
	struct blk_deflate *deflate;
	pthread_mutex_t write_lock;
};

/**
 * struct img_node - where an image is, as options or a header say (names.c)
 * All strings are the caller's of the parser; @json is owned.
 * @format: NULL: by the magic
 * @secret: id of the passphrase, or NULL
 * @backing, @data: options of the children, or NULL: what the header says
 * @no_backing: "backing": null
 */
struct img_node {
	json_t *json;
	const char *filename;
	const char *format;
	const char *secret;
	const json_t *backing;
	const json_t *data;
	bool no_backing;
};

/* @format: what the user says besides, or NULL */
int img_name_parse(const char *name, bool image_opts, const char *format,
		   struct img_node *out, struct blk_error *e);
/* Of nested options: "file": {...} */
int img_node_parse(const json_t *o, struct img_node *out, struct blk_error *e);
/* A name in the header of @m: beside it; malloc'ed */
int img_name_resolve(const struct blk_img *m, const char *name, char **out,
		     struct blk_error *e);

/* table.c: both under @m->lock */
int img_table_open(struct blk_img *m, uint64_t l1_at, uint32_t n,
		   struct blk_error *e);
void img_table_close(struct blk_img *m);
/* The table for @off, valid until the lock is released; NULL: there is none */
int img_table_get(struct blk_img *m, uint64_t off, const uint8_t **out,
		  struct blk_error *e);
/* What is in memory is stale. */
void img_table_forget(struct blk_img *m);

static inline bool img_has_extl2(const struct blk_img *m)
{
	return m->entry == 16;
}

/* map.c: the entry of a cluster, host order; @bitmap 0 without extended L2 */
int img_entry(struct blk_img *m, uint64_t off, uint64_t *entry,
	      uint64_t *bitmap, struct blk_error *e);

/* crypt.c */
int img_crypt_check(const struct blk_luks_key *k, struct blk_error *e);
/* Whole sectors in place; @host: where they are in the file */
void img_decrypt(const struct blk_luks_key *k, uint64_t host, void *buf,
		 size_t len);
void img_encrypt(const struct blk_luks_key *k, uint64_t host, void *buf,
		 size_t len);

/* write.c: what was written becomes durable, and the reserve goes back */
int img_write_end(struct blk_img *m, struct blk_error *e);
/* A cluster that is @size bytes of compressed data */
int img_write_packed(struct blk_img *m, const void *packed, size_t size,
		     uint64_t at, struct blk_error *e);

int img_no_memory(struct blk_error *e);
/* "cannot WHAT 'path': why"; returns @err */
int img_io_error(const struct blk_file *f, int err, const char *what,
		 struct blk_error *e);

#endif
