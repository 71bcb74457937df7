// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Files of a file system inside the image that were acknowledged by fsync. A file
 * holds its own name, again and again. Owns the list of those that must be
 * there after a power cut.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "crash.h"

#define PER_CUT 3	/* files that are looked at */

struct file {
	char *name;
	unsigned long bytes;
};

struct files {
	struct file *v;
	size_t n;
};

struct files *files_new(void)
{
	return calloc(1, sizeof(struct files));
}

static void forget(struct files *f, const char *name)
{
	for (size_t i = 0; i < f->n; i++) {
		if (strcmp(f->v[i].name, name))
			continue;
		free(f->v[i].name);
		f->v[i] = f->v[--f->n];
	}
}

void files_mark(struct files *f, const char *text, size_t len)
{
	char *name = strndup(text, len), *colon;
	struct file *v;

	if (!name)
		return;
	colon = strchr(name, ':');
	if (name[0] == MARK_GONE) {
		forget(f, name + 1);
	} else if (name[0] == MARK_SYNCED && colon) {
		*colon = '\0';
		v = realloc(f->v, (f->n + 1) * sizeof(*v));
		if (v) {
			f->v = v;
			v[f->n++] = (struct file){
				strdup(name + 1), strtoul(colon + 1, NULL, 10),
			};
		}
	}
	free(name);
}

bool files_save(const struct files *f, const char *path)
{
	FILE *to = fopen(path, "w");

	for (size_t i = 0; to && i < f->n; i++)
		fprintf(to, "%s %lu\n", f->v[i].name, f->v[i].bytes);
	return to && !fclose(to);
}

static bool is_right(const struct file *f, const char *fs)
{
	char line[1024], buf[65536];
	size_t len = strlen(f->name) + 1, n, at = 0;
	bool right = true;
	FILE *p;

	snprintf(line, sizeof(line), "debugfs -R 'cat %s' %s 2>/dev/null",
		 f->name, fs);
	p = popen(line, "r");
	if (!p)
		return false;
	while (right && (n = fread(buf, 1, sizeof(buf), p)))
		for (size_t i = 0; i < n; i++, at++)
			right &= buf[i] == (at % len == len - 1 ? '\n' :
					    f->name[at % len]);
	pclose(p);
	return right && at == f->bytes;
}

bool files_verify(const struct files *f, const char *fs, uint64_t seed,
		  char *why, size_t room)
{
	for (size_t i = 0; i < PER_CUT && f->n; i++) {
		/* the newest, and others */
		size_t nr = i ? (seed / 7 + i * 31) % f->n : f->n - 1;

		if (is_right(&f->v[nr], fs))
			continue;
		snprintf(why, room, "file %s, of %lu bytes, was synced and is not there, or not whole",
			 f->v[nr].name, f->v[nr].bytes);
		return false;
	}
	return true;
}
