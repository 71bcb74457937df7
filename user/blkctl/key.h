/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Passphrases of encrypted images: where they come from, and how the daemon
 * gets them.
 */
#ifndef BLKCTL_KEY_H
#define BLKCTL_KEY_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "base/error.h"
#include "client.h"

/**
 * struct key_source - what the options say
 * @file: "-" for standard input, or NULL
 * @keyring: description of a key of type "user", or NULL
 */
struct key_source {
	const char *file;
	const char *keyring;
};

/* In locked memory; all zeroes: there is none. */
struct key {
	unsigned char *data;
	size_t len;
};

static inline bool key_is_given(const struct key_source *s)
{
	return s->file || s->keyring;
}

/* Class USAGE when both are given. */
int key_read(const struct key_source *s, struct key *out, struct blk_error *e);
/*
 * Asks on the terminal, without echo.  -ENOTTY: there is none.  A signal that
 * ends programs ends this one, with the echo on again.
 */
int key_ask(const char *image, struct key *out, struct blk_error *e);
void key_wipe(struct key *k);

/**
 * key_call - a command with a passphrase
 * @args: taken; gets a member "encrypt" that names a secret object, which
 *        exists as long as the command takes
 */
int key_call(struct client *c, const char *command, json_t *args,
	     const struct key *k, struct blk_error *e);

/* Before anything else: what has been JSON is wiped when it is freed. */
void key_protect_json(void);

#endif
