/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * blockdev-add's "encrypt", and what becomes of it: the key of a node's image.
 */
#ifndef BLK_GRAPH_ENCRYPT_H
#define BLK_GRAPH_ENCRYPT_H

#include <jansson.h>

#include "graph/node.h"
#include "graph/secret.h"

/*
 * Takes what @options say, and a copy of the secret, into @n->opts.encrypt.
 * Whether that is right is only known when the image is open.
 */
int blk_encrypt_parse(struct blk_node *n, const json_t *options,
		      const struct blk_secrets *secrets, struct blk_error *e);
/*
 * Judges the options by the image's header and sets @n->key.  The passphrase
 * is forgotten.  -ENOKEY: a passphrase is needed, of the image that was asked
 * for; -EKEYREJECTED: this is not it.  Takes seconds.
 */
int blk_encrypt_unlock(struct blk_node *n, struct blk_error *e);
/* Frees @n->opts.encrypt; may be called again. */
void blk_encrypt_forget(struct blk_node *n);

#endif
