// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * query-device-mapper: what the kernel says about each device, and which image
 * it shows.
 *
 * Owns: queries that are under way.
 * Must not: wait for the kernel in the loop's thread.
 * Threads: the loop's; list_run() in a thread of its own.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"
#include "export_dm.h"
#include "graph/json.h"
#include "kernel.h"
#include "qmp.h"

struct query {
	struct blk_ev_work work;
	struct server *s;
	struct qmp_request *rq;
	struct blk_kdev *list;
	size_t n;
	int ret;
	struct blk_error err;
};

static const struct {
	const char *name;
	size_t offset;
} counters[] = {
#define COUNTER(json, field) { json, offsetof(struct dm_qcow_stats, field) }
	COUNTER("read-mapped", read_mapped),
	COUNTER("read-zero", read_zero),
	COUNTER("write-mapped", write_mapped),
	COUNTER("write-alloc", write_alloc),
	COUNTER("write-joined", write_joined),
	COUNTER("deferred", deferred),
	COUNTER("flushes", flushes),
	COUNTER("commits", commits),
	COUNTER("slices-written", slices_written),
	COUNTER("slice-loads", slice_loads),
	COUNTER("slices-reclaimed", slices_reclaimed),
	COUNTER("filled", filled),
	COUNTER("parked", parked),
	COUNTER("io-errors", io_errors),
	COUNTER("read-below", read_below),
	COUNTER("read-compressed", read_compressed),
	COUNTER("decompressed", decompressed),
	COUNTER("discards", discards),
	COUNTER("write-zeroes", write_zeroes),
	COUNTER("tables-copied", tables_copied),
#undef COUNTER
};

static json_t *stats(const struct dm_qcow_stats *st)
{
	json_t *o = json_object();
	uint64_t val;
	size_t i;

	for (i = 0; i < sizeof(counters) / sizeof(counters[0]); i++) {
		memcpy(&val, (const char *)st + counters[i].offset,
		       sizeof(val));
		blk_json_put_uint(o, counters[i].name, val);
	}
	return o;
}

static void put_numbers(json_t *o, const struct blk_kdev *k)
{
	const struct {
		const char *name;
		uint64_t val;
	} numbers[] = {
		{ "major", k->dev >> 32 },
		{ "minor", (uint32_t)k->dev },
		{ "errno", k->error },
		{ "cluster-size", k->cluster_bits ?
			1ULL << (k->cluster_bits & 63) : 0 },
		{ "pending", k->pending },
		{ "generation", k->generation },
		{ "granted", k->granted },
		{ "consumed", k->consumed },
		{ "freed", k->freed },
		{ "parked", k->parked },
		{ "seq", k->seq },
		{ "cookie", k->cookie },
	};
	size_t i;

	for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		blk_json_put_uint(o, numbers[i].name, numbers[i].val);
}

static void put_flags(json_t *o, uint32_t state)
{
	static const struct {
		const char *name;
		uint32_t bit;
	} flags[] = {
		{ "writable", DM_QCOW_STATE_WRITABLE },
		{ "active", DM_QCOW_STATE_ACTIVE },
		{ "session", DM_QCOW_STATE_SESSION },
		{ "host-full", DM_QCOW_STATE_HOST_FULL },
		{ "leaked", DM_QCOW_STATE_LEAKED },
		{ "corrupt", DM_QCOW_STATE_CORRUPT },
	};
	size_t i;

	for (i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		blk_json_put_bool(o, flags[i].name, state & flags[i].bit);
}

static json_t *layers(const struct blk_node *n)
{
	json_t *list = json_array(), *o;

	for (; n; n = n->backing) {
		o = json_object();
		blk_json_put_str(o, "filename", blk_node_filename(n));
		/* a file is a raw disk, whether or not a node says so */
		blk_json_put_str(o, "format", blk_node_is_qcow2(n) ? "qcow2" :
				 "raw");
		blk_json_put_str(o, "node-name", n->name);
		if (n->data)
			blk_json_put_str(o, "data-file",
					 blk_node_filename(n->data));
		json_array_append_new(list, o);
	}
	return list;
}

static void put_export(json_t *o, const struct export *x)
{
	const struct blk_node *n = x->node;
	json_t *image = json_object();

	blk_json_put_str(o, "id", x->id);
	blk_json_put_str(o, "node-name", n->name);
	blk_json_put_str(image, "filename", blk_node_filename(n));
	blk_json_put_str(image, "format", blk_node_driver(n));
	blk_json_put_uint(image, "virtual-size", n->header.size);
	blk_json_put_uint(image, "cluster-size",
			  qcow2_cluster_size(&n->header));
	blk_json_put_str(image, "file-node-name", n->child->name);
	blk_json_put_uint(image, "backing-depth", blk_node_depth(n) - 1);
	json_object_set_new(o, "image", image);
	json_object_set_new(o, "layers", layers(n));
	export_dm_put(x, o);
}

/* As the status line has it: a read-only table is "ro" whatever happened. */
static enum dm_qcow_mode device_mode(const struct blk_kdev *k)
{
	if (!(k->state & DM_QCOW_STATE_WRITABLE) &&
	    k->mode < DM_QCOW_MODE_READ_ONLY)
		return DM_QCOW_MODE_READ_ONLY;
	return k->mode;
}

static json_t *device(const struct blk_kdev *k, const struct export *x)
{
	char path[sizeof("/dev/mapper/") + sizeof(k->name)];
	json_t *o = json_object();

	snprintf(path, sizeof(path), "/dev/mapper/%s", k->name);
	blk_json_put_str(o, "name", k->name);
	blk_json_put_str(o, "device", path);
	blk_json_put_bool(o, "managed", x);
	blk_json_put_str(o, "mode", kernel_mode_name(device_mode(k)));
	put_numbers(o, k);
	put_flags(o, k->state);
	json_object_set_new(o, "stats", stats(&k->stats));
	if (k->label[0])
		blk_json_put_str(o, "label", k->label);
	if (x)
		put_export(o, x);
	return o;
}

static void list_run(struct blk_ev_work *w)
{
	struct query *q = blk_container_of(w, struct query, work);

	q->ret = kernel_list(&q->list, &q->n, &q->err);
}

static void list_done(struct blk_ev_work *w)
{
	struct query *q = blk_container_of(w, struct query, work);
	const char *id = blk_json_str(q->rq->args, "id", NULL);
	struct server *s = q->s;
	json_t *list = json_array();
	const struct export *x;
	size_t i;

	for (i = 0; !q->ret && i < q->n; i++) {
		x = export_dm_by_dev(s, q->list[i].dev);
		if (!id || (x && !strcmp(x->id, id)))
			json_array_append_new(list, device(&q->list[i], x));
	}
	if (!q->ret && id && !json_array_size(list))
		q->ret = blk_error_set(&q->err, BLK_ERR_NOT_FOUND, ENOENT,
				       "Export '%.80s' is not found", id);
	if (q->ret) {
		json_decref(list);
		list = NULL;
	}
	qmp_finish(q->rq, list, q->ret ? &q->err : NULL);
	free(q->list);
	free(q);
	server_check_stopped(s);
}

int cmd_query_device_mapper(struct qmp_request *rq, json_t **ret,
			    struct blk_error *e)
{
	struct query *q = calloc(1, sizeof(*q));

	(void)ret;
	if (q) {
		q->s = rq->s;
		q->rq = rq;
		q->work.run = list_run;
		q->work.done = list_done;
		if (!blk_ev_work_start(rq->s->ev, &q->work))
			return QMP_LATER;
	}
	free(q);
	return blk_error_set(e, BLK_ERR_FAILED, EAGAIN,
			     "no memory or no thread for this");
}
