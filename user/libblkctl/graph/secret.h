/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Secrets, as object-add makes them: passphrases under names, which
 * blockdev-add refers to.  In locked memory, wiped when they go.
 *
 * The set belongs to the graph's owner; blk_secrets_load() may block and runs
 * anywhere.
 */
#ifndef BLK_GRAPH_SECRET_H
#define BLK_GRAPH_SECRET_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"

#define BLK_SECRET_MAX	(512 * 1024)	/* bytes of one */

struct blk_secrets;

/* @data: base/secret.h; never NULL */
struct blk_secret {
	char *id;
	unsigned char *data;
	size_t len;
	struct blk_secret *next;
};

struct blk_secrets *blk_secrets_new(void);
void blk_secrets_free(struct blk_secrets *s);

/**
 * blk_secrets_load - get what object-add names: data, a file or a key
 * @options: the arguments of QMP's object-add for "secret" or
 *           "secret_keyring", already checked against the schema; borrowed
 */
int blk_secrets_load(const json_t *options, struct blk_secret **out,
		     struct blk_error *e);
void blk_secrets_drop(struct blk_secret *one);		/* NULL is fine */

/* Is there room for this name?  Class USAGE, or BUSY when it is taken */
int blk_secrets_check(const struct blk_secrets *s, const char *id,
		      struct blk_error *e);
/* Takes @one over, also on failure. */
int blk_secrets_add(struct blk_secrets *s, struct blk_secret *one,
		    struct blk_error *e);
int blk_secrets_del(struct blk_secrets *s, const char *id,
		    struct blk_error *e);
/* NULL: there is none */
const struct blk_secret *blk_secrets_find(const struct blk_secrets *s,
					  const char *id);

/* A copy, for who needs it longer than the set has it; NULL: no memory */
struct blk_secret *blk_secrets_copy(const struct blk_secret *one);
/* QEMU takes only text for a passphrase.  No NUL bytes either */
bool blk_secret_is_text(const struct blk_secret *one);

#endif
