// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fuzzes the table line: the kernel's parser, over a thin copy of what it uses
 * of device-mapper. A line is refused with a sentence, or everything that was
 * parsed lies within its limits and points into the line.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernel/dm-qcow/table.c"

#define MAX_WORDS 2000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layers(const struct qcow_table_spec *s, const char *line,
			 size_t size)
{
	for (unsigned int i = 0; i < s->nr_layers; i++) {
		const struct qcow_layer_spec *l = &s->layers[i];

		if (l->device < line || l->device > line + size ||
		    (l->data && (l->data < line || l->data > line + size)) ||
		    (l->raw && (!i || i + 1 != s->nr_layers || l->data)))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dm_target ti = { 0 };
	struct qcow_table_spec s;
	char *line = malloc(size + 1);
	char **argv = calloc(MAX_WORDS, sizeof(*argv));
	unsigned int argc = 0;
	char *save, *word;
	int r;

	if (!line || !argv)
		abort();
	memcpy(line, data, size);
	line[size] = '\0';
	for (word = strtok_r(line, " ", &save); word && argc < MAX_WORDS;
	     word = strtok_r(NULL, " ", &save))
		argv[argc++] = word;
	r = qcow_table_parse(&ti, argc, argv, &s);
	if (r ? r > 0 || !ti.error : s.nr_layers < 1 ||
	    s.nr_layers > DM_QCOW_MAX_LAYERS || s.no_space_timeout > 86400 ||
	    s.commit_interval < 10 || s.commit_interval > 600000)
		abort();
	if (!r)
		check_layers(&s, line, size);
	free(s.layers);
	free(argv);
	free(line);
	return 0;
}
