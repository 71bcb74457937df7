// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a LUKS header says, as qemu-img says it: words of its own for ciphers,
 * with the size of the key.
 */
#include "image/luks.h"

#include <stdio.h>
#include <string.h>

#include "fmt/luks_info.h"

static json_t *cipher_of(const struct blk_luks_info *i)
{
	uint32_t bytes = i->key_bytes;

	if (!strcmp(i->mode, "xts"))
		bytes /= 2;	/* it has two keys */
	return json_sprintf("%s-%u", i->cipher, 8 * bytes);
}

static json_t *slots_of(const struct blk_luks_info *i)
{
	json_t *list = json_array();

	for (int n = 0; n < BLK_LUKS_SLOTS; n++) {
		const struct blk_luks_slot *s = &i->slot[n];
		json_t *o = json_pack("{s:b}", "active", s->active);

		if (s->active)
			json_object_set_new(o, "iters",
					    json_integer(s->rounds));
		json_object_set_new(o, "key-offset",
				    json_integer((json_int_t)s->offset));
		if (s->active)
			json_object_set_new(o, "stripes",
					    json_integer(s->stripes));
		json_array_append_new(list, o);
	}
	return list;
}

json_t *image_luks(struct blk_qcow2 *q)
{
	struct blk_luks_info i;
	json_t *o;

	if (blk_luks_info(q, &i))
		return json_pack("{s:s}", "format", "luks");
	o = json_pack("{s:s}", "ivgen-alg", i.ivgen);
	if (*i.ivgen_hash)
		json_object_set_new(o, "ivgen-hash-alg",
				    json_string(i.ivgen_hash));
	json_object_set_new(o, "hash-alg", json_string(i.hash));
	json_object_set_new(o, "cipher-alg", cipher_of(&i));
	json_object_set_new(o, "uuid", json_string(i.uuid));
	json_object_set_new(o, "format", json_string("luks"));
	json_object_set_new(o, "cipher-mode", json_string(i.mode));
	json_object_set_new(o, "slots", slots_of(&i));
	json_object_set_new(o, "payload-offset",
			    json_integer((json_int_t)i.payload));
	json_object_set_new(o, "master-key-iters", json_integer(i.rounds));
	return o;
}
