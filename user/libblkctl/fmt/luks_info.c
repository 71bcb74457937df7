// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a LUKS header says of itself, without a key.
 *
 * Must not trust it: words are ended and are text, numbers are only told.
 * Threads: any.
 */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fmt/luks_info.h"
#include "fmt/qcow2_int.h"

/* LUKS On-Disk Format Specification 1.2.3: partition header, key slot */
#define AT_CIPHER	8
#define AT_MODE		40
#define AT_HASH		72
#define AT_PAYLOAD	104	/* sectors */
#define AT_KEY_BYTES	108
#define AT_ROUNDS	164
#define AT_UUID		168
#define AT_SLOTS	208
#define WORD		32
#define UUID		40
#define SLOT_BYTES	48
#define SLOT_ROUNDS	4
#define SLOT_OFFSET	40	/* sectors */
#define SLOT_STRIPES	44
#define SLOT_ENABLED	0x00ac71f3U
#define HEADER		(AT_SLOTS + BLK_LUKS_SLOTS * SLOT_BYTES)

/* What is no text ends it */
static void take_word(const uint8_t *p, size_t len, char *out)
{
	size_t n = 0;

	while (n < len - 1 && isascii(p[n]) && isgraph(p[n])) {
		out[n] = (char)p[n];
		n++;
	}
	out[n] = '\0';
}

/* "xts-plain64", "cbc-essiv:sha256" */
static void take_mode(const uint8_t *p, struct blk_luks_info *i)
{
	char mode[WORD], *iv, *hash;

	take_word(p, WORD, mode);
	iv = strchr(mode, '-');
	hash = iv ? strchr(iv, ':') : NULL;
	if (iv)
		*iv++ = '\0';
	if (hash)
		*hash++ = '\0';
	snprintf(i->mode, sizeof(i->mode), "%s", mode);
	snprintf(i->ivgen, sizeof(i->ivgen), "%s", iv ? iv : "");
	snprintf(i->ivgen_hash, sizeof(i->ivgen_hash), "%s", hash ? hash : "");
}

static void take_slot(const uint8_t *p, struct blk_luks_slot *s)
{
	s->active = blk_get_be32(p) == SLOT_ENABLED;
	s->rounds = blk_get_be32(p + SLOT_ROUNDS);
	s->offset = blk_get_be32(p + SLOT_OFFSET) * 512ULL;
	s->stripes = blk_get_be32(p + SLOT_STRIPES);
}

int blk_luks_info(struct blk_qcow2 *q, struct blk_luks_info *i)
{
	uint8_t h[HEADER];
	int ret;

	if (q->h.crypt_method != QCOW2_CRYPT_LUKS || !q->ext.has_crypto ||
	    q->ext.crypto_length < HEADER || q->ext.crypto_offset > INT64_MAX)
		return -EUCLEAN;
	ret = blk_file_read(q->f, h, sizeof(h), q->ext.crypto_offset);
	if (ret < 0)
		return ret;
	if (memcmp(h, "LUKS\xba\xbe\0\1", 8))
		return -EUCLEAN;
	take_word(h + AT_CIPHER, WORD, i->cipher);
	take_mode(h + AT_MODE, i);
	take_word(h + AT_HASH, WORD, i->hash);
	take_word(h + AT_UUID, UUID, i->uuid);
	i->key_bytes = blk_get_be32(h + AT_KEY_BYTES);
	i->payload = blk_get_be32(h + AT_PAYLOAD) * 512ULL;
	i->rounds = blk_get_be32(h + AT_ROUNDS);
	for (int n = 0; n < BLK_LUKS_SLOTS; n++)
		take_slot(h + AT_SLOTS + n * SLOT_BYTES, &i->slot[n]);
	return 0;
}
