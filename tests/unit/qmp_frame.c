// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Framing of QMP: the same values and errors however the stream is cut, and
 * the values that jansson and QEMU would see.
 */
#include <stdlib.h>
#include <string.h>

#include "ksft.h"

#include "blkctld/frame.c"

/* What a stream gives: "value|value|!|value", "!" for an error */
static void read_all(const char *data, size_t n, size_t chunk, unsigned int *rnd,
		     char *out, size_t room)
{
	struct frame f = { 0 };
	char why[WHY_BYTES], *text;
	size_t len, used, at = 0;
	enum frame_result res;
	json_t *val;

	*out = '\0';
	while (at < n) {
		len = chunk ? chunk : 1 + (size_t)rand_r(rnd) % 9;
		if (len > n - at)
			len = n - at;
		res = frame_feed(&f, data + at, len, &used, &val, why);
		at += used;
		if (res == FRAME_MORE)
			continue;
		if (*out)
			strncat(out, "|", room - strlen(out) - 1);
		if (res != FRAME_VALUE) {
			strncat(out, "!", room - strlen(out) - 1);
			continue;
		}
		text = json_dumps(val, JSON_ENCODE_ANY | JSON_COMPACT |
				  JSON_SORT_KEYS);
		strncat(out, text ? text : "?", room - strlen(out) - 1);
		free(text);
		json_decref(val);
	}
	frame_free(&f);
}

static const struct {
	const char *in;
	const char *want;
} cases[] = {
	{ "{}", "{}" },
	{ "{}[]{}", "{}|[]|{}" },
	{ " \t\r\n{ } \n", "{}" },
	{ "5 ", "5" },
	{ "5 true null \"a\" 'b' ", "5|true|null|\"a\"|\"b\"" },
	{ "5{}6[]7 ", "5|{}|6|[]|7" },
	{ "\"a\"\"b\"", "\"a\"|\"b\"" },
	{ "{'a':'b'}", "{\"a\":\"b\"}" },
	{ "{'a\"b':'\\'\\\"\\\\'}", "{\"a\\\"b\":\"'\\\"\\\\\"}" },
	{ "{\"a\":\"\\'\"}", "{\"a\":\"'\"}" },
	{ "{\"a\":\"}{][,:\"}", "{\"a\":\"}{][,:\"}" },
	{ "{\"a\":[1,{\"b\":[]}]}", "{\"a\":[1,{\"b\":[]}]}" },
	{ "}", "!" },
	{ "]{}", "!|{}" },
	{ ",:{}", "!|!|{}" },
	{ "{]{}", "!|{}" },
	{ "{\"a\":1,}{}", "!|{}" },
	{ "{\"a\":1,\"a\":2}{}", "!|{}" },
	{ "foo {}", "!|{}" },
	{ "foo{}", "!|{}" },
	{ "{\"a\xff{}", "!|{}" },
	{ "\xff\xfe{}", "!|!|{}" },
	{ "{\"a\\\xff{}", "!|{}" },
	{ "foo\xff{}", "!|{}" },
	{ "{\"a\":\x01 1}\n{}", "!|{}" },
	{ "{\"a\":\"\x01 1\"}\n{}", "!|{}" },
	{ "{\"a\":\"\x01 1\" {}", "!|{}" },
	{ "{\"a\":\"\\\x01 1\"}\n{}", "!|{}" },
	{ "{\"a\":9223372036854775807}", "{\"a\":9223372036854775807}" },
	{ "{\"a\":9223372036854775808}{}", "!|{}" },
	{ "{\"a\":\"\xc3\xa9\"}", "{\"a\":\"\xc3\xa9\"}" },
	{ "{\"a\":\"\xc3\"}{}", "!|{}" },
	{ "{\"a", "" },
	{ "12", "" },
};

static void test_cases(void)
{
	char out[512];
	size_t i, chunk;
	bool ok;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ok = true;
		for (chunk = 1; chunk < 20; chunk++) {
			read_all(cases[i].in, strlen(cases[i].in), chunk, NULL,
				 out, sizeof(out));
			if (strcmp(out, cases[i].want)) {
				ksft_print_msg("by %zu: %s, not %s", chunk, out,
					       cases[i].want);
				ok = false;
			}
		}
		ksft_test_result(ok, "case %zu\n", i);
	}
}

/* Random streams of dangerous bytes: how they are cut makes no difference */
static void test_random(void)
{
	static const char bytes[] =
		"{}[]:,\"'\\ \n\x01\xff\xfe\xc3\xa9u0041atrue-1.e";
	char in[64], whole[1024], cut[1024];
	unsigned int rnd = 1, i, k;
	size_t n;
	bool ok = true;

	for (i = 0; i < 200000; i++) {
		n = (size_t)rand_r(&rnd) % sizeof(in);
		for (k = 0; k < n; k++)
			in[k] = bytes[(unsigned int)rand_r(&rnd) %
				      (sizeof(bytes) - 1)];
		read_all(in, n, sizeof(in), NULL, whole, sizeof(whole));
		read_all(in, n, 0, &rnd, cut, sizeof(cut));
		ok &= !strcmp(whole, cut);
	}
	ksft_test_result(ok, "200000 random streams, whole and cut\n");
}

static void test_limits(void)
{
	size_t n = 3 * FRAME_MAX_BYTES, used;
	char *big = malloc(n), why[WHY_BYTES];
	struct frame f = { 0 };
	json_t *val;

	memset(big, 'a', n);
	big[0] = '"';
	ksft_expect(frame_feed(&f, big, n, &used, &val, why) == FRAME_FATAL);
	ksft_expect(f.cap <= FRAME_MAX_BYTES);
	frame_free(&f);
	memset(&f, 0, sizeof(f));
	memset(big, '[', n);
	ksft_expect(frame_feed(&f, big, n, &used, &val, why) == FRAME_ERROR);
	ksft_expect(used == FRAME_MAX_DEPTH + 1);
	frame_free(&f);
	free(big);
}

int main(void)
{
	ksft_print_header();
	test_cases();
	test_random();
	test_limits();
	ksft_finished();
}
