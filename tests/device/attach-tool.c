// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs the library's attachments without a daemon: each argument is a step.
 *
 *   attach NAME IMAGE[,IMAGE]... [ro|rw] [TIMEOUT] [SNAPSHOT]
 *                        blk_attach() of a chain, the top first, becomes the
 *                        current one; "raw:FILE" is a raw image, and
 *                        "IMAGE+FILE" one with a data file
 *   resize BYTES [shrink]
 *   adopt [NAME]         blk_attach_adopt() of the device (or of all)
 *   detach | abandon | forget
 *   take                 adopts the device, without the library's part of it;
 *                        takes its grants: prints how many runs
 *   grant                gives back what was taken
 *   get                  prints the kernel's state of the current one
 *   wait WHAT            until notified: gone, mode, corrupt, nospace, scanned
 *   sleep MS | sh COMMAND | kill
 *   fails STEP           it must fail; prints "CLASS: MESSAGE; hint: HINT"
 *   try STEP             it may fail; prints the same
 *
 * Exit code: 0, or 1 at the first step that did not do what it should.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/lock.h"
#include "kctl/attach.h"
#include "kctl/dm.h"

#define LAYERS_MAX 64

struct chain {
	struct blk_attach_layer l[LAYERS_MAX];
	size_t n;
};

static struct blk_attachment *cur;
static struct chain images;
static struct blk_genl *genl;
static atomic_uint heard;

static const struct {
	const char *name;
	unsigned int bit;
} news[] = {
	{ "gone", BLK_ATTACH_GONE },
	{ "mode", BLK_ATTACH_MODE },
	{ "corrupt", BLK_ATTACH_CORRUPT },
	{ "nospace", BLK_ATTACH_NOSPACE },
	{ "scanned", BLK_ATTACH_SCANNED },
};

static void notify(void *opaque, unsigned int what)
{
	(void)opaque;
	atomic_fetch_or(&heard, what);
}

static void drop_file(struct blk_file *f, bool unlock)
{
	if (f && unlock)
		blk_unlock_image(f->fd);
	blk_file_close(f);
}

/* Without unlocking what the kernel holds stays locked. */
static void drop_chain(struct chain *c, bool unlock)
{
	size_t i;

	for (i = 0; i < c->n; i++) {
		if (c->l[i].image)
			blk_qcow2_close(c->l[i].image);
		drop_file(c->l[i].file, unlock);
		drop_file(c->l[i].data, unlock);
	}
	memset(c, 0, sizeof(*c));
}

static int open_file(const char *path, bool rw, struct blk_file **f,
		     struct blk_error *e)
{
	int ret = blk_file_open(path, rw ? BLK_FILE_WRITE : 0, f, e);

	return ret ? ret : blk_lock_image((*f)->fd, path, rw, e);
}

static int open_layer(char *text, bool rw, struct blk_attach_layer *l,
		      struct blk_error *e)
{
	bool raw = !strncmp(text, "raw:", 4);
	char *data = strchr(text, '+');
	int ret;

	if (data)
		*data++ = '\0';
	ret = open_file(raw ? text + 4 : text, rw, &l->file, e);
	if (!ret && !raw)
		ret = blk_qcow2_open(l->file, &l->image, e);
	return ret || !data ? ret : open_file(data, rw, &l->data, e);
}

static int open_chain(char *text, bool rw, struct chain *c,
		      struct blk_error *e)
{
	char *save = NULL, *one;
	int ret = 0;

	for (one = strtok_r(text, ",", &save); one && !ret && c->n < LAYERS_MAX;
	     one = strtok_r(NULL, ",", &save)) {
		ret = open_layer(one, rw && !c->n, &c->l[c->n], e);
		c->n++;
	}
	return ret;
}

static int do_attach(char *args, struct blk_error *e)
{
	char name[256] = "", paths[4096] = "", mode[8] = "rw", snap[64] = "";
	struct blk_attachment *a = NULL;
	struct chain c = { .n = 0 };
	int timeout = -1, ret;
	bool rw;

	sscanf(args, "%255s %4095s %7s %d %63s", name, paths, mode, &timeout,
	       snap);
	rw = !strcmp(mode, "rw");
	ret = open_chain(paths, rw, &c, e);
	if (!ret) {
		struct blk_attach_params p = {
			.name = name,
			.label = "{\"test\":1}",
			.layers = c.l,
			.n_layers = c.n,
			.writable = rw,
			.snapshot = *snap ? snap : NULL,
			.no_space_timeout = timeout,
			.notify = notify,
		};

		ret = blk_attach(&p, &a, e);
	}
	if (ret) {
		drop_chain(&c, true);
		return ret;
	}
	cur = a;
	images = c;
	printf("/dev/mapper/%s\n", name);
	return 0;
}

static int do_resize(char *args, struct blk_error *e)
{
	char *end;
	unsigned long long size = strtoull(args, &end, 10);

	return blk_attach_resize(cur, size, strstr(end, "shrink"), e);
}

static int do_adopt(char *args, struct blk_error *e)
{
	struct blk_kdev *list;
	char *label;
	size_t n, i;
	int ret;

	if (!genl) {
		ret = blk_genl_open(&genl, e);
		if (ret)
			return ret;
	}
	ret = blk_genl_list(genl, &list, &n, e);
	if (ret)
		return ret;
	ret = blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT, "nothing to adopt");
	for (i = 0; i < n; i++) {
		if (*args && strcmp(args, list[i].name))
			continue;
		ret = blk_attach_adopt(list[i].dev, notify, NULL, &cur, &label,
				       e);
		if (!ret)
			printf("adopted %s %s\n", list[i].name, label);
		if (!ret)
			free(label);
	}
	free(list);
	return ret;
}

static int do_detach(char *args, struct blk_error *e)
{
	int ret;

	(void)args;
	ret = blk_detach(cur, e);
	if (ret)
		return ret;
	if (e->msg[0])
		printf("warning: %s\n", e->msg);
	cur = NULL;
	drop_chain(&images, true);
	return 0;
}

static int do_abandon(char *args, struct blk_error *e)
{
	(void)args;
	(void)e;
	blk_attach_abandon(cur);
	cur = NULL;
	drop_chain(&images, false);
	return 0;
}

static int do_forget(char *args, struct blk_error *e)
{
	(void)args;
	(void)e;
	blk_attach_forget(cur);
	cur = NULL;
	drop_chain(&images, true);
	return 0;
}

/* What "take" has. */
static struct {
	uint64_t dev, session, seq;
	struct dm_qcow_run runs[DM_QCOW_MAX_RUNS];
	size_t n;
} stock;

static int stock_begin(struct blk_error *e)
{
	struct blk_kdev *list;
	size_t n;
	int ret = genl ? 0 : blk_genl_open(&genl, e);

	if (!ret)
		ret = blk_genl_list(genl, &list, &n, e);
	if (ret)
		return ret;
	stock.dev = n ? list[0].dev : 0;
	free(list);
	return blk_genl_adopt(genl, stock.dev, NULL, &stock.session,
			      &stock.seq, e);
}

static int do_take(char *args, struct blk_error *e)
{
	size_t n, all = 0;
	int ret = stock.session ? 0 : stock_begin(e);

	(void)args;
	for (n = 1; !ret && n && stock.n < DM_QCOW_MAX_RUNS / 2; all += n) {
		ret = blk_genl_take(genl, stock.dev, stock.session,
				    DM_QCOW_TAKE_GRANTS, &stock.runs[stock.n],
				    &n, e);
		stock.n += n;
	}
	if (!ret)
		printf("took %zu\n", all);
	return ret;
}

static int do_grant(char *args, struct blk_error *e)
{
	(void)args;
	return blk_genl_grant(genl, stock.dev, stock.session, ++stock.seq,
			      stock.runs, stock.n, 0, NULL, e);
}

static int do_get(char *args, struct blk_error *e)
{
	struct blk_kdev k;
	int ret = blk_attach_get(cur, &k, e);

	(void)args;
	if (ret)
		return ret;
	printf("name=%s mode=%d state=%#x error=%u granted=%llu zeroed=%llu consumed=%llu freed=%llu parked=%llu seq=%llu label=%s\n",
	       k.name, k.mode, k.state, k.error,
	       (unsigned long long)k.granted, (unsigned long long)k.zeroed,
	       (unsigned long long)k.consumed,
	       (unsigned long long)k.freed, (unsigned long long)k.parked,
	       (unsigned long long)k.seq, k.label);
	return 0;
}

static int do_wait(char *args, struct blk_error *e)
{
	size_t i;
	int ms;

	for (i = 0; i < sizeof(news) / sizeof(news[0]); i++)
		if (!strcmp(args, news[i].name))
			break;
	for (ms = 0; ms < 120000; ms += 10) {
		if (atomic_load(&heard) & news[i].bit) {
			atomic_fetch_and(&heard, ~news[i].bit);
			return 0;
		}
		usleep(10000);
	}
	return blk_error_set(e, BLK_ERR_FAILED, ETIMEDOUT,
			     "no news of \"%s\"", args);
}

static int do_sleep(char *args, struct blk_error *e)
{
	(void)e;
	usleep(atoi(args) * 1000);
	return 0;
}

static int do_sh(char *args, struct blk_error *e)
{
	int rc;

	fflush(stdout);
	rc = system(args);
	return rc ? blk_error_set(e, BLK_ERR_FAILED, EIO, "exit status %#x",
				  rc) : 0;
}

static int do_kill(char *args, struct blk_error *e)
{
	(void)args;
	(void)e;
	fflush(stdout);
	kill(getpid(), SIGKILL);
	return 0;
}

static int step(char *line, struct blk_error *e);

static void print_error(const struct blk_error *e)
{
	printf("%s: %s%s%s\n", blk_error_code(e->cls), e->msg,
	       e->hint[0] ? "; hint: " : "", e->hint);
}

static int do_fails(char *args, struct blk_error *e)
{
	struct blk_error why = { 0 };

	if (!step(args, &why))
		return blk_error_set(e, BLK_ERR_FAILED, EINVAL,
				     "it did not fail: %s", args);
	print_error(&why);
	return 0;
}

static int do_try(char *args, struct blk_error *e)
{
	struct blk_error why = { 0 };

	(void)e;
	if (!step(args, &why))
		printf("done: %s\n", args);
	else
		print_error(&why);
	return 0;
}

static const struct {
	const char *name;
	int (*fn)(char *args, struct blk_error *e);
} verbs[] = {
	{ "attach", do_attach }, { "adopt", do_adopt },
	{ "resize", do_resize },
	{ "detach", do_detach }, { "abandon", do_abandon },
	{ "forget", do_forget }, { "get", do_get }, { "wait", do_wait },
	{ "sleep", do_sleep }, { "sh", do_sh }, { "kill", do_kill },
	{ "take", do_take }, { "grant", do_grant }, { "fails", do_fails },
	{ "try", do_try },
};

static int step(char *line, struct blk_error *e)
{
	size_t n = strcspn(line, " "), i;
	char *args = line[n] ? line + n + 1 : line + n;

	for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (strlen(verbs[i].name) == n &&
		    !strncmp(line, verbs[i].name, n))
			return verbs[i].fn(args, e);
	return blk_error_set(e, BLK_ERR_USAGE, EINVAL, "no such step: %s",
			     line);
}

int main(int argc, char **argv)
{
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 1; i < argc; i++) {
		struct blk_error e = { 0 };

		if (!step(argv[i], &e))
			continue;
		printf("step \"%s\" failed: %s: %s%s%s\n", argv[i],
		       blk_error_code(e.cls), e.msg,
		       e.hint[0] ? "; hint: " : "", e.hint);
		return 1;
	}
	return 0;
}
