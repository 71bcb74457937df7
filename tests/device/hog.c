// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Takes memory.
 *
 *   hog lock MIB		until so much is left, and holds it; says "ready"
 *   hog use MIB SECONDS	writes and reads so much of it, in random order,
 *				and fails if any of it changes
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static long available_mib(void)
{
	FILE *f = fopen("/proc/meminfo", "r");
	char line[128];
	long kib = -1;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib / 1024;
}

static void *map(size_t bytes, int flags)
{
	return mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
}

static int lock(long left)
{
	while (available_mib() > left) {
		void *p = map(1 << 20, 0);

		if (p == MAP_FAILED || mlock(p, 1 << 20))
			return 1;
		memset(p, 0x5a, 1 << 20);
	}
	printf("ready\n");
	fflush(stdout);
	pause();
	return 0;
}

static int use(size_t mib, int seconds)
{
	size_t pages = mib << 8, n;
	uint32_t *gen = calloc(pages, sizeof(*gen));
	char *p = map(pages * PAGE, MAP_NORESERVE);
	time_t end = time(NULL) + seconds;
	unsigned long done = 0;
	uint64_t *at;

	if (!gen || p == MAP_FAILED)
		return 1;
	srandom(getpid());
	for (n = 0; n < pages || time(NULL) < end; n++) {
		size_t i = n < pages ? n : (size_t)random() % pages;

		at = (uint64_t *)(p + i * PAGE);
		if (gen[i] && (at[0] != i || at[511] != gen[i])) {
			printf("page %zu has changed\n", i);
			return 1;
		}
		at[0] = i;
		at[511] = ++gen[i];
		done++;
	}
	printf("%lu pages written\n", done);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "lock"))
		return lock(atol(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "use"))
		return use(atol(argv[2]), atoi(argv[3]));
	return 2;
}
