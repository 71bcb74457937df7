// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl image snapshot: internal snapshots of an image that is not in use.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/be.h"
#include "image/image.h"
#include "image/meta.h"

struct snapshot_args {
	const char *file;
	const char *create;
	const char *apply;
	const char *delete;
	bool list;
	struct image_common common;
};

#define ARG(field) .offset = offsetof(struct snapshot_args, field)

static const struct opt snapshot_opts[] = {
	{ OPT_ARG, 0, "FILE", NULL, "the image",
	  .complete = OPT_COMPLETE_FILE, ARG(file) },
	{ OPT_FLAG, 'l', "list", NULL, "list them (this is the default)",
	  ARG(list) },
	{ OPT_STRING, 'c', "create", "NAME", "make a snapshot", ARG(create) },
	{ OPT_STRING, 'a', "apply", "SNAPSHOT",
	  "the disk becomes what it was in the snapshot", ARG(apply) },
	{ OPT_STRING, 'd', "delete", "SNAPSHOT", "delete it", ARG(delete) },
	IMAGE_OPT_FORMAT(struct snapshot_args, common),
	IMAGE_OPT_IMAGE_OPTS(struct snapshot_args, common),
	IMAGE_OPT_OBJECT(struct snapshot_args, common),
	IMAGE_OPT_SHARE(struct snapshot_args, common),
	IMAGE_OPT_QUIET(struct snapshot_args, common),
	IMAGE_OPT_OUTPUT(struct snapshot_args, common),
	{}
};

/* "1.5 MiB", as qemu-img prints sizes */
static void size_text(uint64_t n, char *buf, size_t len)
{
	static const char *const unit[] = {
		"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
	};
	double v = (double)n;
	size_t i = 0;

	while (v >= 999.5 && i < BLK_COUNT(unit) - 1) {
		v /= 1024;
		i++;
	}
	snprintf(buf, len, "%0.3g %sB", v, unit[i]);
}

static void print_one(const struct blk_qcow2_snapshot *s)
{
	char size[32], date[32] = "", clock[32], icount[24] = "";
	uint64_t sec = s->vm_clock_nsec / 1000000000;
	time_t t = s->date_sec;
	struct tm tm;

	size_text(s->vm_state_size, size, sizeof(size));
	if (localtime_r(&t, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%02d:%02d:%02d.%03d",
		 (int)(sec / 3600), (int)(sec / 60 % 60), (int)(sec % 60),
		 (int)(s->vm_clock_nsec / 1000000 % 1000));
	if (s->icount != UINT64_MAX)
		snprintf(icount, sizeof(icount), "%" PRIu64, s->icount);
	printf("%-9s %-16s %8s%20s%13s%11s\n", s->id, s->name, size, date,
	       clock, icount);
}

/* The names that qemu-img info has for it */
static json_t *as_json(const struct blk_qcow2_snapshot *s)
{
	json_t *o = json_pack("{s:s%, s:s%, s:I, s:I, s:I, s:I, s:I}",
			      "id", s->id, strlen(s->id),
			      "name", s->name, strlen(s->name),
			      "vm-state-size", (json_int_t)s->vm_state_size,
			      "date-sec", (json_int_t)s->date_sec,
			      "date-nsec", (json_int_t)s->date_nsec,
			      "vm-clock-sec",
			      (json_int_t)(s->vm_clock_nsec / 1000000000),
			      "vm-clock-nsec",
			      (json_int_t)(s->vm_clock_nsec % 1000000000));

	if (!o)		/* a name that is not UTF-8 */
		return json_pack("{s:s?}", "id", NULL);
	if (s->icount != UINT64_MAX)
		json_object_set_new(o, "icount",
				    json_integer((json_int_t)s->icount));
	return o;
}

static int list(struct image_run *r, const struct meta *m, struct blk_error *e)
{
	struct blk_qcow2_snapshot *s;
	json_t *all = json_array();
	size_t n;
	int ret = blk_qcow2_snapshots_list(m->q, &s, &n, e);

	if (ret < 0) {
		json_decref(all);
		return ret;
	}
	if (n && image_is_human(r))
		printf("Snapshot list:\n%-9s %-16s %8s%20s%13s%11s\n", "ID",
		       "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
	for (size_t i = 0; i < n; i++) {
		json_array_append_new(all, as_json(&s[i]));
		if (image_is_human(r))
			print_one(&s[i]);
	}
	blk_qcow2_snapshots_free(s, n);
	if (r->cli->json)
		out_document(r->cli, "snapshots", all);
	else
		json_decref(all);
	return 0;
}

static int change(struct image_run *r, const struct snapshot_args *a,
		  const struct meta *m, struct blk_error *e)
{
	int ret = 0;

	if (a->create)
		ret = blk_qcow2_snapshot_create(m->q, a->create, e);
	else if (a->apply)
		ret = blk_qcow2_snapshot_apply(m->q, a->apply, e);
	else
		ret = blk_qcow2_snapshot_delete(m->q, a->delete, e);
	if (!ret && r->cli->json)
		return list(r, m, e);
	return ret;
}

static int only_qcow2(const struct snapshot_args *a, const struct meta *m,
		      struct blk_error *e)
{
	return m->q ? 0 :
		blk_error_set(e, BLK_ERR_FAILED, EOPNOTSUPP,
			      "'%s' is raw: only qcow2 images have snapshots",
			      a->file);
}

static int work(struct image_run *r, const struct snapshot_args *a,
		struct blk_error *e)
{
	bool changes = a->create || a->apply || a->delete;
	struct meta m;
	int ret = changes ? meta_open(r, a->file, &m, e) :
		meta_open_read(r, a->file, &m, e);

	if (ret < 0)
		return ret;
	ret = only_qcow2(a, &m, e);
	if (!ret)
		ret = changes ? change(r, a, &m, e) : list(r, &m, e);
	return meta_close(&m, ret, e);
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	const struct snapshot_args *a = args;
	struct image_run r;
	int ret;

	if (a->list + !!a->create + !!a->apply + !!a->delete > 1)
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "-l, -c, -a and -d exclude each other");
	ret = image_begin(cli, &a->common, &r, e);
	if (!ret)
		ret = work(&r, a, e);
	return image_end(&r, ret, e);
}

const struct verb verb_image_snapshot = {
	.name = "snapshot",
	.of = "image",
	.qemu_codes = true,
	.summary = "make, list, apply and delete internal snapshots",
	.opts = snapshot_opts,
	.args_size = sizeof(struct snapshot_args),
	.run = run,
};
