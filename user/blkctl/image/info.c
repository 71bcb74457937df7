// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image info: what an image is, and what is below it.
 *
 * Owns the objects, whose keys are qemu-img's, and how they look to people.
 * Must not: need more than the header, the snapshot table and the bitmap
 * directory: no key, no data file.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/be.h"
#include "base/cleanup.h"
#include "image/held.h"
#include "image/image.h"
#include "image/luks.h"
#include "image/meta.h"

#define CHAIN_MAX 256

struct info_args {
	const char *file;
	const char *graph;
	bool chain;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct info_args, field)

static const struct opt info_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	IMAGE_OPT_FORMAT(struct info_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct info_args, common),
	IMAGE_OPT_OBJECT(struct info_args, common),
	{ OPT_FLAG, 0, "backing-chain", NULL, "of all images below too",
	  ARG(chain) },
	{ OPT_STRING, 0, "graph", "HOW", "draw the images instead",
	  .words = "tree dot", ARG(graph) },
	IMAGE_OPT_SHARE(struct info_args, common),
	IMAGE_OPT_OUTPUT(struct info_args, common),
	{}
};

/*
 * Gathering
 */

static json_t *one_snapshot(const struct blk_qcow2_snapshot *s)
{
	json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}",
			      "id", s->id, "name", s->name, "vm-state-size",
			      (json_int_t)s->vm_state_size, "date-sec",
			      (json_int_t)s->date_sec, "date-nsec",
			      (json_int_t)s->date_nsec, "vm-clock-sec",
			      (json_int_t)(s->vm_clock_nsec / 1000000000),
			      "vm-clock-nsec",
			      (json_int_t)(s->vm_clock_nsec % 1000000000));

	if (o && s->icount != UINT64_MAX)
		json_object_set_new(o, "icount",
				    json_integer((json_int_t)s->icount));
	/* names that are no text are shown as far as they are */
	return o ? o : json_pack("{s:s, s:s}", "id", "?", "name", "?");
}

static int add_snapshots(struct blk_qcow2 *q, json_t *o, struct blk_error *e)
{
	struct blk_qcow2_snapshot *s;
	json_t *list;
	size_t n;
	int ret = blk_qcow2_snapshots_list(q, &s, &n, e);

	if (ret || !n)
		return ret;
	list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, one_snapshot(&s[i]));
	json_object_set_new(o, "snapshots", list);
	blk_qcow2_snapshots_free(s, n);
	return 0;
}

static int add_bitmaps(struct blk_qcow2 *q, json_t *data, struct blk_error *e)
{
	json_t *list;
	int ret = image_bitmaps(q, &list, e);

	if (ret < 0)
		return ret;
	if (json_array_size(list))
		json_object_set(data, "bitmaps", list);
	json_decref(list);
	return 0;
}

static void add_names(struct blk_qcow2 *q, const struct meta *m, json_t *o)
{
	const char *name = blk_qcow2_backing_file(q);
	const char *format = blk_qcow2_backing_format(q);
	char *full blk_auto_free = name ? image_beside(m->name, name) : NULL;

	if (!name)
		return;
	json_object_set_new(o, "backing-filename", json_string(name));
	json_object_set_new(o, "full-backing-filename",
			    json_string(full ? full : name));
	if (format)
		json_object_set_new(o, "backing-filename-format",
				    json_string(format));
}

static int add_qcow2(struct blk_qcow2 *q, const struct meta *m, json_t *o,
		     struct blk_error *e)
{
	const struct qcow2_header *h = blk_qcow2_header(q);
	json_t *data = json_object();
	int ret = 0;

	json_object_set_new(o, "cluster-size",
			    json_integer((json_int_t)qcow2_cluster_size(h)));
	json_object_set_new(o, "format-specific", json_pack("{s:s, s:o}",
			    "type", "qcow2", "data", data));
	json_object_set_new(data, "compat",
			    json_string(h->version < 3 ? "0.10" : "1.1"));
	json_object_set_new(data, "compression-type",
			    json_string(h->compression_type ? "zstd" : "zlib"));
	json_object_set_new(data, "refcount-bits",
			    json_integer(1 << h->refcount_order));
	if (h->version >= 3) {
		json_object_set_new(data, "lazy-refcounts", json_boolean(
			h->compatible_features & QCOW2_COMPAT_LAZY_REFCOUNTS));
		json_object_set_new(data, "corrupt", json_boolean(
			h->incompatible_features & QCOW2_INCOMPAT_CORRUPT));
		json_object_set_new(data, "extended-l2", json_boolean(
			h->incompatible_features & QCOW2_INCOMPAT_EXTL2));
		ret = add_bitmaps(q, data, e);
	}
	if (h->crypt_method != QCOW2_CRYPT_NONE) {
		json_object_set_new(o, "encrypted", json_true());
		json_object_set_new(data, "encrypt", h->crypt_method ==
				    QCOW2_CRYPT_LUKS ? image_luks(q) :
				    json_pack("{s:s}", "format", "aes"));
	}
	if (h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE) {
		if (blk_qcow2_data_file(q))
			json_object_set_new(data, "data-file", json_string(
					    blk_qcow2_data_file(q)));
		json_object_set_new(data, "data-file-raw",
				    json_boolean(blk_qcow2_data_file_raw(q)));
	}
	json_object_set_new(o, "dirty-flag", json_boolean(
			    h->incompatible_features & QCOW2_INCOMPAT_DIRTY));
	add_names(q, m, o);
	return ret ? ret : add_snapshots(q, o, e);
}

/* Of one image, which is open */
static int describe(const struct meta *m, json_t **out, struct blk_error *e)
{
	uint64_t size;
	struct stat st;
	int ret = meta_size(m, &size, e);

	*out = NULL;
	if (ret)
		return ret;
	*out = json_pack("{s:s, s:s, s:I, s:b}", "filename", m->name,
			 "format", m->q ? "qcow2" : "raw", "virtual-size",
			 (json_int_t)size, "dirty-flag", 0);
	if (!*out)
		return blk_error_set(e, BLK_ERR_FAILED, EILSEQ,
				     "the image's name is no text");
	if (!fstat(m->f->fd, &st))
		json_object_set_new(*out, "actual-size",
				    json_integer((json_int_t)st.st_blocks *
						 512));
	if (m->q)
		ret = add_qcow2(m->q, m, *out, e);
	if (ret) {
		json_decref(*out);
		*out = NULL;
	}
	return ret;
}

/* Have we been here?  By what the file is, not by its name */
static int check_loop(struct stat *seen, size_t n, const struct meta *m,
		      struct blk_error *e)
{
	if (fstat(m->f->fd, &seen[n]))
		return blk_error_set(e, BLK_ERR_FAILED, errno,
				     "cannot look at '%s': %s", m->name,
				     strerror(errno));
	for (size_t i = 0; i < n; i++)
		if (seen[i].st_dev == seen[n].st_dev &&
		    seen[i].st_ino == seen[n].st_ino)
			return blk_error_set(e, BLK_ERR_FAILED, ELOOP,
					     "the chain of images leads back to '%s'",
					     m->name);
	return 0;
}

static int gather(struct image_run *r, const struct info_args *a,
		  json_t *list, struct blk_error *e)
{
	char *name blk_auto_free = NULL, *format blk_auto_free = NULL;
	struct stat seen[CHAIN_MAX];
	struct meta m;
	json_t *one;
	size_t n = 0;
	int ret = meta_open_read(r, a->file, &m, e);

	while (!ret) {
		ret = check_loop(seen, n++, &m, e);
		if (!ret)
			ret = describe(&m, &one, e);
		if (!ret)
			json_array_append_new(list, one);
		if (!ret && (a->chain || a->graph))
			ret = meta_step_down(&m, &name, &format, e);
		ret = meta_close(&m, ret, e);
		if (ret || !name)
			break;
		if (n == CHAIN_MAX)
			return blk_error_set(e, BLK_ERR_FAILED, E2BIG,
					     "the chain has more than %d images",
					     CHAIN_MAX);
		ret = meta_open_below(r, name, format, &m, e);
		if (ret)
			blk_error_prefix(e, "the backing file");
	}
	return ret;
}

/*
 * Showing
 */

static void print_size(const char *what, const json_t *o, const char *key,
		       bool bytes)
{
	json_t *v = json_object_get(o, key);
	double n = (double)json_integer_value(v);
	const char *units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	size_t u = 0;

	if (!v)
		return;
	for (; n >= 1000 && u + 1 < BLK_COUNT(units); u++)
		n /= 1024;
	printf("%s: %.3g %s", what, n, units[u]);
	if (bytes)
		printf(" (%" JSON_INTEGER_FORMAT " bytes)",
		       json_integer_value(v));
	putchar('\n');
}

static void print_value(const json_t *v)
{
	if (json_is_string(v))
		out_text(json_string_value(v));
	else if (json_is_integer(v))
		printf("%" JSON_INTEGER_FORMAT, json_integer_value(v));
	else
		printf("%s", json_is_true(v) ? "true" : "false");
}

/* "lazy-refcounts" as "lazy refcounts: ..." */
static void print_tree(const json_t *o, int depth)
{
	const char *key;
	json_t *v;
	size_t i;

	json_object_foreach((json_t *)o, key, v) {
		printf("%*s", 4 * depth, "");
		for (const char *k = key; *k; k++)
			putchar(*k == '-' ? ' ' : *k);
		putchar(':');
		if (json_is_object(v) || json_is_array(v)) {
			putchar('\n');
		} else {
			putchar(' ');
			print_value(v);
			putchar('\n');
		}
		if (json_is_object(v))
			print_tree(v, depth + 1);
		for (i = 0; json_is_array(v) && i < json_array_size(v); i++) {
			const json_t *x = json_array_get(v, i);

			printf("%*s[%zu]:", 4 * (depth + 1), "", i);
			putchar(json_is_object(x) ? '\n' : ' ');
			if (json_is_object(x)) {
				print_tree(x, depth + 2);
				continue;
			}
			print_value(x);
			putchar('\n');
		}
	}
}

static void print_snapshots(const json_t *list)
{
	char date[32];
	size_t i;
	json_t *s;

	if (!json_array_size(list))
		return;
	printf("Snapshot list:\n%-9s %-17s %8s %20s\n", "ID", "TAG", "VM SIZE",
	       "DATE");
	json_array_foreach((json_t *)list, i, s) {
		time_t t = json_integer_value(json_object_get(s, "date-sec"));
		struct tm tm;

		localtime_r(&t, &tm);
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
		printf("%-9s ", json_string_value(json_object_get(s, "id")));
		out_text(json_string_value(json_object_get(s, "name")));
		printf("%*s %8" JSON_INTEGER_FORMAT " %20s\n",
		       (int)(17 - BLK_MIN(17, json_string_length(
				json_object_get(s, "name")))), "",
		       json_integer_value(json_object_get(s,
							  "vm-state-size")),
		       date);
	}
}

static void print_key(const char *what, const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	if (!v)
		return;
	printf("%s: ", what);
	print_value(v);
	putchar('\n');
}

static void print_one(const json_t *o)
{
	const json_t *extra = json_object_get(json_object_get(o,
						"format-specific"), "data");

	print_key("image", o, "filename");
	print_key("file format", o, "format");
	print_size("virtual size", o, "virtual-size", true);
	print_size("disk size", o, "actual-size", false);
	if (json_is_true(json_object_get(o, "encrypted")))
		printf("encrypted: yes\n");
	print_key("cluster_size", o, "cluster-size");
	if (json_is_true(json_object_get(o, "dirty-flag")))
		printf("cleanly shut down: no\n");
	print_key("backing file", o, "backing-filename");
	print_key("backing file format", o, "backing-filename-format");
	print_snapshots(json_object_get(o, "snapshots"));
	if (extra) {
		printf("Format specific information:\n");
		print_tree(extra, 1);
	}
}

static void print_quoted(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			putchar('\\');
		putchar((unsigned char)*s < ' ' ? '?' : *s);
	}
	putchar('"');
}

static void print_dot(const json_t *list)
{
	const json_t *o;
	size_t i;

	printf("digraph images {\n\tnode [shape=box];\n");
	for (i = 0; i < json_array_size(list); i++) {
		o = json_array_get(list, i);
		printf("\tn%zu [label=", i);
		print_quoted(json_string_value(json_object_get(o, "filename")));
		printf("];\n");
		if (i)
			printf("\tn%zu -> n%zu [label=%s];\n", i - 1, i,
			       json_string_value(json_object_get(o, "format")));
	}
	printf("}\n");
}

static void print_graph(const json_t *list)
{
	size_t i;

	for (i = 0; i < json_array_size(list); i++) {
		const json_t *o = json_array_get(list, i);
		const json_t *data = json_object_get(json_object_get(
			json_object_get(o, "format-specific"), "data"),
			"data-file");

		printf("%*s%s", i ? (int)(4 * i - 4) : 0, "", i ? "└── " : "");
		out_text(json_string_value(json_object_get(o, "filename")));
		printf(" (%s)", json_string_value(json_object_get(o, "format")));
		if (data) {
			printf(", data in ");
			out_text(json_string_value(data));
		}
		putchar('\n');
	}
}

static void show(struct image_run *r, const struct info_args *a, json_t *list)
{
	size_t i;

	if (r->cli->json) {
		out_document(r->cli, a->chain ? "images" : "image", a->chain ?
			     json_incref(list) :
			     json_incref(json_array_get(list, 0)));
		return;
	}
	if (a->graph && !strcmp(a->graph, "dot")) {
		print_dot(list);
		return;
	}
	if (a->graph) {
		print_graph(list);
		return;
	}
	for (i = 0; i < json_array_size(list); i++) {
		if (i)
			putchar('\n');
		print_one(json_array_get(list, i));
	}
}

/*
 * Where it is the daemon who has the image it is read all the same: header and
 * tables change by writes of which each leaves a good image.
 */
static bool daemon_has_it(const struct image_run *r, const struct blk_error *e)
{
	struct image_held h;
	bool has = image_is_held(e) && image_held_find(r, e, &h);

	if (image_is_held(e))
		image_held_free(&h);
	return has;
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	struct info_args a = *(const struct info_args *)args;
	json_auto_t *list = json_array();
	struct image_run r;
	int ret = image_begin(cli, &a.common, &r, e);

	if (!ret)
		ret = gather(&r, &a, list, e);
	if (ret && !a.common.share && daemon_has_it(&r, e)) {
		a.common.share = true;
		json_array_clear(list);
		ret = gather(&r, &a, list, e);
	}
	if (!ret)
		show(&r, &a, list);
	return image_end(&r, ret, e);
}

const struct verb verb_image_info = {
	.name = "info",
	.of = "image",
	.qemu_codes = true,
	.summary = "say what an image is, and what is below it",
	.opts = info_opts,
	.args_size = sizeof(struct info_args),
	.run = run,
};
