// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The power cuts of the crash test: takes a disk as it was at the start, the
 * log of all that was written to it, and the journal of what the guest did,
 * and judges what many power cuts leave.
 *
 * An image that is not directly on the disk is in a file of an ext4 there: that
 * one's journal is replayed and the file taken out, and its data file. An xfs in
 * the image needs a kernel: samples of it go to a guest (attach.sh).
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "states.h"

#define CLUSTER_MAX (UINT64_C(2) << 20)
#define SAMPLES 8

struct check {
	const char *disk_path, *log_path, *journal, *backing_path, *file, *work;
	const char *keep, *fs, *now, *marks_path, *samples, *data_name, *key;
	bool clean, raw;
	uint64_t seed, wanted, qemu;
	struct disk disk, backing, inner, data, pass;
	struct log log;
	struct history *history;
	struct files *files;
	struct image img;
	uint8_t *guest, *snapshots[4], *again;
	uint64_t room;
	size_t marks, checked, compared, failed;
	uint64_t most_leaks;
	char why[400];
};

static const char usage[] =
"usage: check [OPTION]... DISK LOG\n"
"       check --now DISK2 --marks FILE [OPTION]... DISK\n"
"\n"
"Judges the image on DISK after power cuts at places of LOG; or what became\n"
"of it, on DISK2.\n"
"\n"
"  --journal FILE   what the writer did\n"
"  --fs ext4|xfs    the guest's disk has this file system, and no journal\n"
"  --file NAME      the image is in this file of an ext4 on DISK\n"
"  --data NAME      and has this data file there\n"
"  --key FILE       its passphrase, if it is encrypted\n"
"  --backing FILE   raw file below the image\n"
"  --marks FILE     what was acknowledged, a line each\n"
"  --clean          it must have no leaks, and not be in use\n"
"  --states N       power cuts (1000)\n"
"  --seed S         which ones\n"
"  --no-flushes     as if the disk lied about flushes: must find errors\n"
"  --samples DIR    leave a few of the disks there\n"
"  --qemu N         so many of them are judged by qemu-img as well (10)\n"
"  --work DIR       for temporary files (.)\n"
"  --keep DIR       where the disks of failures are left\n";

static bool fail(struct check *c, const char *why)
{
	snprintf(c->why, sizeof(c->why), "%s", why);
	return false;
}

/* --- other programs ------------------------------------------------------------ */

/* The exit code; its output only if it is not among the bits of @fine. */
static int run(const char *command, unsigned int fine)
{
	char line[2400];
	int rc;

	snprintf(line, sizeof(line), "out=$(%s 2>&1); rc=$?; "
		 "[ $((%u >> rc & 1)) = 1 ] || echo \"$out\" | head -n 20; exit $rc",
		 command, fine);
	fflush(stdout);
	rc = system(line);
	return WIFEXITED(rc) ? WEXITSTATUS(rc) : 255;
}

static bool save(const char *path, const uint8_t *data, uint64_t bytes)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	bool fine = fd >= 0;

	for (uint64_t at = 0; at < bytes && fine; at += 65536) {
		uint64_t n = bytes - at < 65536 ? bytes - at : 65536;

		if (!data[at] && !memcmp(data + at, data + at + 1, n - 1))
			continue;
		fine = pwrite(fd, data + at, n, at) == (ssize_t)n;
	}
	fine = fine && !ftruncate(fd, bytes);
	if (fd >= 0)
		close(fd);
	return fine;
}

/* A file may end inside its last cluster. */
static bool pad(struct disk *d)
{
	uint64_t bytes = (d->bytes + CLUSTER_MAX - 1) & ~(CLUSTER_MAX - 1);
	uint8_t *data = realloc(d->data, bytes);

	if (!data)
		return false;
	memset(data + d->bytes, 0, bytes - d->bytes);
	d->data = data;
	d->bytes = bytes;
	return true;
}

/* One file of the file system on the disk */
static bool take_file(struct check *c, const char *name, struct disk *to)
{
	char line[1024];

	snprintf(line, sizeof(line), "debugfs -R 'dump /%s inner' outer", name);
	unlink("inner");
	free(to->data);
	to->data = NULL;
	if (run(line, 1) || disk_load(to, "inner"))
		return fail(c, "a file of the image is not there");
	return pad(to) || fail(c, "out of memory");
}

/* Takes the image out of the file system on the disk. */
static bool take_out(struct check *c)
{
	if (!save("outer", c->disk.data, c->disk.bytes))
		return fail(c, "cannot write a file");
	if (run("e2fsck -E journal_only -y outer", 3) & ~1)
		return fail(c, "the host's file system does not recover");
	return take_file(c, c->file, &c->inner) &&
		(!c->data_name || take_file(c, c->data_name, &c->data));
}

/* qemu-img VERB of the image; the exit code */
static int qemu_img(const struct check *c, const char *verb, const char *to,
		    unsigned int fine)
{
	char line[2048];

	if (c->key)
		snprintf(line, sizeof(line), "qemu-img %s --object secret,id=s,file=%s "
			 "--image-opts driver=qcow2,encrypt.key-secret=s,file.filename=image%s",
			 verb, c->key, to);
	else
		snprintf(line, sizeof(line), "qemu-img %s -f qcow2 image%s", verb, to);
	return run(line, fine);
}

/* qemu-img must find the image sound as well, and the same in it. */
static bool ask_qemu(struct check *c)
{
	unsigned int fine = 1 << 0 | 1 << 3;
	struct disk raw = { 0 };
	char line[1024];
	bool same;
	int rc;

	if (!save("image", c->img.disk, c->img.bytes) ||
	    (c->data_name && !save(c->data_name, c->data.data, c->data.bytes)))
		return fail(c, "cannot write a file");
	snprintf(line, sizeof(line), "rebase -u -F raw -b %s", c->backing_path);
	if (c->backing_path && qemu_img(c, line, "", 1))
		return fail(c, "qemu-img cannot open it");
	if (c->img.dirty && qemu_img(c, "check -q -r all", "", fine | 1 << 1))
		return fail(c, "qemu-img does not repair it");
	rc = qemu_img(c, "check", "", fine);
	if (rc && rc != 3)
		return fail(c, "qemu-img check finds errors");
	if (qemu_img(c, "convert -O raw", " raw", 1) ||
	    disk_load(&raw, "raw"))
		return fail(c, "qemu-img cannot read it");
	same = raw.bytes <= c->room && !memcmp(raw.data, c->guest, raw.bytes);
	disk_free(&raw);
	c->compared++;
	return same || fail(c, "qemu-img reads something else");
}

/* The guest's own file system: its journal is replayed, then it is clean. */
static bool check_fs(struct check *c)
{
	if (!save("guest", c->guest, c->img.size))
		return fail(c, "cannot write a file");
	if (run("e2fsck -E journal_only -y guest", 3) & ~1)
		return fail(c, "the guest's file system does not recover");
	if (run("e2fsck -fn guest", 1))
		return fail(c, "the guest's file system is damaged");
	return files_verify(c->files, "guest", c->marks, c->why, sizeof(c->why));
}

/* --- one power cut ---------------------------------------------------------------- */

static bool open_image(struct check *c)
{
	if (c->file && !take_out(c))
		return false;
	c->img.disk = c->file ? c->inner.data : c->disk.data;
	c->img.bytes = c->file ? c->inner.bytes : c->disk.bytes;
	c->img.data = c->data.data;
	c->img.data_bytes = c->data.bytes;
	c->img.backing = c->backing.data;
	c->img.backing_bytes = c->backing.bytes;
	if (!image_check(&c->img))
		return fail(c, c->img.why);
	if (c->clean && (c->img.leaks || c->img.in_use))
		return fail(c, "it has leaks, or is marked as in use");
	return !c->img.leaks || c->img.in_use || c->img.dirty ||
		fail(c, "there are leaks, and no mark that makes the next user look for them");
}

static bool check_snapshots(struct check *c)
{
	for (uint32_t i = 0; i < 4 && c->snapshots[i]; i++) {
		if (i >= c->img.snapshots)
			return fail(c, "a snapshot is missing");
		if (!image_read(&c->img, i, c->again, c->room))
			return fail(c, c->img.why);
		if (memcmp(c->again, c->snapshots[i], c->room))
			return fail(c, "a snapshot has changed");
	}
	return true;
}

/* A data file that is raw holds by itself what may be there. */
static bool check_raw(struct check *c)
{
	uint64_t n = c->data.bytes < c->room ? c->data.bytes : c->room;
	char why[300];

	if (!c->img.raw)
		return fail(c, "the data file is no raw image any more");
	memcpy(c->again, c->data.data, n);
	memset(c->again + n, 0, c->room - n);
	if (!c->history || history_verify(c->history, c->again, c->img.size, why,
					  sizeof(why)))
		return true;
	snprintf(c->why, sizeof(c->why), "the raw data file: %s", why);
	return false;
}

static bool judge(struct check *c, bool by_qemu)
{
	bool ext4 = c->fs && !strcmp(c->fs, "ext4");

	if (!open_image(c))
		return false;
	if (!image_read(&c->img, -1, c->guest, c->room))
		return fail(c, c->img.why);
	if (c->img.leaks > c->most_leaks)
		c->most_leaks = c->img.leaks;
	if (c->history && !history_verify(c->history, c->guest, c->img.size, c->why,
				      sizeof(c->why)))
		return false;
	return check_snapshots(c) && (!c->raw || check_raw(c)) && (!ext4 || check_fs(c)) &&
		(!by_qemu || ask_qemu(c));
}

static void pass_marks(struct check *c, size_t at)
{
	for (; c->marks < at; c->marks++) {
		const struct entry *e = &c->log.v[c->marks];

		if (!(e->flags & LOG_MARK))
			continue;
		if (c->history)
			history_mark(c->history, (const char *)e->data, e->bytes);
		files_mark(c->files, (const char *)e->data, e->bytes);
	}
}

static void report(struct check *c, const struct cut *cut)
{
	char path[1024];

	c->failed++;
	printf("FAILED: cut at entry %u, %s of what came after the flush, seed %"
	       PRIu64 ": %s\n", cut->at, cut_names[cut->mode], cut->seed, c->why);
	if (!c->keep || c->failed > 3)
		return;
	snprintf(path, sizeof(path), "%s/cut-%u-%s", c->keep, cut->at,
		 cut_names[cut->mode]);
	save(path, c->disk.data, c->disk.bytes);
}

/* The image, with its data file, and the list of what is in its file system */
static void save_sample(struct check *c, size_t nr)
{
	char path[1024], more[1100];
	bool saved;

	snprintf(path, sizeof(path), "%s/cut-%zu", c->samples, nr);
	saved = save(path, c->img.disk, c->img.bytes);
	snprintf(more, sizeof(more), "%s.data", path);
	saved &= !c->data_name || save(more, c->data.data, c->data.bytes);
	snprintf(more, sizeof(more), "%s.files", path);
	saved &= !c->fs || files_save(c->files, more);
	if (!saved && fail(c, "cannot save a sample"))
		report(c, &(struct cut){ .at = nr });
}

static bool run_cuts(struct check *c)
{
	struct rnd rnd = { .state = c->seed };
	size_t n, flushes, every, sample;
	struct cut *cuts = cuts_choose(&c->log, &rnd, c->wanted, &n, &flushes);

	if (!cuts)
		return false;
	every = c->qemu && c->qemu < n ? n / c->qemu : 1;
	sample = n > SAMPLES ? n / SAMPLES : 1;
	for (size_t i = 0; i < n && c->failed < 10; i++) {
		bool by_qemu = c->qemu && i % every == every / 2;

		disk_cut(&c->disk, &c->log, &cuts[i]);
		pass_marks(c, cuts[i].at);
		c->checked++;
		if (!judge(c, by_qemu))
			report(c, &cuts[i]);
		else if (c->samples && i % sample == sample / 2)
			save_sample(c, i);
	}
	free(cuts);
	printf("%zu power cuts in %zu entries with %zu flushes, %zu of them judged by qemu-img, at most %"
	       PRIu64 " leaks, %zu failed\n", c->checked, c->log.n, flushes,
	       c->compared, c->most_leaks, c->failed);
	return !c->failed && c->checked;
}

/* What the disk is now, after all that was acknowledged */
static bool judge_now(struct check *c)
{
	FILE *f = c->marks_path ? fopen(c->marks_path, "r") : NULL;
	size_t marks = 0;
	char line[40];

	while (f && c->history && fgets(line, sizeof(line), f)) {
		history_mark(c->history, line, strcspn(line, "\n"));
		marks++;
	}
	if (f)
		fclose(f);
	free(c->disk.data);
	if (disk_load(&c->disk, c->now))
		fail(c, "it cannot be read");
	else if (judge(c, true)) {
		printf("%zu marks, %" PRIu64 " leaks\n", marks, c->img.leaks);
		return true;
	}
	printf("FAILED, after %zu marks: %s\n", marks, c->why);
	return false;
}

/* --- the start -------------------------------------------------------------------- */

/* The key stays the same: the header of the start has it. */
static bool open_cipher(struct check *c)
{
	uint64_t bytes = c->img.luks_bytes + CLUSTER_MAX;

	if (!c->key || !c->img.luks_bytes)
		return !c->key == !c->img.luks_bytes || fail(c, "a key, or encryption, and not both");
	/* it says of itself how much is behind it */
	if (bytes > c->img.bytes - c->img.luks_at)
		bytes = c->img.bytes - c->img.luks_at;
	if (disk_load(&c->pass, c->key) ||
	    !save("luks", c->img.disk + c->img.luks_at, bytes))
		return fail(c, "the key cannot be read");
	c->img.cipher = cipher_open("luks", (char *)c->pass.data, c->pass.bytes);
	return c->img.cipher || fail(c, "the key does not open it");
}

/* The image as it was before the first entry */
static bool read_start(struct check *c)
{
	uint64_t bytes;
	uint8_t *initial;

	if (!open_image(c) || !open_cipher(c)) {
		printf("at the start: %s\n", c->why);
		return false;
	}
	bytes = c->img.size;
	c->raw = c->img.raw;
	initial = malloc(bytes);
	if (!initial || !image_read(&c->img, -1, initial, bytes))
		return false;
	c->room = bytes;
	if (c->journal) {
		c->history = history_open(c->journal, initial, bytes);
		if (!c->history)
			return false;
		c->room = history_room(c->history);
	}
	c->files = files_new();
	c->guest = malloc(c->room);
	c->again = malloc(c->room);
	for (uint32_t i = 0; i < c->img.snapshots && i < 4; i++) {
		c->snapshots[i] = malloc(c->room);
		if (!c->snapshots[i] ||
		    !image_read(&c->img, i, c->snapshots[i], c->room))
			return false;
	}
	return c->guest && c->again && c->files;
}

static bool parse(struct check *c, int argc, char **argv)
{
	static const struct option table[] = {
		{ "journal", required_argument, NULL, 'j' },
		{ "fs", required_argument, NULL, 'f' },
		{ "file", required_argument, NULL, 'F' },
		{ "data", required_argument, NULL, 'd' },
		{ "key", required_argument, NULL, 'K' },
		{ "backing", required_argument, NULL, 'b' },
		{ "states", required_argument, NULL, 'n' },
		{ "seed", required_argument, NULL, 's' },
		{ "no-flushes", no_argument, NULL, 'l' },
		{ "qemu", required_argument, NULL, 'q' },
		{ "work", required_argument, NULL, 'w' },
		{ "keep", required_argument, NULL, 'k' },
		{ "now", required_argument, NULL, 'N' },
		{ "samples", required_argument, NULL, 'S' },
		{ "marks", required_argument, NULL, 'm' },
		{ "clean", no_argument, NULL, 'c' },
		{ }
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", table, NULL)) != -1) {
		switch (opt) {
		case 'j': c->journal = optarg; break;
		case 'f': c->fs = optarg; break;
		case 'F': c->file = optarg; break;
		case 'd': c->data_name = optarg; break;
		case 'K': c->key = optarg; break;
		case 'b': c->backing_path = optarg; break;
		case 'n': c->wanted = strtoull(optarg, NULL, 0); break;
		case 's': c->seed = strtoull(optarg, NULL, 0); break;
		case 'l': c->disk.lies = true; break;
		case 'q': c->qemu = strtoull(optarg, NULL, 0); break;
		case 'w': c->work = optarg; break;
		case 'k': c->keep = optarg; break;
		case 'N': c->now = optarg; break;
		case 'S': c->samples = optarg; break;
		case 'm': c->marks_path = optarg; break;
		case 'c': c->clean = true; break;
		default: return false;
		}
	}
	if (optind + (c->now ? 1 : 2) != argc || !c->wanted)
		return false;
	c->disk_path = argv[optind];
	c->log_path = argv[optind + 1];
	return true;
}

int main(int argc, char **argv)
{
	static struct check c = { .wanted = 1000, .seed = 1, .qemu = 10,
				  .work = "." };
	bool clean;

	if (!parse(&c, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	if (disk_load(&c.disk, c.disk_path) ||
	    (!c.now && log_open(&c.log, c.log_path)) ||
	    (c.backing_path && disk_load(&c.backing, c.backing_path)) ||
	    chdir(c.work)) {
		fprintf(stderr, "check: cannot read what is to be judged\n");
		return 2;
	}
	clean = c.clean;
	c.clean = false;
	if (!read_start(&c))
		return 1;
	c.clean = clean;
	return (c.now ? judge_now(&c) : run_cuts(&c)) ? 0 : 1;
}
