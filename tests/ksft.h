/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * KTAP output for unit tests, with the names of the kernel's kselftest.h.
 *
 *	ksft_print_header();
 *	ksft_set_plan(2);
 *	ksft_test_result(x == 1, "x is %d\n", x);
 *	ksft_expect_eq(decode(entry), offset);
 *	ksft_finished();
 *
 * A failed test says so and goes on; ksft_finished() exits with 1 then, and
 * with 4 if every test was skipped. Not for use by several threads at once.
 */
#ifndef TESTS_KSFT_H
#define TESTS_KSFT_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define KSFT_PASS 0
#define KSFT_FAIL 1
#define KSFT_SKIP 4

struct ksft_count {
	unsigned int plan, pass, fail, skip;
};

static struct ksft_count ksft_cnt;

#define KSFT_PRINTF(fmt, args) __attribute__((unused, format(printf, fmt, args)))

/* Ends the line unless the caller's text did. */
static inline void __ksft_line(const char *fmt, va_list args)
{
	char text[512];
	int n = vsnprintf(text, sizeof(text), fmt, args);

	if (n > 0 && (size_t)n < sizeof(text) && text[n - 1] == '\n')
		text[n - 1] = '\0';
	puts(text);
}

static inline unsigned int __ksft_number(void)
{
	return ksft_cnt.pass + ksft_cnt.fail + ksft_cnt.skip;
}

static inline void ksft_print_header(void)
{
	/* Line by line: what came before a crash is seen. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("KTAP version 1");
}

static inline void ksft_set_plan(unsigned int plan)
{
	ksft_cnt.plan = plan;
	printf("1..%u\n", plan);
}

KSFT_PRINTF(1, 2) static void ksft_print_msg(const char *fmt, ...)
{
	va_list args;

	fputs("# ", stdout);
	va_start(args, fmt);
	__ksft_line(fmt, args);
	va_end(args);
}

KSFT_PRINTF(2, 3) static bool ksft_test_result(bool ok, const char *fmt, ...)
{
	va_list args;

	if (ok)
		ksft_cnt.pass++;
	else
		ksft_cnt.fail++;
	printf("%s %u ", ok ? "ok" : "not ok", __ksft_number());
	va_start(args, fmt);
	__ksft_line(fmt, args);
	va_end(args);
	return ok;
}

#define ksft_test_result_pass(...) ksft_test_result(true, __VA_ARGS__)
#define ksft_test_result_fail(...) ksft_test_result(false, __VA_ARGS__)

static inline void ksft_test_result_skip(const char *name, const char *reason)
{
	ksft_cnt.skip++;
	printf("ok %u %s # SKIP %s\n", __ksft_number(), name, reason);
}

/* The test's name is the expression; a failure shows both values. */
#define ksft_expect(expr) \
	__ksft_expect(expr, #expr, __FILE__, __LINE__)
#define ksft_expect_eq(a, b) \
	__ksft_expect_eq((uint64_t)(a), (uint64_t)(b), #a " == " #b, \
			 __FILE__, __LINE__)

static inline bool __ksft_expect(bool ok, const char *text, const char *file,
				 int line)
{
	if (!ok)
		ksft_print_msg("%s:%d: this is false:", file, line);
	return ksft_test_result(ok, "%s", text);
}

static inline bool __ksft_expect_eq(uint64_t a, uint64_t b, const char *text,
				    const char *file, int line)
{
	if (a != b)
		ksft_print_msg("%s:%d: %#" PRIx64 " is not %#" PRIx64,
			       file, line, a, b);
	return ksft_test_result(a == b, "%s", text);
}

/* The whole program is skipped. */
static inline void __attribute__((noreturn))
ksft_exit_skip(const char *reason)
{
	printf("1..0 # SKIP %s\n", reason);
	exit(KSFT_SKIP);
}

/* Prints the plan if there was none, the totals, and exits. */
static inline void __attribute__((noreturn)) ksft_finished(void)
{
	unsigned int n = __ksft_number();

	if (!ksft_cnt.plan)
		ksft_set_plan(n);
	printf("# Totals: pass:%u fail:%u skip:%u\n", ksft_cnt.pass,
	       ksft_cnt.fail, ksft_cnt.skip);
	if (ksft_cnt.plan != n)
		printf("# %u tests were planned\n", ksft_cnt.plan);
	if (ksft_cnt.fail || ksft_cnt.plan != n)
		exit(KSFT_FAIL);
	exit(n && ksft_cnt.skip == n ? KSFT_SKIP : KSFT_PASS);
}

#endif
