// SPDX-License-Identifier: GPL-2.0-only
/*
 * The generic netlink family.
 *
 * Owns the messages and the daemon's session.  Every command runs under its
 * device's lock and only looks at state or starts work; nothing here waits for
 * I/O.  What a message brings is checked before anything changes.
 *
 * Locking: device.lock; claims.lock inside it.  parallel_ops, so the system's
 * genl_mutex is not held.
 */
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>

#include "device.h"
#include "image.h"
#include "netlink.h"
#include "target.h"

static struct genl_family qcow_family;

static const struct nla_policy qcow_policy[DM_QCOW_A_MAX + 1] = {
	[DM_QCOW_A_DEV] = { .type = NLA_U64 },
	[DM_QCOW_A_SESSION] = { .type = NLA_U64 },
	[DM_QCOW_A_SEQ] = { .type = NLA_U64 },
	[DM_QCOW_A_RUNS] = { .type = NLA_BINARY,	/* at most */
			     .len = DM_QCOW_MAX_RUNS *
				    sizeof(struct dm_qcow_run) },
	[DM_QCOW_A_FLAGS] = { .type = NLA_U32 },
	[DM_QCOW_A_LAYER] = NLA_POLICY_MAX(NLA_U32, DM_QCOW_MAX_LAYERS - 1),
	[DM_QCOW_A_FD] = { .type = NLA_U32 },
	[DM_QCOW_A_LABEL] = { .type = NLA_NUL_STRING,
			      .len = DM_QCOW_LABEL_MAX - 1 },
	[DM_QCOW_A_COOKIE] = { .type = NLA_U64 },
};

static int put_u64(struct sk_buff *skb, int attr, u64 v)
{
	return nla_put_u64_64bit(skb, attr, v, DM_QCOW_A_PAD);
}

/* Starts a reply with room for @payload bytes of attributes. */
static struct sk_buff *reply_new(struct genl_info *info, size_t payload,
				 void **hdr)
{
	struct sk_buff *skb = genlmsg_new(payload, GFP_KERNEL);

	if (!skb)
		return NULL;
	*hdr = genlmsg_put_reply(skb, info, &qcow_family, 0,
				 info->genlhdr->cmd);
	if (!*hdr) {
		nlmsg_free(skb);
		return NULL;
	}
	return skb;
}

static int reply_send(struct genl_info *info, struct sk_buff *skb, void *hdr)
{
	genlmsg_end(skb, hdr);
	return genlmsg_reply(skb, info);
}

static u32 device_state(struct qcow_device *dev, struct qcow_target *t)
{
	u32 s = 0;

	if (t->writable)
		s |= DM_QCOW_STATE_WRITABLE;
	if (test_bit(QCOW_DEV_ACTIVE, &dev->flags))
		s |= DM_QCOW_STATE_ACTIVE;
	if (dev->portid)
		s |= DM_QCOW_STATE_SESSION;
	if (test_bit(QCOW_DEV_HOST_FULL, &dev->flags))
		s |= DM_QCOW_STATE_HOST_FULL;
	if (test_bit(QCOW_DEV_LEAKED, &dev->flags) ||
	    READ_ONCE(dev->grants.leaked))
		s |= DM_QCOW_STATE_LEAKED;
	if (READ_ONCE(t->img->corrupt))
		s |= DM_QCOW_STATE_CORRUPT;
	return s;
}

static int put_state(struct sk_buff *skb, struct qcow_device *dev,
		     const char *name, u32 pending)
{
	struct qcow_target *t = qcow_device_target(dev);
	struct dm_qcow_stats stats;

	qcow_stats_sum(dev->stats, &stats);
	if (put_u64(skb, DM_QCOW_A_DEV, dev->nr) ||
	    nla_put_string(skb, DM_QCOW_A_NAME, name) ||
	    nla_put_string(skb, DM_QCOW_A_LABEL, dev->label) ||
	    nla_put_u32(skb, DM_QCOW_A_MODE, READ_ONCE(dev->mode)) ||
	    nla_put_u32(skb, DM_QCOW_A_STATE, device_state(dev, t)) ||
	    nla_put_u32(skb, DM_QCOW_A_ERROR, dev->error) ||
	    nla_put_u32(skb, DM_QCOW_A_CLUSTER_BITS, dev->cluster_bits) ||
	    nla_put_u32(skb, DM_QCOW_A_PENDING, pending) ||
	    put_u64(skb, DM_QCOW_A_GENERATION, t->img->generation) ||
	    put_u64(skb, DM_QCOW_A_GRANTED,
		    atomic64_read(&dev->grants.left)) ||
	    put_u64(skb, DM_QCOW_A_CONSUMED,
		    atomic64_read(&dev->grants.consumed)) ||
	    put_u64(skb, DM_QCOW_A_ZEROED,
		    atomic64_read(&dev->grants.zeroed)) ||
	    put_u64(skb, DM_QCOW_A_FREED, READ_ONCE(dev->nr_freed)) ||
	    put_u64(skb, DM_QCOW_A_PARKED, READ_ONCE(dev->nr_parked)) ||
	    put_u64(skb, DM_QCOW_A_SEQ, dev->seq) ||
	    put_u64(skb, DM_QCOW_A_COOKIE, dev->cookie_done) ||
	    nla_put(skb, DM_QCOW_A_STATS, sizeof(stats), &stats))
		return -EMSGSIZE;
	return 0;
}

#define DEVICE_PAYLOAD	(DM_QCOW_LABEL_MAX + 1024)

/* dev->lock is held in all cmd_ functions, and the device has a table. */

static bool session_ok(struct qcow_device *dev, struct genl_info *info)
{
	return dev->portid == info->snd_portid &&
		info->attrs[DM_QCOW_A_SESSION] &&
		nla_get_u64(info->attrs[DM_QCOW_A_SESSION]) == dev->session;
}

static int cmd_get(struct qcow_device *dev, struct genl_info *info)
{
	char name[DM_NAME_LEN];
	struct sk_buff *skb;
	u32 pending = 0;
	bool fetch;
	void *hdr;
	int r;

	r = dm_copy_name_and_uuid(dev->md, name, NULL);
	if (r)
		return r;
	skb = reply_new(info, DEVICE_PAYLOAD, &hdr);
	if (!skb)
		return -ENOMEM;
	fetch = session_ok(dev, info);
	pending = fetch ? atomic_xchg(&dev->pending, 0) :
		atomic_read(&dev->pending);
	r = put_state(skb, dev, name, pending);
	if (r)
		nlmsg_free(skb);
	else
		r = reply_send(info, skb, hdr);
	if (r && fetch)
		atomic_or(pending, &dev->pending);
	return r;
}

static int cmd_adopt(struct qcow_device *dev, struct genl_info *info)
{
	struct sk_buff *skb;
	void *hdr;

	if (dev->portid && dev->portid != info->snd_portid)
		return -EBUSY;
	skb = reply_new(info, DEVICE_PAYLOAD, &hdr);
	if (!skb)
		return -ENOMEM;
	if (info->attrs[DM_QCOW_A_LABEL])
		nla_strscpy(dev->label, info->attrs[DM_QCOW_A_LABEL],
			    sizeof(dev->label));
	dev->session++;
	WRITE_ONCE(dev->portid, info->snd_portid);
	if (put_u64(skb, DM_QCOW_A_SESSION, dev->session) ||
	    put_u64(skb, DM_QCOW_A_SEQ, dev->seq) ||
	    nla_put_string(skb, DM_QCOW_A_LABEL, dev->label)) {
		nlmsg_free(skb);
		return -EMSGSIZE;
	}
	return reply_send(info, skb, hdr);
}

/* The runs of a message, checked to lie below @bytes; n = 0 without any. */
static int get_runs(struct qcow_device *dev, struct genl_info *info, u64 bytes,
		    const struct dm_qcow_run **runs, unsigned int *n)
{
	struct nlattr *a = info->attrs[DM_QCOW_A_RUNS];
	u64 mask = (1ULL << dev->cluster_bits) - 1;
	unsigned int i;

	*n = 0;
	if (!a)
		return 0;
	if (nla_len(a) % sizeof(struct dm_qcow_run))
		return -EINVAL;
	*runs = nla_data(a);
	*n = nla_len(a) / sizeof(struct dm_qcow_run);
	for (i = 0; i < *n; i++) {
		const struct dm_qcow_run *run = &(*runs)[i];

		if ((run->offset | run->length) & mask || !run->length ||
		    run->flags & ~DM_QCOW_RUN_ZEROED || run->reserved)
			return -EINVAL;
		if (run->offset >= bytes || run->length > bytes - run->offset)
			return -ERANGE;
	}
	return 0;
}

static void unclaim_runs(struct qcow_device *dev, enum qcow_claim kind,
			 const struct dm_qcow_run *runs, unsigned int n)
{
	struct qcow_claims *c = &qcow_device_target(dev)->img->claims;

	lockdep_assert_held(&c->lock);
	while (n--)
		qcow_unclaim_range(c, kind,
				   runs[n].offset >> dev->cluster_bits,
				   runs[n].length >> dev->cluster_bits);
}

/* All or none; claims.lock is held. */
static int claim_runs(struct qcow_device *dev, enum qcow_claim kind,
		      const struct dm_qcow_run *runs, unsigned int n)
{
	struct qcow_claims *c = &qcow_device_target(dev)->img->claims;
	unsigned int i;
	int r;

	for (i = 0; i < n; i++) {
		r = qcow_claim_range(c, kind,
				     runs[i].offset >> dev->cluster_bits,
				     runs[i].length >> dev->cluster_bits);
		if (r) {
			unclaim_runs(dev, kind, runs, i);
			return r;
		}
	}
	return 0;
}

/*
 * Where the daemon has changed the mapping, data and tables may be elsewhere,
 * too: what they claimed is forgotten, the next resume claims them again.
 */
static int begin_anew(struct qcow_device *dev, struct qcow_image *img)
{
	struct qcow_claims *c = &img->claims;

	lockdep_assert_held(&c->lock);
	qcow_claims_begin_anew(c);
	/* ACTIVE is set under device.lock, which is held */
	if (!READ_ONCE(img->stale) || test_bit(QCOW_DEV_ACTIVE, &dev->flags))
		return 0;
	qcow_claims_reset(c, QCOW_CLAIM_DAEMON);
	qcow_claims_reset(c, QCOW_CLAIM_KERNEL);
	qcow_claims_reset(c, QCOW_CLAIM_DATA);
	qcow_claims_reset(c, QCOW_CLAIM_SEEN);
	return qcow_grants_claim(dev, c);
}

static int cmd_claim(struct qcow_device *dev, struct genl_info *info)
{
	struct nlattr *attr = info->attrs[DM_QCOW_A_FLAGS];
	struct qcow_image *img = qcow_device_target(dev)->img;
	u32 flags = attr ? nla_get_u32(attr) : 0;
	struct qcow_claims *c = &img->claims;
	const struct dm_qcow_run *runs;
	unsigned int n;
	int r;

	if (flags & ~(DM_QCOW_CLAIM_ANEW | DM_QCOW_CLAIM_ALL))
		return -EINVAL;
	r = get_runs(dev, info, qcow_image_bytes(img), &runs, &n);
	if (r)
		return r;
	mutex_lock(&c->lock);
	if (flags & DM_QCOW_CLAIM_ANEW)
		r = begin_anew(dev, img);
	if (!r)
		r = claim_runs(dev, c->anew ? QCOW_CLAIM_ANEW :
			       QCOW_CLAIM_DAEMON, runs, n);
	if (r)
		qcow_claims_abort_anew(c);
	else if (flags & DM_QCOW_CLAIM_ALL && c->anew)
		qcow_claims_end_anew(c);
	mutex_unlock(&c->lock);
	return r;
}

/* Checked runs become grants; claims.lock is not held. */
static int grant_runs(struct qcow_device *dev, const struct dm_qcow_run *runs,
		      unsigned int n)
{
	struct qcow_claims *c = &qcow_device_target(dev)->img->claims;
	int r;

	mutex_lock(&c->lock);
	r = claim_runs(dev, QCOW_CLAIM_DATA, runs, n);
	if (!r) {
		r = qcow_grants_add(dev, runs, n);
		if (r)
			unclaim_runs(dev, QCOW_CLAIM_DATA, runs, n);
	}
	mutex_unlock(&c->lock);
	return r;
}

/* Bytes of the image in which clusters can be granted. */
static u64 grantable(const struct qcow_image *img)
{
	u64 bytes = bdev_nr_bytes(img->bdev);

	return img->external ? bytes : min_t(u64, bytes, bdev_nr_bytes(img->data));
}

static int cmd_grant(struct qcow_device *dev, struct genl_info *info)
{
	struct nlattr *flags = info->attrs[DM_QCOW_A_FLAGS];
	const struct dm_qcow_run *runs;
	struct sk_buff *skb;
	unsigned int n;
	bool opened;
	void *hdr;
	u64 seq;
	int r;

	if (!info->attrs[DM_QCOW_A_SEQ] || !qcow_device_target(dev)->writable ||
	    (flags && nla_get_u32(flags) & ~DM_QCOW_GRANT_HOST_FULL))
		return -EINVAL;
	seq = nla_get_u64(info->attrs[DM_QCOW_A_SEQ]);
	if (seq <= dev->seq)
		return -EALREADY;
	/* not the last cluster if a device cuts it off */
	r = get_runs(dev, info, grantable(qcow_device_image(dev)), &runs, &n);
	if (r)
		return r;
	skb = reply_new(info, 64, &hdr);
	if (!skb)
		return -ENOMEM;
	r = n ? grant_runs(dev, runs, n) : 0;
	if (r) {
		nlmsg_free(skb);
		return r;
	}
	dev->seq = seq;
	if (flags && nla_get_u32(flags) & DM_QCOW_GRANT_HOST_FULL)
		set_bit(QCOW_DEV_HOST_FULL, &dev->flags);
	else if (n)
		clear_bit(QCOW_DEV_HOST_FULL, &dev->flags);
	if (put_u64(skb, DM_QCOW_A_SEQ, seq) ||
	    put_u64(skb, DM_QCOW_A_GRANTED,
		    atomic64_read(&dev->grants.left)))
		WARN_ON_ONCE(1);
	opened = qcow_grants_open(&dev->grants);
	/* without any it is a knock, for those who wait beside what is there */
	if (n || qcow_grants_any(&dev->grants))
		qcow_device_unpark(dev);
	else if (opened)
		qcow_device_repark(dev);
	return reply_send(info, skb, hdr);
}

static int cmd_take(struct qcow_device *dev, struct genl_info *info)
{
	struct nlattr *flags = info->attrs[DM_QCOW_A_FLAGS];
	struct dm_qcow_run *runs;
	struct sk_buff *skb;
	unsigned int n;
	void *hdr;
	int r;

	if (!flags)
		return -EINVAL;
	runs = kvmalloc_array(DM_QCOW_MAX_RUNS, sizeof(*runs), GFP_KERNEL);
	skb = reply_new(info, DM_QCOW_MAX_RUNS * sizeof(*runs) + 64, &hdr);
	if (!runs || !skb) {
		kvfree(runs);
		nlmsg_free(skb);
		return -ENOMEM;
	}
	switch (nla_get_u32(flags)) {
	case DM_QCOW_TAKE_FREED:
		n = qcow_device_take_freed(dev, runs, DM_QCOW_MAX_RUNS);
		break;
	case DM_QCOW_TAKE_GRANTS:
		n = qcow_grants_remove(dev, runs, DM_QCOW_MAX_RUNS);
		break;
	default:
		kvfree(runs);
		nlmsg_free(skb);
		return -EINVAL;
	}
	r = nla_put(skb, DM_QCOW_A_RUNS, n * sizeof(*runs), runs);
	kvfree(runs);
	if (r)
		nlmsg_free(skb);
	else
		r = reply_send(info, skb, hdr);
	/* they are nobody's now: the next attach finds them */
	if (r && n)
		set_bit(QCOW_DEV_LEAKED, &dev->flags);
	return r;
}

static int cmd_commit(struct qcow_device *dev, struct genl_info *info)
{
	struct qcow_image *img = qcow_device_target(dev)->img;
	u64 cookie;

	if (!info->attrs[DM_QCOW_A_COOKIE])
		return -EINVAL;
	if (test_bit(QCOW_DEV_SUSPENDING, &dev->flags) || img->owner != dev)
		return -EBUSY;
	cookie = nla_get_u64(info->attrs[DM_QCOW_A_COOKIE]);
	if (cookie <= dev->cookie)
		return -EALREADY;
	dev->cookie = cookie;
	dev->cookie_ticket = qcow_commit_start(img, true);
	return 0;
}

static int cmd_handover(struct qcow_device *dev, struct genl_info *info)
{
	struct qcow_image *img = qcow_device_target(dev)->img;
	struct sk_buff *skb;
	void *hdr;

	if (test_bit(QCOW_DEV_ACTIVE, &dev->flags))
		return -EBUSY;
	if (qcow_commit_needed(&img->commit) || atomic_read(&dev->nr_held) ||
	    dev->mode >= DM_QCOW_MODE_READ_ONLY)
		return -EIO;
	skb = reply_new(info, 64, &hdr);
	if (!skb)
		return -ENOMEM;
	mutex_lock(&img->lock);
	img->stale |= img->owner == dev;
	mutex_unlock(&img->lock);
	if (put_u64(skb, DM_QCOW_A_GENERATION, img->generation)) {
		nlmsg_free(skb);
		return -EMSGSIZE;
	}
	return reply_send(info, skb, hdr);
}

/* Which of the device's files a message means; -EINVAL: none. */
static int file_index(struct qcow_device *dev, struct genl_info *info)
{
	struct nlattr *flags = info->attrs[DM_QCOW_A_FLAGS];
	struct nlattr *layer = info->attrs[DM_QCOW_A_LAYER];

	if (!layer ||
	    nla_get_u32(layer) >= qcow_device_target(dev)->nr_layers ||
	    (flags && nla_get_u32(flags) & ~DM_QCOW_FILE_DATA))
		return -EINVAL;
	return 2 * nla_get_u32(layer) + (flags && nla_get_u32(flags));
}

static int cmd_hold_file(struct qcow_device *dev, struct genl_info *info)
{
	int index = file_index(dev, info), r;
	struct file *file;

	if (!info->attrs[DM_QCOW_A_FD] || index < 0)
		return -EINVAL;
	file = fget(nla_get_u32(info->attrs[DM_QCOW_A_FD]));
	if (!file)
		return -EBADF;
	r = xa_insert(&dev->files, index, file, GFP_KERNEL);
	if (r)
		fput(file);
	return r == -EBUSY ? -EEXIST : r;
}

static int cmd_get_file(struct qcow_device *dev, struct genl_info *info)
{
	int index = file_index(dev, info), fd, r;
	struct file *file;
	struct sk_buff *skb;
	void *hdr;

	if (index < 0)
		return index;
	file = xa_load(&dev->files, index);
	if (!file)
		return -ENOENT;
	get_file(file);
	fd = get_unused_fd_flags(O_CLOEXEC);
	r = fd < 0 ? fd : 0;
	skb = r ? NULL : reply_new(info, 64, &hdr);
	if (!r && !skb)
		r = -ENOMEM;
	if (!r && nla_put_u32(skb, DM_QCOW_A_FD, fd))
		r = -EMSGSIZE;
	if (r) {
		nlmsg_free(skb);
	} else {
		r = reply_send(info, skb, hdr);
	}
	if (!r) {
		fd_install(fd, file);
		return 0;
	}
	if (fd >= 0)
		put_unused_fd(fd);
	fput(file);
	return r;
}

/**
 * struct command - how a command is served
 * @fn: under the device's lock, the device has a table
 * @session: only for the session's owner
 */
struct command {
	int (*fn)(struct qcow_device *dev, struct genl_info *info);
	bool session;
};

static const struct command commands[DM_QCOW_CMD_MAX + 1] = {
	[DM_QCOW_CMD_GET] = { cmd_get, false },
	[DM_QCOW_CMD_ADOPT] = { cmd_adopt, false },
	[DM_QCOW_CMD_CLAIM] = { cmd_claim, true },
	[DM_QCOW_CMD_GRANT] = { cmd_grant, true },
	[DM_QCOW_CMD_TAKE] = { cmd_take, true },
	[DM_QCOW_CMD_COMMIT] = { cmd_commit, true },
	[DM_QCOW_CMD_HANDOVER] = { cmd_handover, true },
	[DM_QCOW_CMD_HOLD_FILE] = { cmd_hold_file, true },
	[DM_QCOW_CMD_GET_FILE] = { cmd_get_file, true },
};

static int qcow_doit(struct sk_buff *skb, struct genl_info *info)
{
	const struct command *cmd = &commands[info->genlhdr->cmd];
	struct qcow_device *dev;
	unsigned int noio;
	int r;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return -EPERM;
	if (!info->attrs[DM_QCOW_A_DEV])
		return -EINVAL;
	dev = qcow_device_get(nla_get_u64(info->attrs[DM_QCOW_A_DEV]));
	if (!dev)
		return -ENODEV;
	/* commits and resumes take the lock too: no reclaim by I/O under it */
	noio = memalloc_noio_save();
	mutex_lock(&dev->lock);
	if (list_empty(&dev->targets))
		r = -ENODEV;
	else if (cmd->session && !session_ok(dev, info))
		r = -ESTALE;
	else
		r = cmd->fn(dev, info);
	mutex_unlock(&dev->lock);
	memalloc_noio_restore(noio);
	qcow_device_put(dev);
	return r;
}

static int dump_one(struct sk_buff *skb, struct netlink_callback *cb,
		    struct qcow_device *dev)
{
	char name[DM_NAME_LEN];
	void *hdr;
	int r = 0;

	mutex_lock(&dev->lock);
	if (list_empty(&dev->targets) ||
	    dm_copy_name_and_uuid(dev->md, name, NULL))
		goto out;	/* it is going away */
	r = -EMSGSIZE;
	hdr = genlmsg_put(skb, NETLINK_CB(cb->skb).portid,
			  cb->nlh->nlmsg_seq, &qcow_family, NLM_F_MULTI,
			  DM_QCOW_CMD_GET);
	if (!hdr)
		goto out;
	r = put_state(skb, dev, name, atomic_read(&dev->pending));
	if (r)
		genlmsg_cancel(skb, hdr);
	else
		genlmsg_end(skb, hdr);
out:
	mutex_unlock(&dev->lock);
	return r;
}

static int qcow_dumpit(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct qcow_device *dev;

	if (!netlink_capable(cb->skb, CAP_SYS_ADMIN))
		return -EPERM;
	while ((dev = qcow_device_next(cb->args[0]))) {
		u64 nr = dev->nr;
		int r = dump_one(skb, cb, dev);

		qcow_device_put(dev);
		if (r)
			break;
		cb->args[0] = nr;
	}
	return skb->len;
}

#define QCOW_OP(c) {						\
	.cmd = DM_QCOW_CMD_##c, .flags = GENL_ADMIN_PERM,	\
	.doit = qcow_doit,					\
}

static const struct genl_small_ops qcow_ops[] = {
	{
		.cmd = DM_QCOW_CMD_GET,
		.flags = GENL_ADMIN_PERM,
		.doit = qcow_doit,
		.dumpit = qcow_dumpit,
	},
	QCOW_OP(ADOPT),
	QCOW_OP(CLAIM),
	QCOW_OP(GRANT),
	QCOW_OP(TAKE),
	QCOW_OP(COMMIT),
	QCOW_OP(HANDOVER),
	QCOW_OP(HOLD_FILE),
	QCOW_OP(GET_FILE),
};

static const struct genl_multicast_group qcow_groups[] = {
	{
		.name = DM_QCOW_MCGRP_EVENTS,
		.flags = GENL_MCAST_CAP_SYS_ADMIN,
	},
};

static struct genl_family qcow_family __ro_after_init = {
	.name = DM_QCOW_GENL_NAME,
	.version = DM_QCOW_GENL_VERSION,
	.maxattr = DM_QCOW_A_MAX,
	.policy = qcow_policy,
	.parallel_ops = true,
	.module = THIS_MODULE,
	.small_ops = qcow_ops,
	.n_small_ops = ARRAY_SIZE(qcow_ops),
	.mcgrps = qcow_groups,
	.n_mcgrps = ARRAY_SIZE(qcow_groups),
};

void qcow_netlink_event(u64 dev, u32 events)
{
	struct sk_buff *skb = genlmsg_new(64, GFP_NOIO);
	void *hdr;

	if (!skb)
		return;
	hdr = genlmsg_put(skb, 0, 0, &qcow_family, 0, DM_QCOW_CMD_EVENT);
	if (!hdr || put_u64(skb, DM_QCOW_A_DEV, dev) ||
	    nla_put_u32(skb, DM_QCOW_A_EVENTS, events)) {
		nlmsg_free(skb);
		return;
	}
	genlmsg_end(skb, hdr);
	genlmsg_multicast(&qcow_family, skb, 0, 0, GFP_NOIO);
}

static int port_notify(struct notifier_block *nb, unsigned long event,
		       void *data)
{
	struct netlink_notify *n = data;

	if (event == NETLINK_URELEASE && n->protocol == NETLINK_GENERIC &&
	    net_eq(n->net, &init_net))
		qcow_devices_port_closed(n->portid);
	return NOTIFY_DONE;
}

static struct notifier_block port_notifier = {
	.notifier_call = port_notify,
};

int qcow_netlink_init(void)
{
	int r = genl_register_family(&qcow_family);

	if (r)
		return r;
	r = netlink_register_notifier(&port_notifier);
	if (r)
		genl_unregister_family(&qcow_family);
	return r;
}

void qcow_netlink_exit(void)
{
	netlink_unregister_notifier(&port_notifier);
	genl_unregister_family(&qcow_family);
}
