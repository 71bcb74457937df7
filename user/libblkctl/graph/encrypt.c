// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Passphrases of nodes.
 *
 * Owns: a copy of the passphrase between blockdev-add and the end of opening.
 * Must not: keep it longer, or look a secret up from another thread than the
 * graph's.
 * Threads: parse: the graph's owner; unlock: whoever opens the node.
 *
 * Words of complaints are QEMU's (block/qcow2.c, crypto/block-luks.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "graph/encrypt.h"
#include "graph/json.h"

/**
 * struct blk_encrypt - the option "encrypt"
 * @format: "luks" or "aes"
 * @id: of the secret; NULL: none was named
 * @secret: a copy; NULL: there is none of that name
 */
struct blk_encrypt {
	char *format;
	char *id;
	struct blk_secret *secret;
};

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

void blk_encrypt_forget(struct blk_node *n)
{
	struct blk_encrypt *x = n->opts.encrypt;

	if (!x)
		return;
	blk_secrets_drop(x->secret);
	free(x->format);
	free(x->id);
	free(x);
	n->opts.encrypt = NULL;
}

int blk_encrypt_parse(struct blk_node *n, const json_t *options,
		      const struct blk_secrets *secrets, struct blk_error *e)
{
	const json_t *o = json_object_get(options, "encrypt");
	const char *id = blk_json_str(o, "key-secret", NULL);
	const struct blk_secret *secret = id ? blk_secrets_find(secrets, id) :
		NULL;
	struct blk_encrypt *x;

	if (!o)
		return 0;
	x = calloc(1, sizeof(*x));
	if (!x)
		return no_memory(e);
	n->opts.encrypt = x;
	x->format = strdup(blk_json_str(o, "format", ""));
	x->id = id ? strdup(id) : NULL;
	x->secret = secret ? blk_secrets_copy(secret) : NULL;
	return !x->format || (id && !x->id) || (secret && !x->secret) ?
		no_memory(e) : 0;
}

static int no_key(const struct blk_node *n, struct blk_error *e)
{
	/* who is asked for a passphrase could only give one for the top */
	int err = n->implicit ? EACCES : ENOKEY;

	blk_error_set(e, BLK_ERR_FAILED, err,
		      "Parameter 'encrypt.key-secret' is required for cipher");
	blk_error_hint(e, n->implicit ?
		       "'%.120s' is encrypted: give it by 'backing', with 'encrypt'" :
		       "'%.120s' is encrypted: give its passphrase by object-add, and the object's id in 'encrypt'",
		       blk_node_filename(n));
	return -err;
}

static int unlock(struct blk_node *n, struct blk_error *e)
{
	const struct blk_encrypt *x = n->opts.encrypt;
	const struct blk_secret *secret = x ? x->secret : NULL;

	if (!x || !x->id)
		return no_key(n, e);
	if (!secret) {
		blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
			      "No secret with id '%.80s'", x->id);
		blk_error_hint(e, "object-add makes one");
		return -ENOENT;
	}
	if (!blk_secret_is_text(secret))
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "Data from secret %.80s is not valid UTF-8",
				     x->id);
	return blk_luks_unlock(n->image, secret->data, secret->len, &n->key,
			       e);
}

static int check_format(const struct blk_node *n, struct blk_error *e)
{
	static const char *const formats[] = {
		[QCOW2_CRYPT_AES] = "aes",
		[QCOW2_CRYPT_LUKS] = "luks",
	};
	const char *format = n->opts.encrypt ? n->opts.encrypt->format : NULL;
	uint32_t method = n->header.crypt_method;

	if (!format)
		return 0;
	if (method == QCOW2_CRYPT_NONE)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "No encryption in image header, but options specified format '%s'",
				     format);
	if (!strcmp(format, formats[method]))
		return 0;
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			     "Header reported '%s' encryption format but options specify '%s'",
			     formats[method], format);
}

int blk_encrypt_unlock(struct blk_node *n, struct blk_error *e)
{
	int ret = check_format(n, e);

	if (!ret && n->header.crypt_method == QCOW2_CRYPT_AES) {
		ret = blk_error_set(e, BLK_ERR_FAILED, ENOTSUP,
				    "'%s' is encrypted in qcow2's old way (AES), which is not supported",
				    blk_node_filename(n));
		blk_error_hint(e, "it is not safe: copy the image to one with encrypt.format=luks, by \"qemu-img convert\"");
	} else if (!ret && n->header.crypt_method == QCOW2_CRYPT_LUKS) {
		ret = unlock(n, e);
	}
	blk_encrypt_forget(n);
	return ret;
}
