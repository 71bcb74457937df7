// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes the header cluster: header, extensions, feature names; what decodes
 * must come out of emit unchanged.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/ext.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_emit(const uint8_t *buf, const struct qcow2_header *h)
{
	uint8_t copy[QCOW2_HEADER_MIN_READ];
	struct qcow2_header again;

	memcpy(copy, buf, sizeof(copy));
	blk_header_emit(h, copy);
	if (memcmp(copy, buf, sizeof(copy)))
		abort();
	if (qcow2_header_decode(copy, &again) ||
	    memcmp(&again, h, sizeof(again)))
		abort();
}

static void check_ext(const uint8_t *buf, size_t len,
		      const struct qcow2_header *h)
{
	struct blk_ext_info x;
	char names[128];

	if (blk_ext_parse(buf, len, h, &x))
		return;
	if (x.limit > len || x.end > x.limit || x.start > x.end ||
	    x.features.off + (uint64_t)x.features.len > len ||
	    x.backing_format.off + (uint64_t)x.backing_format.len > len ||
	    x.data_file.off + (uint64_t)x.data_file.len > len)
		abort();
	if (x.in_use && x.in_use + 8 > x.end)
		abort();
	for (int type = 0; type < 3; type++) {
		blk_ext_feature_names(buf, &x, type, h->incompatible_features,
				      names, sizeof(names));
		if (strlen(names) >= sizeof(names))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_header h;
	size_t len = size;
	uint8_t *buf;

	if (size < QCOW2_HEADER_MIN_READ || qcow2_header_decode(data, &h))
		return 0;
	check_emit(data, &h);
	(void)qcow2_header_validate(&h, 1ULL << 40);
	if (h.cluster_bits >= QCOW2_MIN_CLUSTER_BITS &&
	    h.cluster_bits <= QCOW2_MAX_CLUSTER_BITS &&
	    len < qcow2_cluster_size(&h))
		len = qcow2_cluster_size(&h);
	buf = calloc(1, len);
	memcpy(buf, data, size);
	check_ext(buf, len, &h);
	free(buf);
	return 0;
}
