// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * "key=value,key=value", as after -o and --object, and its check against a
 * table of keys.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

/* Up to a single comma, behind which *text is then; to be freed */
static char *take_value(const char **text)
{
	const char *p = *text;
	char *out = malloc(strlen(p) + 1), *o = out;

	for (; out && *p; p++) {
		if (*p == ',' && *++p != ',')
			break;
		*o++ = *p;
	}
	if (out)
		*o = '\0';
	*text = p;
	return out;
}

static int put(json_t *into, const char *key, size_t len, const char *value,
	       struct blk_error *e)
{
	char *name = strndup(key, len);
	int rc = 0;

	if (!name || json_object_set_new(into, name, json_string(value)))
		rc = blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				   "'%.*s' is no text that can be used here",
				   (int)len, key);
	free(name);
	return rc;
}

int image_keyval(const char *text, const char *implied, json_t *into,
		 struct blk_error *e)
{
	size_t len;
	char *value;
	int rc = 0;

	while (!rc && *text) {
		len = strcspn(text, "=,");
		if (text[len] != '=' && implied) {
			value = take_value(&text);
			rc = put(into, implied, strlen(implied),
				 value ? value : "", e);
			free(value);
		} else if (text[len] != '=') {
			rc = put(into, text, len, "on", e);
			text += len + (text[len] == ',');
		} else {
			const char *key = text;

			text += len + 1;
			value = take_value(&text);
			rc = put(into, key, len, value ? value : "", e);
			free(value);
		}
		implied = NULL;
	}
	return rc;
}

static const struct image_key *find(const struct image_key *keys,
				    const char *name)
{
	for (; keys->name; keys++)
		if (!strcmp(keys->name, name))
			return keys;
	return NULL;
}

/* QEMU's other words for on and off; NULL: none of them */
static const char *as_switch(const char *v)
{
	return opt_word_in("on yes true y", v) ? "on" :
		opt_word_in("off no false n", v) ? "off" : NULL;
}

static int check_value(const struct image_key *k, json_t *o,
		       struct blk_error *e)
{
	const char *v = image_key_str(o, k->name), *on_off = as_switch(v);
	uint64_t size;

	if (k->words && !strcmp(k->words, "on off") && on_off) {
		json_object_set_new(o, k->name, json_string(on_off));
		return 0;
	}
	if (k->words && !opt_word_in(k->words, v))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is no %s (choose from: %s)", v,
				     k->name, k->words);
	if (!k->size || !size_parse(v, &size, e))
		return 0;
	blk_error_prefix(e, "%s", k->name);
	return -EINVAL;
}

int image_keys_check(json_t *o, const struct image_key *keys,
		     const char *what, struct blk_error *e)
{
	const struct image_key *k;
	const char *name;
	json_t *v;
	void *next;

	json_object_foreach_safe(o, next, name, v) {
		k = find(keys, name);
		if (!k) {
			blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				      "%s has no option '%s'", what, name);
			return -EINVAL;
		}
		if (check_value(k, o, e))
			return -EINVAL;
	}
	return 0;
}

int image_keys(const struct opt_list *o, const struct image_key *keys,
	       const char *what, json_t **out, struct blk_error *e)
{
	size_t i;
	int rc = 0;

	*out = json_object();
	for (i = 0; !rc && i < o->n; i++)
		rc = image_keyval(o->item[i].value, NULL, *out, e);
	if (!rc)
		rc = image_keys_check(*out, keys, what, e);
	if (rc && e && !*e->hint)
		blk_error_hint(e, "-o help lists them");
	if (rc) {
		json_decref(*out);
		*out = NULL;
	}
	return rc;
}

bool image_keys_help(const struct opt_list *o, const struct image_key *keys)
{
	json_auto_t *all = json_object();
	size_t i;

	for (i = 0; i < o->n; i++)
		image_keyval(o->item[i].value, NULL, all, NULL);
	if (!json_object_get(all, "help") && !json_object_get(all, "?"))
		return false;
	printf("Supported options:\n");
	for (; keys->name; keys++) {
		char left[64];

		snprintf(left, sizeof(left), "%s=<%s>", keys->name,
			 keys->size ? "size" : keys->words ?
			 strcmp(keys->words, "on off") ? "word" : "on/off" :
			 "str");
		printf("  %-28s %s", left, keys->help);
		if (keys->words && strcmp(keys->words, "on off"))
			printf(" (%s)", keys->words);
		putchar('\n');
	}
	return true;
}

const char *image_key_str(const json_t *o, const char *name)
{
	return json_string_value(json_object_get(o, name));
}

bool image_key_bool(const json_t *o, const char *name, bool preset)
{
	const char *v = image_key_str(o, name);

	return v ? !strcmp(v, "on") : preset;
}

uint64_t image_key_size(const json_t *o, const char *name, uint64_t preset)
{
	const char *v = image_key_str(o, name);
	uint64_t size;

	return v && !size_parse(v, &size, NULL) ? size : preset;
}
