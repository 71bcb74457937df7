// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image create: a new, empty image.
 *
 * Owns the order: everything is checked before the file is touched; an image
 * that somebody uses is left alone; a file that was made here goes again when
 * this fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/fs.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "fmt/qcow2_create.h"
#include "image/create.h"
#include "image/meta.h"
#include "io/lock.h"

struct create_args {
	const char *file;
	const char *size;
	const char *backing;
	const char *backing_format;
	bool unsafe;
	struct opt_list options;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct create_args, field)

static const struct opt create_opts[] = {
	{ OPT_ARG_MAYBE, 0, "FILE", NULL, "the image to be made",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	{ OPT_ARG_MAYBE, 0, "SIZE", NULL,
	  "of the disk; K, M, G, T after the number; default: that of the backing file",
	  ARG(size) },
	IMAGE_OPT_FORMAT(struct create_args, common),
	{ OPT_LIST, 'o', "options", "KEY=VALUE,...",
	  "what the format offers; -o help lists it", ARG(options) },
	{ OPT_STRING, 'b', "backing", "FILE", "the image below",
	  .complete = OPT_COMPLETE_FILE, ARG(backing) },
	{ OPT_STRING, 'F', "backing-format", "FORMAT", "its format",
	  .words = IMAGE_FORMATS, ARG(backing_format) },
	{ OPT_FLAG, 'u', "backing-unsafe", NULL,
	  "do not look at the image below", ARG(unsafe) },
	IMAGE_OPT_OBJECT(struct create_args, common),
	IMAGE_OPT_QUIET(struct create_args, common),
	IMAGE_OPT_OUTPUT(struct create_args, common),
	{}
};

/*
 * What it shall be
 */

/* The key's length in @alg "aes-256", and the cipher's name before the dash */
static size_t cipher_of(const char *alg, char *name, size_t room)
{
	const char *dash = strchr(alg, '-');

	if (!dash || (size_t)(dash - alg) >= room)
		return 0;
	memcpy(name, alg, dash - alg);
	name[dash - alg] = '\0';
	return strtoul(dash + 1, NULL, 10) / 8;
}

/* "xts" and "plain64" or "essiv": device-mapper's "xts-plain64" */
static void mode_name(const json_t *o, const char *mode, char *out,
		      size_t room)
{
	const char *iv = image_key_str(o, "encrypt.ivgen-alg");
	const char *hash = image_key_str(o, "encrypt.ivgen-hash-alg");

	if (!iv)
		iv = "plain64";
	if (!hash)
		hash = "sha256";
	snprintf(out, room, "%s-%s%s%s", mode, iv,
		 strcmp(iv, "essiv") ? "" : ":",
		 strcmp(iv, "essiv") ? "" : hash);
}

static int find_secret(const struct image_run *r, const json_t *o,
		       struct blk_luks_new *luks, struct blk_error *e)
{
	const char *id = image_key_str(o, "encrypt.key-secret");
	const struct blk_secret *s = id && r->secrets ?
		blk_secrets_find(r->secrets, id) : NULL;

	if (s) {
		luks->passphrase = s->data;
		luks->passphrase_len = s->len;
		return 0;
	}
	blk_error_set(e, BLK_ERR_USAGE, EINVAL, id ?
		      "there is no secret '%s'" :
		      "an encrypted image needs a passphrase%s",
		      id ? id : "");
	blk_error_hint(e, "--object secret,id=s,file=FILE -o encrypt.key-secret=s");
	return -EINVAL;
}

static int parse_luks(const struct image_run *r, const json_t *o,
		      struct image_new *n, struct blk_error *e)
{
	const char *alg = image_key_str(o, "encrypt.cipher-alg");
	const char *mode = image_key_str(o, "encrypt.cipher-mode");
	const char *hash = image_key_str(o, "encrypt.hash-alg");
	const char *time = image_key_str(o, "encrypt.iter-time");

	if (!alg)
		alg = "aes-256";
	if (!mode)
		mode = "xts";
	n->luks.key_bytes = cipher_of(alg, n->cipher, sizeof(n->cipher));
	if (!n->luks.key_bytes)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "'%s' is no cipher: aes-256, aes-192, aes-128, serpent-256, twofish-256, ...",
				     alg);
	if (!strcmp(mode, "xts"))
		n->luks.key_bytes *= 2;
	mode_name(o, mode, n->mode, sizeof(n->mode));
	n->luks.cipher = n->cipher;
	n->luks.mode = n->mode;
	n->luks.hash = hash ? hash : "sha256";
	n->luks.iter_ms = time ? (unsigned int)strtoul(time, NULL, 10) : 0;
	n->q.luks = &n->luks;
	return find_secret(r, o, &n->luks, e);
}

static int parse_qcow2(const struct image_run *r, const json_t *o,
		       struct image_new *n, struct blk_error *e)
{
	const char *compat = image_key_str(o, "compat");
	const char *bits = image_key_str(o, "refcount_bits");
	const char *zip = image_key_str(o, "compression_type");
	const char *encrypt = image_key_str(o, "encrypt.format");
	uint64_t cs = image_key_size(o, "cluster_size", 64 << 10);

	n->q.version = compat && (!strcmp(compat, "0.10") ||
				  !strcmp(compat, "v2")) ? 2 : 3;
	n->q.cluster_size = cs > UINT32_MAX ? UINT32_MAX : (uint32_t)cs;
	if (bits)
		n->q.refcount_bits = (unsigned int)strtoul(bits, NULL, 10);
	n->q.zstd = zip && !strcmp(zip, "zstd");
	n->q.extended_l2 = image_key_bool(o, "extended_l2", false);
	n->q.lazy_refcounts = image_key_bool(o, "lazy_refcounts", false);
	n->q.data_file = image_key_str(o, "data_file");
	n->q.data_raw = image_key_bool(o, "data_file_raw", false);
	if (!encrypt && image_key_str(o, "encrypt.key-secret"))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "encrypt.key-secret is for encrypt.format=luks");
	return encrypt ? parse_luks(r, o, n, e) : 0;
}

int image_new_parse(const struct image_run *r, const char *format,
		    const json_t *o, struct image_new *n, struct blk_error *e)
{
	memset(n, 0, sizeof(*n));
	blk_qcow2_new_init(&n->q);
	n->raw = strcmp(format, "qcow2");
	n->prealloc = image_prealloc(image_key_str(o, "preallocation"));
	n->nocow = image_key_bool(o, "nocow", false);
	n->q.backing_file = image_key_str(o, "backing_file");
	n->q.backing_format = image_key_str(o, "backing_fmt");
	return n->raw ? 0 : parse_qcow2(r, o, n, e);
}

/* "512 bytes" is what a disk is made of; as QEMU does, up. */
void image_new_size(struct image_new *n, uint64_t size)
{
	n->q.size = n->raw ? size : blk_align_up(size, 512);
}

int image_new_check(const struct image_new *n, struct blk_error *e)
{
	if (n->raw)
		return 0;
	if (n->q.backing_file && n->prealloc != BLK_PREALLOC_OFF &&
	    !n->q.extended_l2)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "preallocated clusters would hide the backing file: not without extended_l2=on");
	return blk_qcow2_new_check(&n->q, e);
}

/*
 * Making it
 */

static int no_file(const char *path, int err, struct blk_error *e)
{
	return blk_error_set(e, err == ENOENT ? BLK_ERR_NOT_FOUND :
			     BLK_ERR_FAILED, err, "cannot create '%s': %s",
			     path, strerror(err));
}

/* Open, locked, and empty */
static int make_file(const char *path, struct blk_file **out,
		     struct blk_error *e)
{
	bool is_new = true;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
	int ret;

	*out = NULL;
	if (fd < 0 && errno == EEXIST) {
		is_new = false;
		fd = open(path, O_RDWR | O_CLOEXEC);
	}
	if (fd < 0)
		return no_file(path, errno, e);
	close(fd);
	if (is_new)
		image_target_add(path);
	ret = blk_file_open(path, BLK_FILE_WRITE | BLK_FILE_BUFFERED_OK, out,
			    e);
	if (!ret)
		ret = blk_lock_offline((*out)->fd, path, true, e);
	if (!ret && !(*out)->is_bdev) {
		ret = blk_file_truncate(*out, 0);
		ret = ret ? no_file(path, -ret, e) : 0;
	}
	if (ret) {
		blk_file_close(*out);
		*out = NULL;
	}
	return ret;
}

/* Only while it is empty; who does not know the flag does not need it. */
static void set_nocow(int fd)
{
	int flags;

	if (!ioctl(fd, FS_IOC_GETFLAGS, &flags)) {
		flags |= FS_NOCOW_FL;
		ioctl(fd, FS_IOC_SETFLAGS, &flags);
	}
}

/* Whose disk may it be?  One that is empty is nobody's. */
static int check_data(const char *path, struct blk_error *e)
{
	struct stat st;

	if (stat(path, &st) || !S_ISREG(st.st_mode) || !st.st_size)
		return 0;
	blk_error_set(e, BLK_ERR_FAILED, EEXIST,
		      "the data file '%s' is there and not empty: what is in it would be lost",
		      path);
	blk_error_hint(e, "remove it first, or give another name");
	return -EEXIST;
}

/* It stays open, and locked: the image cannot be the same file then. */
static int make_data(const char *path, const struct image_new *n,
		     struct blk_file **f, struct blk_error *e)
{
	char *data blk_auto_free = image_beside(path, n->q.data_file);
	int ret;

	if (!data)
		return no_file(path, ENOMEM, e);
	ret = check_data(data, e);
	if (!ret)
		ret = make_file(data, f, e);
	return ret ? ret : image_resize_file(*f, n->q.size, n->prealloc, e);
}

static int preallocate(struct blk_file *f, const struct image_new *n,
		       struct blk_error *e)
{
	struct blk_qcow2 *q;
	int ret = blk_qcow2_open(f, &q, e);

	if (ret)
		return ret;
	ret = blk_qcow2_preallocate(q, 0, n->q.size, n->q.backing_file,
				    n->prealloc, e);
	blk_qcow2_close(q);
	return ret;
}

int image_new_make(const char *path, const struct image_new *n,
		   struct blk_error *e)
{
	struct blk_file *f = NULL, *data = NULL;
	int ret = !n->raw && n->q.data_file ? make_data(path, n, &data, e) : 0;

	if (!ret)
		ret = make_file(path, &f, e);
	if (!ret && n->nocow)
		set_nocow(f->fd);
	if (!ret && n->raw)
		ret = image_resize_file(f, n->q.size, n->prealloc, e);
	if (!ret && !n->raw)
		ret = blk_qcow2_create(f, &n->q, e);
	if (!ret && !n->raw && n->prealloc != BLK_PREALLOC_OFF)
		ret = preallocate(f, n, e);
	blk_file_close(data);
	blk_file_close(f);
	return ret;
}

/*
 * The verb
 */

/* -b and -F are other words for two options. */
static int merge(json_t *o, const char *key, const char *value,
		 struct blk_error *e)
{
	const char *is = image_key_str(o, key);

	if (!value)
		return 0;
	if (is && strcmp(is, value))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "%s is given twice: '%s' and '%s'", key,
				     is, value);
	json_object_set_new(o, key, json_string(value));
	return 0;
}

static int check_backing(const struct create_args *a,
			 const struct image_new *n, struct blk_error *e)
{
	if (!n->q.backing_file) {
		if (!n->q.backing_format && !a->unsafe)
			return 0;
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "there is no backing file: -b FILE");
	}
	if (n->raw)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "raw images have no backing file: -f qcow2");
	if (n->q.backing_format)
		return 0;
	blk_error_set(e, BLK_ERR_USAGE, EINVAL,
		      "the format of the backing file '%s' is not given: it is never guessed",
		      n->q.backing_file);
	blk_error_hint(e, "-F qcow2 or -F raw");
	return -EINVAL;
}

/* Is the new image one of those below it?  That would be its end. */
static int check_chain(const struct image_run *r, const char *path,
		       const struct image_new *n, struct blk_error *e)
{
	char *name blk_auto_free = image_beside(path, n->q.backing_file);
	char *format blk_auto_free = strdup(n->q.backing_format);
	struct stat target, st;
	struct meta m;
	int ret = 0;

	if (stat(path, &target))
		return 0;	/* a new file is in no chain */
	for (int i = 0; !ret && name && i < DM_QCOW_MAX_LAYERS; i++) {
		if (stat(name, &st))
			return 0;	/* with -u it need not be there */
		if (st.st_dev == target.st_dev && st.st_ino == target.st_ino)
			return blk_error_set(e, BLK_ERR_USAGE, ELOOP,
					     "'%s' is to be below itself: what is in it would be lost",
					     path);
		ret = meta_open_below(r, name, format, &m, e);
		if (!ret)
			ret = meta_close(&m, meta_step_down(&m, &name,
							    &format, e), e);
	}
	return ret;
}

static int size_below(const struct create_args *a, const struct image_new *n,
		      uint64_t *size, struct blk_error *e)
{
	char *path blk_auto_free = image_beside(a->file, n->q.backing_file);
	int ret;

	if (!path)
		return no_file(a->file, ENOMEM, e);
	ret = meta_file_size(path, n->q.backing_format, size, e);
	if (ret)
		blk_error_prefix(e, "the backing file");
	return ret;
}

static int find_size(const struct create_args *a, const json_t *o,
		     struct image_new *n, struct blk_error *e)
{
	bool given = a->size || image_key_str(o, "size");
	uint64_t size = image_key_size(o, "size", 0), below = 0;
	int ret = 0;

	if (a->size)
		ret = size_parse(a->size, &size, e);
	if (!ret && n->q.backing_file && !a->unsafe)
		ret = size_below(a, n, &below, e);
	if (ret)
		return ret;
	if (!given && !(n->q.backing_file && !a->unsafe)) {
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "how large is the disk to be?");
		blk_error_hint(e, "blkctl image create -f qcow2 disk.qcow2 20G");
		return -EINVAL;
	}
	image_new_size(n, given ? size : below);
	return 0;
}

static void say(const struct image_run *r, const struct create_args *a,
		const char *format, const struct image_new *n)
{
	if (r->cli->json) {
		out_document(r->cli, "image",
			     json_pack("{s:s, s:s, s:I}", "filename", a->file,
				       "format", format, "virtual-size",
				       (json_int_t)n->q.size));
		return;
	}
	image_say(r, "Formatting '%s', fmt=%s size=%" PRIu64, a->file, format,
		  n->q.size);
	if (n->q.backing_file)
		image_say(r, " backing_file=%s backing_fmt=%s",
			  n->q.backing_file, n->q.backing_format);
	if (!n->raw)
		image_say(r, " cluster_size=%u extended_l2=%s compression_type=%s lazy_refcounts=%s refcount_bits=%u",
			  n->q.cluster_size, n->q.extended_l2 ? "on" : "off",
			  n->q.zstd ? "zstd" : "zlib",
			  n->q.lazy_refcounts ? "on" : "off",
			  n->q.refcount_bits);
	image_say(r, "\n");
}

static int work(struct image_run *r, const struct create_args *a,
		struct blk_error *e)
{
	const char *format = a->common.format ? a->common.format : "raw";
	json_auto_t *o = NULL;
	struct image_new n;
	int ret = image_keys(&a->options, image_format_keys(format), format,
			     &o, e);

	if (!ret)
		ret = merge(o, "backing_file", a->backing, e);
	if (!ret)
		ret = merge(o, "backing_fmt", a->backing_format, e);
	if (!ret)
		ret = image_new_parse(r, format, o, &n, e);
	if (!ret)
		ret = check_backing(a, &n, e);
	if (!ret)
		ret = find_size(a, o, &n, e);
	if (!ret)
		ret = image_new_check(&n, e);
	if (!ret && n.q.backing_file)
		ret = check_chain(r, a->file, &n, e);
	if (!ret)
		ret = image_new_make(a->file, &n, e);
	if (!ret)
		say(r, a, format, &n);
	return ret;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct create_args *a = args;
	struct image_run r;
	int ret;

	if (image_keys_help(&a->options, image_format_keys(a->common.format)))
		return 0;
	if (!a->file)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "argument FILE is missing");
	ret = image_begin(cli, &a->common, &r, e);
	if (!ret)
		ret = work(&r, a, e);
	return image_end(&r, ret, e);
}

const struct verb verb_image_create = {
	.name = "create",
	.of = "image",
	.qemu_codes = true,
	.summary = "make a new, empty image",
	.opts = create_opts,
	.args_size = sizeof(struct create_args),
	.run = run,
};
