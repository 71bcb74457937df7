/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the verbs of "blkctl image" share: work on images that are not
 * attached, without a daemon and without root.
 *
 * A verb's arguments have a struct image_common, its table the rows IMAGE_OPT_*
 * that make sense for it, and its run() is
 *
 *	struct image_run r;
 *	int rc = image_begin(cli, &a->common, &r, e);
 *
 *	if (!rc)
 *		rc = work(&r, a, e);
 *	return image_end(&r, rc, e);
 */
#ifndef BLKCTL_IMAGE_IMAGE_H
#define BLKCTL_IMAGE_IMAGE_H

#include <stdatomic.h>
#include <stdint.h>

#include "cli.h"
#include "graph/secret.h"
#include "img/image.h"
#include "out.h"
#include "size.h"

extern const struct verb verb_image_info;
extern const struct verb verb_image_map;
extern const struct verb verb_image_measure;

/*
 * Options that many verbs have (common.c)
 */

struct image_common {
	const char *format;
	const char *cache;
	const char *source_cache;
	const char *output;
	const char *progress;	/* "": on the terminal; "json:FD" */
	struct opt_list objects;
	bool image_opts;
	bool quiet;
	bool share;
};

#define IMAGE_FORMATS "qcow2 raw"
#define IMAGE_CACHES "none writeback unsafe directsync writethrough"

/* @m: the struct image_common in @type */
#define IMAGE_OPT_FORMAT(type, m)					\
	{ OPT_STRING, 'f', "format", "FORMAT", "format of the image",	\
	  .words = IMAGE_FORMATS, .offset = offsetof(type, m.format) }
#define IMAGE_OPT_IMAGE_OPTS(type, m)					\
	{ OPT_FLAG, 0, "image-opts", NULL,				\
	  "images are node options: driver=qcow2,file.filename=...",	\
	  .offset = offsetof(type, m.image_opts) }
#define IMAGE_OPT_OBJECT(type, m)					\
	{ OPT_LIST, 0, "object", "OBJECT",				\
	  "a passphrase: secret,id=ID,file=FILE or secret,id=ID,data=TEXT", \
	  .offset = offsetof(type, m.objects) }
#define IMAGE_OPT_QUIET(type, m)					\
	{ OPT_FLAG, 'q', "quiet", NULL, "print nothing but errors",	\
	  .offset = offsetof(type, m.quiet) }
#define IMAGE_OPT_SHARE(type, m)					\
	{ OPT_FLAG, 'U', "force-share", NULL,				\
	  "read it although somebody may be writing to it",		\
	  .offset = offsetof(type, m.share) }
#define IMAGE_OPT_PROGRESS(type, m)					\
	{ OPT_STRING, 'p', "progress", "json:FD",			\
	  "print how far it is; as lines of JSON to a descriptor",	\
	  .maybe = true, .offset = offsetof(type, m.progress) }
#define IMAGE_OPT_CACHE(type, m)					\
	{ OPT_STRING, 't', "cache", "MODE", "cache mode of the image written", \
	  .words = IMAGE_CACHES, .offset = offsetof(type, m.cache) }
#define IMAGE_OPT_SOURCE_CACHE(type, m)					\
	{ OPT_STRING, 'T', "source-cache", "MODE",			\
	  "cache mode of images that are only read",			\
	  .words = IMAGE_CACHES, .offset = offsetof(type, m.source_cache) }
#define IMAGE_OPT_OUTPUT(type, m)					\
	{ OPT_STRING, 0, "output", "HOW", "json is the same as --json",	\
	  .words = "human json", .offset = offsetof(type, m.output) }

struct image_progress {
	atomic_uint_fast64_t done;
	uint64_t total;
	atomic_int_fast64_t last;	/* when something was printed */
	int fd;				/* of JSON, or -1 */
	bool wanted;
	bool on_stderr;
};

/* One run of a verb. */
struct image_run {
	struct cli *cli;
	const struct image_common *common;
	struct blk_secrets *secrets;
	struct image_progress progress;
};

/*
 * Begins: --output, the secrets of --object, progress, signals.  On failure too
 * image_end() is to be called, which frees, removes half-made targets if @rc
 * is not 0, and returns @rc.
 */
int image_begin(struct cli *cli, const struct image_common *c,
		struct image_run *r, struct blk_error *e);
int image_end(struct image_run *r, int rc, struct blk_error *e);

/* BLK_IMG_* of a cache mode; NULL: @preset.  Class USAGE never: see .words */
unsigned int image_cache_flags(const char *mode, const char *preset);
/* Is every write to be durable by itself (directsync, writethrough)? */
bool image_cache_through(const char *mode);
/* BLK_IMG_* of -U, -t */
unsigned int image_flags(const struct image_run *r, bool write);

/*
 * @name of the command line, by --image-opts, -U, --object; "-": what comes
 * from standard input, to be read.
 */
int image_open_as(struct image_run *r, const char *name, const char *format,
		  unsigned int flags, struct blk_img **out,
		  struct blk_error *e);
/* By -f, too */
static inline int image_open(struct image_run *r, const char *name,
			     unsigned int flags, struct blk_img **out,
			     struct blk_error *e)
{
	return image_open_as(r, name, r->common->format, flags, out, e);
}

/* For people: not with -q, not with --json */
void image_say(const struct image_run *r, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
bool image_is_human(const struct image_run *r);

/*
 * "key=value,key=value" (keyval.c)
 */

/**
 * image_keyval - one string, as QEMU has it: ",," is a comma within a value, a
 *                key alone is "on", later ones win
 * @implied: the key of a first word without "="; or NULL
 * @into: an object of strings, which is added to
 */
int image_keyval(const char *text, const char *implied, json_t *into,
		 struct blk_error *e);

/**
 * struct image_key - a key of -o
 * @words: the only values, or NULL; "on off" for a switch
 * @size: the value is a size: "64k"
 */
struct image_key {
	const char *name;
	const char *help;
	const char *words;
	bool size;
};

/**
 * image_keys - all of -o
 * @keys: those allowed, ended by a row without a name
 * @what: for messages: "qcow2"
 * @out: an object of strings, to be freed; sizes and words are checked
 */
int image_keys(const struct opt_list *o, const struct image_key *keys,
	       const char *what, json_t **out, struct blk_error *e);
/* Are these strings what @keys allows?  Switches become "on" and "off". */
int image_keys_check(json_t *o, const struct image_key *keys,
		     const char *what, struct blk_error *e);
/* Is "-o help" or "-o ?" among them?  Then the keys have been printed. */
bool image_keys_help(const struct opt_list *o, const struct image_key *keys);

/* Values of what image_keys() made, @preset where there is none */
const char *image_key_str(const json_t *o, const char *name);	/* or NULL */
bool image_key_bool(const json_t *o, const char *name, bool preset);
uint64_t image_key_size(const json_t *o, const char *name, uint64_t preset);

/* Those that create, convert, measure and dd have (options.c) */
extern const struct image_key image_qcow2_keys[], image_raw_keys[];
const struct image_key *image_format_keys(const char *format);

/*
 * How far it is (progress.c).  Any thread; cheap.
 */

int image_progress_init(struct image_run *r, struct blk_error *e);
/* @total: in any unit */
void image_progress_start(struct image_run *r, uint64_t total);
void image_progress_add(struct image_run *r, uint64_t n);
/* All of it is done: a last line. */
void image_progress_end(struct image_run *r);

/*
 * -r (rate.c)
 */

/**
 * struct image_rate - how much was moved
 * @rate: bytes a second, 0: no limit
 * @began: when, ns
 */
struct image_rate {
	uint64_t rate;
	int64_t began;
	atomic_uint_fast64_t moved;
};

/* @rate: as the user says it; NULL: no limit */
int image_rate_start(struct image_rate *l, const char *rate,
		     struct blk_error *e);
/*
 * @n bytes more were moved: sleeps if that was too fast.  Any thread.  -EINTR
 * when the end is asked for, also without a limit
 */
int image_rate_wait(struct image_rate *l, uint64_t n, struct blk_error *e);

/*
 * Standard input and output as images (stream.c)
 */

#define IMAGE_STDIN_NAME 32

/* Is it "-"?  A file of that name is "./-". */
bool image_is_stream(const char *name);
/*
 * The name of a file that has what comes from standard input, until the
 * program ends; once only.
 */
int image_stdin(char name[IMAGE_STDIN_NAME], struct blk_error *e);
/*
 * A descriptor for the disk; what is printed from now on goes to standard
 * error.  Refused on a terminal and with --json.
 */
int image_stdout(const struct image_run *r, int *fd, struct blk_error *e);
/* Bytes of the disk to that descriptor; @rate may be NULL. */
int image_stdout_write(struct image_run *r, int fd, struct blk_img *src,
		       uint64_t off, uint64_t len, struct image_rate *rate,
		       struct blk_error *e);

/*
 * Signals (interrupt.c): SIGINT and SIGTERM ask for an end, SIGUSR1 for a line
 * of progress.  A second SIGINT ends the program where it stands, half-made
 * targets removed.
 */

void image_signals(void);
/* Is the end asked for?  -EINTR with @e set; a verb stops when it can. */
int image_interrupted(struct blk_error *e);
/* The signal, or 0 */
int image_signal(void);
bool image_progress_asked(void);	/* and not yet answered */

/*
 * A file that this run has made, to be removed if it fails.  @path is copied.
 * To be called after it was made, by an open() with O_EXCL or O_TRUNC.
 */
void image_target_add(const char *path);
void image_targets_remove(void);
void image_targets_keep(void);

/* The verbs (image.c) */
extern const struct verb verb_image_amend;
extern const struct verb verb_image_bench;
extern const struct verb verb_image_bitmap;
extern const struct verb verb_image_check;
extern const struct verb verb_image_commit;
extern const struct verb verb_image_compact;
extern const struct verb verb_image_compare;
extern const struct verb verb_image_rebase;
extern const struct verb verb_image_convert;
extern const struct verb verb_image_create;
extern const struct verb verb_image_dd;
extern const struct verb verb_image_resize;
extern const struct verb verb_image_snapshot;

#endif
