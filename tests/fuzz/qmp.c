// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * QMP's framing and the validation of arguments by the schema, fed with
 * anything: the first byte says how the rest is cut.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "blkctld/frame.c"
#include "blkctld/types_export.c"
#include "blkctld/types_node.c"
#include "blkctld/validate.c"

const struct qmp_type qmp_str = { .kind = QMP_STR, .name = "string" };
const struct qmp_type qmp_int = { .kind = QMP_INT, .name = "integer" };
const struct qmp_type qmp_number = { .kind = QMP_NUMBER, .name = "number" };
const struct qmp_type qmp_bool = { .kind = QMP_BOOL, .name = "boolean" };
const struct qmp_type qmp_null = { .kind = QMP_NULL, .name = "null" };
const struct qmp_type qmp_any = { .kind = QMP_ANY, .name = "value" };

static void use(json_t *val)
{
	struct blk_error e = { .msg = "" };
	char *text;

	if (json_is_object(val)) {
		if (qmp_validate(&qmp_blockdev_options, val, &e) && !e.msg[0])
			abort();
		qmp_validate(&qmp_export_options, val, &e);
		qmp_validate(NULL, val, &e);
	}
	text = json_dumps(val, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
	if (!text || strchr(text, '\n'))
		abort();
	free(text);
	json_decref(val);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frame f = { 0 };
	size_t chunk, len, used, at = 1;
	char why[WHY_BYTES];
	json_t *val;

	if (!size)
		return 0;
	chunk = 1 + data[0];
	while (at < size) {
		len = size - at < chunk ? size - at : chunk;
		switch (frame_feed(&f, (const char *)data + at, len, &used,
				   &val, why)) {
		case FRAME_VALUE:
			use(val);
			break;
		case FRAME_FATAL:
			at = size;
			break;
		default:
			break;
		}
		if (used > len)
			abort();
		at += used;
	}
	frame_free(&f);
	return 0;
}
