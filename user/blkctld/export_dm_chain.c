// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The chain of images of an export: from nodes to layers, into the label, and
 * back when a device is adopted.
 *
 * Owns: the label's format, and duplicates of adopted files on their way to a
 * node.
 * Must not: make two objects that think they own an image's metadata: layer 0
 * of a writable attachment is lent to the node.
 * Threads: the loop's; export_dm_dup_layers() in a thread of its own, while the
 * export is STARTING.
 *
 * The label has room for DM_QCOW_LABEL_MAX bytes.  Names that were generated
 * are generated again; of the others, in "names", those at the top of the chain
 * come first: "1" is the node of layer 1, "1f" its file's, "1d" its data
 * file's, and "1b" a file's node that is a backing node itself.  "!" in front
 * of a name: the node goes with the one above it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "export_dm_int.h"
#include "graph/json.h"

#define NAME_BYTES (BLK_NODE_NAME_MAX + 2)

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

struct blk_file *export_dm_dup_file(const struct blk_file *f)
{
	int fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 0);
	struct blk_file *copy;

	if (fd < 0)
		return NULL;
	if (!blk_file_from_fd(fd, f->path, &copy, NULL))
		return copy;
	close(fd);
	return NULL;
}

int export_dm_take_layers(struct dm_export *d, struct blk_error *e)
{
	const struct blk_node *n = d->x.node;
	struct blk_attach_layer *l;

	d->n_layers = blk_node_depth(n);
	d->layers = l = calloc(d->n_layers, sizeof(*l));
	if (!l)
		return no_memory(e);
	for (; n; n = n->backing, l++) {
		l->file = blk_node_file(n);
		l->image = n->image;
		l->key = n->key;
		l->data = n->data ? n->data->file : NULL;
		if (!l->file || (blk_node_is_qcow2(n) && !l->image) ||
		    (n->data && !l->data))
			return blk_error_set(e, BLK_ERR_FAILED, EIO,
					     "The image of node '%s' was lost: remove the node and add it again",
					     n->name);
	}
	return 0;
}

/*
 * The label
 */

/* false: it has a name that will be generated again */
static bool name_of(const struct blk_node *n, char *out)
{
	if (*n->name == '#')
		return false;
	snprintf(out, NAME_BYTES, "%s%s", n->implicit ? "!" : "", n->name);
	return true;
}

static bool fits(const json_t *label)
{
	char *text = json_dumps(label, JSON_COMPACT);
	bool yes = text && strlen(text) < DM_QCOW_LABEL_MAX;

	free(text);
	return yes;
}

static bool put_name(json_t *label, json_t *names, size_t i, const char *kind,
		     const struct blk_node *n)
{
	char key[24], name[NAME_BYTES];

	if (!n || !name_of(n, name))
		return true;
	snprintf(key, sizeof(key), "%zu%s", i, kind);
	blk_json_put_str(names, key, name);
	if (fits(label))
		return true;
	json_object_del(names, key);
	return false;
}

static void put_names(json_t *label, const struct blk_node *n)
{
	json_t *names = json_object();
	bool room = !json_object_set_new(label, "names", names) && fits(label);
	size_t i;

	room = room && put_name(label, names, 0, "d", n->data);
	for (i = 1, n = n->backing; n && room; i++, n = n->backing)
		room = put_name(label, names, i, n->child ? "" : "b", n) &&
			put_name(label, names, i, "f", n->child) &&
			put_name(label, names, i, "d", n->data);
	if (!json_object_size(names))
		json_object_del(label, "names");
}

char *export_dm_make_label(const struct dm_export *d)
{
	const struct blk_node *n = d->x.node;
	json_t *o = json_pack("{s:i, s:s, s:s, s:b, s:s, s:b, s:s, s:b}",
			      "version", 1, "id", d->x.id,
			      "node-name", n->name, "read-only", n->read_only,
			      "file-node-name", n->child->name,
			      "file-implicit", n->child->implicit,
			      "name", d->name, "writable", d->x.writable);
	char *text;

	if (o && d->snapshot)
		blk_json_put_str(o, "snapshot", d->snapshot);
	if (o)
		put_names(o, n);
	text = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	return text;
}

/*
 * Adoption
 */

static int dup_layer(struct dm_export *d, size_t i, struct blk_error *e)
{
	struct blk_adopted *to = &d->adopted_layers[i];
	struct blk_attach_layer from;

	blk_attach_layer(d->att, i, &from);
	if (from.data && !(to->data = export_dm_dup_file(from.data)))
		goto fail;
	if (!i && d->lends) {
		to->file = from.file;
		to->image = from.image;
		return 0;
	}
	to->file = export_dm_dup_file(from.file);
	if (to->file)
		return from.image ? blk_qcow2_open(to->file, &to->image, e) :
			0;
fail:
	return blk_error_set(e, BLK_ERR_FAILED, EMFILE,
			     "its files can't be duplicated");
}

int export_dm_dup_layers(struct dm_export *d, struct blk_error *e)
{
	size_t i, n = blk_attach_layers(d->att);
	int ret = 0;

	d->adopted_layers = calloc(n, sizeof(*d->adopted_layers));
	if (!d->adopted_layers)
		return no_memory(e);
	d->n_adopted = n;
	for (i = 0; i < n && !ret; i++)
		ret = dup_layer(d, i, e);
	if (!ret)
		blk_attach_share_locks(d->att);
	return ret;
}

void export_dm_free_layers(struct dm_export *d)
{
	struct blk_adopted *l = d->adopted_layers;
	size_t i;

	for (i = 0; l && i < d->n_adopted; i++, l++) {
		blk_file_close(l->data);
		if (!i && d->lends)
			continue;
		if (l->image)
			blk_qcow2_close(l->image);
		blk_file_close(l->file);
	}
	free(d->adopted_layers);
	d->adopted_layers = NULL;
	d->n_adopted = 0;
}

static const char *find_name(const json_t *names, size_t i, const char *kind)
{
	char key[24];

	snprintf(key, sizeof(key), "%zu%s", i, kind);
	return blk_json_str(names, key, NULL);
}

/* Of layer 0 they are where they always were. */
static void set_top_names(struct blk_adopted *l, const json_t *label,
			  char *file_name)
{
	const char *name = blk_json_str(label, "file-node-name", "#");

	l->name = blk_json_str(label, "node-name", NULL);
	l->file_name = NULL;
	if (*name == '#' || strlen(name) > BLK_NODE_NAME_MAX)
		return;
	snprintf(file_name, NAME_BYTES, "%s%s",
		 blk_json_bool(label, "file-implicit", true) ? "!" : "", name);
	l->file_name = file_name;
}

static void set_names(struct dm_export *d, const json_t *label,
		      char *file_name)
{
	const json_t *names = json_object_get(label, "names");
	const char *bare;
	size_t i;

	for (i = 0; i < d->n_adopted; i++) {
		struct blk_adopted *l = &d->adopted_layers[i];

		l->name = find_name(names, i, "");
		l->file_name = find_name(names, i, "f");
		l->data_name = find_name(names, i, "d");
		bare = l->image ? NULL : find_name(names, i, "b");
		l->bare = bare;
		if (bare)
			l->name = bare;
	}
	set_top_names(&d->adopted_layers[0], label, file_name);
}

int export_dm_add_nodes(struct dm_export *d, const json_t *label,
			struct blk_node **out, struct blk_error *e)
{
	const struct blk_file *file = d->adopted_layers[0].file;
	char file_name[NAME_BYTES];
	bool read_only;
	int ret;

	set_names(d, label, file_name);
	read_only = !file->writable ||
		blk_json_bool(label, "read-only", !d->lends);
	ret = blk_node_add_adopted(d->x.s->graph, d->adopted_layers,
				   d->n_adopted, read_only, out, e);
	if (ret)
		return ret;
	/* they are the nodes' now */
	memset(d->adopted_layers, 0,
	       d->n_adopted * sizeof(*d->adopted_layers));
	d->n_adopted = 0;
	return 0;
}
