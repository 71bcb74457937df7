/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the LUKS header of a qcow2 image says of itself.
 */
#ifndef BLK_FMT_LUKS_INFO_H
#define BLK_FMT_LUKS_INFO_H

#include <stdbool.h>
#include <stdint.h>

#include "fmt/qcow2.h"

#define BLK_LUKS_SLOTS	8

/**
 * struct blk_luks_slot - a key slot
 * @rounds: of the hash, for a passphrase
 * @offset: of its material, bytes from the header's begin
 */
struct blk_luks_slot {
	bool active;
	uint32_t rounds;
	uint32_t stripes;
	uint64_t offset;
};

/**
 * struct blk_luks_info - the words are as the header has them
 * @ivgen_hash: of "essiv:sha256"; "": none
 * @key_bytes: of the data's key
 * @payload: where the data would begin, bytes
 * @rounds: of the hash, to check the data's key
 */
struct blk_luks_info {
	char cipher[32];
	char mode[32];
	char ivgen[32];
	char ivgen_hash[32];
	char hash[32];
	char uuid[40];
	uint32_t key_bytes;
	uint32_t rounds;
	uint64_t payload;
	struct blk_luks_slot slot[BLK_LUKS_SLOTS];
};

/* -EUCLEAN: there is no LUKS header of version 1 */
int blk_luks_info(struct blk_qcow2 *q, struct blk_luks_info *i);

#endif
