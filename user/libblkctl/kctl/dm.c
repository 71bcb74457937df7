// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Device-mapper, through libdevmapper.
 *
 * Owns: libdevmapper's log (captured per thread, never on stderr), the udev
 * cookies, and the rule that nodes are ready when a call returns.
 * Must not: know what a target's parameters mean.
 * Threads: any.  libdevmapper keeps its list of node operations in static
 * variables, so one mutex covers every call into it; only the suspend ioctl,
 * which may wait for I/O and touches none of them, runs without it, and
 * waiting for udev polls instead of sleeping inside.
 */
#include <ctype.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <libdevmapper.h>
#include <linux/dm-ioctl.h>
#include <linux/dm_qcow.h>

#include "kctl/dm.h"
#include "kctl/modprobe.h"

#define UDEV_WAIT_MS	60000
#define UDEV_POLL_MS	5
#define PRIVATE_FLAGS	(DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG | \
			 DM_UDEV_DISABLE_DISK_RULES_FLAG | \
			 DM_UDEV_DISABLE_OTHER_RULES_FLAG)

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;
static __thread char logged[256];

/* The first error of an operation says most. */
__attribute__((format(printf, 5, 6)))
static void capture(int level, const char *file, int line, int err,
		    const char *fmt, ...)
{
	va_list ap;

	(void)file;
	(void)line;
	(void)err;
	/* bits above the level say where to print; 3 is an error, 2 fatal */
	if ((level & 7) > 3 || logged[0])
		return;
	va_start(ap, fmt);
	vsnprintf(logged, sizeof(logged), fmt, ap);
	va_end(ap);
}

static void library_lock(void)
{
	pthread_mutex_lock(&library);
	dm_log_with_errno_init(capture);
	logged[0] = '\0';
}

static void library_unlock(void)
{
	pthread_mutex_unlock(&library);
}

static int no_memory(struct blk_error *e)
{
	return blk_error_set(e, BLK_ERR_FAILED, ENOMEM, "out of memory");
}

/* Device-mapper itself cannot be reached. */
static int no_control(struct blk_error *e, int err)
{
	if (err == EPERM || err == EACCES || geteuid()) {
		blk_error_set(e, BLK_ERR_UNAVAILABLE, EPERM,
			      "not allowed to use device-mapper");
		blk_error_hint(e, "run it as root");
		return -EPERM;
	}
	blk_error_set(e, BLK_ERR_UNAVAILABLE, err,
		      "device-mapper is not available%s%s",
		      logged[0] ? ": " : "", logged);
	blk_error_hint(e, "modprobe dm-mod");
	return -err;
}

/* What a failed task means; @verb: "create", "resume" … */
static int task_error(struct dm_task *t, const char *verb, const char *name,
		      struct blk_error *e)
{
	int err = dm_task_get_errno(t);

	if (!err && access("/dev/mapper/control", R_OK | W_OK))
		return no_control(e, errno);
	if (err == EPERM || err == EACCES)
		return no_control(e, err);
	if (err == ENXIO || err == ENODEV) {
		return blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				     "there is no device-mapper device \"%s\"",
				     name);
	}
	/* without an errno the library has failed before the ioctl */
	if (!err)
		return blk_error_set(e, BLK_ERR_FAILED, EIO,
				     "cannot %s device \"%s\": %s", verb, name,
				     logged[0] ? logged : "libdevmapper failed");
	return blk_error_set(e, err == EBUSY ? BLK_ERR_BUSY : BLK_ERR_FAILED,
			     err, "cannot %s device \"%s\": %s", verb, name,
			     strerror(err));
}

/* Takes the lock; task_end() drops it.  NULL: it was dropped, @e says why. */
static struct dm_task *task_begin(int type, const char *name,
				  struct blk_error *e)
{
	struct dm_task *t;

	library_lock();
	t = dm_task_create(type);
	if (!t) {
		/* the first call of all asks the driver for its version */
		no_control(e, ENODEV);
	} else if (name && !dm_task_set_name(t, name)) {
		dm_task_destroy(t);
		t = NULL;
		no_memory(e);
	}
	if (!t)
		library_unlock();
	return t;
}

static void task_end(struct dm_task *t)
{
	dm_task_destroy(t);
	library_unlock();
}

/*
 * udev
 */

static void sleep_ms(long ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000L };

	nanosleep(&ts, NULL);
}

/*
 * Waits until udev has handled the events that carry @cookie.  A udev that
 * hangs is not waited for for ever: the device works without its links.
 */
static void udev_wait(uint32_t cookie)
{
	int ready = 0, ok, waited;

	if (!cookie) {
		/* udev is out of the game: the library makes the nodes here */
		library_lock();
		dm_udev_wait(0);
		library_unlock();
		return;
	}
	for (waited = 0; ; waited += UDEV_POLL_MS) {
		library_lock();
		ok = dm_udev_wait_immediate(cookie, &ready);
		if (ok && !ready && waited >= UDEV_WAIT_MS) {
			/* take udev's part of the semaphore, then ours */
			dm_udev_complete(cookie);
			ok = dm_udev_wait_immediate(cookie, &ready);
			ready = 1;
		}
		library_unlock();
		if (!ok || ready)
			return;
		sleep_ms(UDEV_POLL_MS);
	}
}

/* Runs a task that makes a uevent; frees it.  @flags: DM_UDEV_* */
static int run_and_settle(struct dm_task *t, const char *verb,
			  const char *name, uint16_t flags,
			  struct blk_error *e)
{
	uint32_t cookie = 0;
	int ret = 0;

	if (!dm_task_set_cookie(t, &cookie, flags))
		ret = blk_error_set(e, BLK_ERR_FAILED, EIO,
				    "cannot %s device \"%s\": %s", verb, name,
				    logged[0] ? logged : "no udev cookie");
	else if (!dm_task_run(t))
		ret = task_error(t, verb, name, e);
	task_end(t);
	/* also after a failure: it frees the cookie */
	udev_wait(cookie);
	return ret;
}

/*
 * Verbs
 */

int blk_dm_create(const char *name, const char *uuid, struct blk_dm_info *info,
		  struct blk_error *e)
{
	char full[DM_UUID_LEN];
	struct dm_task *t;
	int ret = 0;

	snprintf(full, sizeof(full), "%s%s", BLK_DM_UUID_PREFIX, uuid);
	t = task_begin(DM_DEVICE_CREATE, name, e);
	if (!t)
		return -EIO;
	if (!dm_task_set_uuid(t, full) ||
	    !dm_task_set_add_node(t, DM_ADD_NODE_ON_RESUME))
		ret = no_memory(e);
	else if (!dm_task_run(t))
		ret = task_error(t, "create", name, e);
	task_end(t);
	if (ret == -EBUSY)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "a device-mapper device named \"%s\" "
				     "exists already", name);
	if (!ret) {
		ret = blk_dm_info(name, info, e);
		if (ret)
			blk_dm_remove(name, NULL);
	}
	return ret;
}

static int load_error(struct dm_task *t, const char *name,
		      struct blk_error *e)
{
	int err = dm_task_get_errno(t);

	if (err == EINVAL) {
		blk_error_set(e, BLK_ERR_FAILED, EINVAL,
			      "the kernel refused the table of device \"%s\"",
			      name);
		blk_error_hint(e, "dmesg has the reason");
		return -EINVAL;
	}
	if (err == EBUSY)
		return blk_error_set(e, BLK_ERR_BUSY, EBUSY,
				     "the device below \"%s\" is in use", name);
	if (err == ENXIO || err == ENODEV)
		return blk_error_set(e, BLK_ERR_FAILED, err,
				     "the device below \"%s\" has gone", name);
	return task_error(t, "load the table of", name, e);
}

int blk_dm_load(const char *name, uint64_t sectors, const char *target,
		const char *params, bool read_only, struct blk_error *e)
{
	struct dm_task *t;
	int ret = 0;

	t = task_begin(DM_DEVICE_RELOAD, name, e);
	if (!t)
		return -EIO;
	if (!dm_task_secure_data(t) ||
	    !dm_task_add_target(t, 0, sectors, target, params) ||
	    (read_only && !dm_task_set_ro(t)))
		ret = no_memory(e);
	else if (!dm_task_run(t))
		ret = load_error(t, name, e);
	task_end(t);
	return ret;
}

static int resume(const char *name, uint16_t flags, struct blk_error *e)
{
	struct dm_task *t;

	t = task_begin(DM_DEVICE_RESUME, name, e);
	if (!t)
		return -EIO;
	dm_task_set_add_node(t, DM_ADD_NODE_ON_RESUME);
	return run_and_settle(t, "resume", name, flags, e);
}

int blk_dm_resume(const char *name, struct blk_error *e)
{
	return resume(name, 0, e);
}

int blk_dm_resume_private(const char *name, struct blk_error *e)
{
	return resume(name, PRIVATE_FLAGS, e);
}

int blk_dm_replace(const char *name, struct blk_error *e)
{
	uint32_t cookie = 0;
	struct dm_task *t;
	int sync, ret = 0;

	t = task_begin(DM_DEVICE_RESUME, name, e);
	if (!t)
		return -EIO;
	/*
	 * Nobody waits for udev, but it must be told what it may do: without a
	 * cookie it would take the device's name away.
	 */
	sync = dm_udev_get_sync_support();
	dm_udev_set_sync_support(0);
	dm_task_set_cookie(t, &cookie, PRIVATE_FLAGS);
	dm_task_set_add_node(t, DM_ADD_NODE_ON_CREATE);
	dm_task_no_flush(t);
	dm_task_skip_lockfs(t);
	if (!dm_task_run(t))
		ret = task_error(t, "resume", name, e);
	dm_udev_set_sync_support(sync);
	task_end(t);
	return ret;
}

int blk_dm_suspend(const char *name, bool freeze, struct blk_error *e)
{
	struct blk_dm_info info;
	struct dm_task *t;
	int ret;

	/* opens the control device under the lock */
	ret = blk_dm_info(name, &info, e);
	if (ret)
		return ret;
	t = task_begin(DM_DEVICE_SUSPEND, name, e);
	if (!t)
		return -EIO;
	library_unlock();
	if (!freeze) {
		dm_task_no_flush(t);
		dm_task_skip_lockfs(t);
	}
	logged[0] = '\0';
	ret = dm_task_run(t) ? 0 : task_error(t, "suspend", name, e);
	pthread_mutex_lock(&library);
	task_end(t);
	return ret;
}

int blk_dm_remove(const char *name, struct blk_error *e)
{
	struct dm_task *t;
	int ret;

	t = task_begin(DM_DEVICE_REMOVE, name, e);
	if (!t)
		return -EIO;
	ret = run_and_settle(t, "remove", name, 0, e);
	if (ret == -EBUSY)
		blk_error_set(e, BLK_ERR_BUSY, EBUSY,
			      "device \"%s\" is in use", name);
	return ret;
}

/*
 * Looking
 */

static void info_fill(struct dm_task *t, const struct dm_info *in,
		      struct blk_dm_info *out)
{
	const char *uuid = dm_task_get_uuid(t);

	memset(out, 0, sizeof(*out));
	out->dev = DM_QCOW_DEV(in->major, in->minor);
	out->open_count = in->open_count;
	out->suspended = in->suspended;
	out->read_only = in->read_only;
	out->live_table = in->live_table;
	out->inactive_table = in->inactive_table;
	if (uuid)
		snprintf(out->uuid, sizeof(out->uuid), "%s", uuid);
}

int blk_dm_info(const char *name, struct blk_dm_info *info,
		struct blk_error *e)
{
	struct dm_info in;
	struct dm_task *t;
	int ret = 0;

	t = task_begin(DM_DEVICE_INFO, name, e);
	if (!t)
		return -EIO;
	if (!dm_task_run(t) || !dm_task_get_info(t, &in))
		ret = task_error(t, "look at", name, e);
	else if (!in.exists)
		ret = blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				    "there is no device-mapper device \"%s\"",
				    name);
	else
		info_fill(t, &in, info);
	task_end(t);
	return ret;
}

/* The first target of a table or status task that has been run. */
static int first_target(struct dm_task *t, const char *name,
			uint64_t *sectors, char **target, char **params,
			struct blk_error *e)
{
	uint64_t start = 0, length = 0;
	char *type = NULL, *args = NULL;

	dm_get_next_target(t, NULL, &start, &length, &type, &args);
	if (!type)
		return blk_error_set(e, BLK_ERR_FAILED, ENODATA,
				     "device \"%s\" has no table", name);
	*target = strdup(type);
	*params = strdup(args ? args : "");
	if (!*target || !*params) {
		free(*target);
		free(*params);
		*target = *params = NULL;
		return no_memory(e);
	}
	if (sectors)
		*sectors = length;
	return 0;
}

static int ask(int type, const char *name, bool inactive, uint64_t *sectors,
	       char **target, char **params, struct blk_error *e)
{
	struct dm_info in;
	struct dm_task *t;
	int ret;

	*target = *params = NULL;
	t = task_begin(type, name, e);
	if (!t)
		return -EIO;
	if (inactive)
		dm_task_query_inactive_table(t);
	dm_task_secure_data(t);
	if (!dm_task_no_flush(t) || !dm_task_run(t) || !dm_task_get_info(t, &in))
		ret = task_error(t, "look at", name, e);
	else if (!in.exists)
		ret = blk_error_set(e, BLK_ERR_NOT_FOUND, ENOENT,
				    "there is no device-mapper device \"%s\"",
				    name);
	else
		ret = first_target(t, name, sectors, target, params, e);
	task_end(t);
	return ret;
}

int blk_dm_table(const char *name, uint64_t *sectors, char **target,
		 char **params, struct blk_error *e)
{
	return ask(DM_DEVICE_TABLE, name, false, sectors, target, params, e);
}

int blk_dm_status(const char *name, char **target, char **params,
		  struct blk_error *e)
{
	return ask(DM_DEVICE_STATUS, name, false, NULL, target, params, e);
}

static bool has_our_table(const char *name, const char *arg)
{
	char *target, *params;
	bool ours = false;
	int i;

	(void)arg;
	for (i = 0; i < 2 && !ours; i++) {
		if (ask(DM_DEVICE_TABLE, name, i, NULL, &target, &params, NULL))
			continue;
		ours = !strcmp(target, DM_QCOW_TARGET_NAME);
		free(target);
		free(params);
	}
	return ours;
}

static int names_copy(struct dm_names *in, char ***names)
{
	size_t n = 0;
	char **v = NULL, **grown;

	*names = NULL;
	for (;;) {
		grown = realloc(v, (n + 2) * sizeof(*v));
		if (!grown)
			goto fail;
		v = grown;
		v[n] = v[n + 1] = NULL;
		if (!in->dev)
			break;
		v[n] = strdup(in->name);
		if (!v[n++])
			goto fail;
		if (!in->next)
			break;
		in = (struct dm_names *)((char *)in + in->next);
	}
	*names = v;
	return 0;
fail:
	blk_dm_list_free(v);
	return -ENOMEM;
}

static int list_all(char ***names, struct blk_error *e)
{
	struct dm_names *in;
	struct dm_task *t;
	int ret;

	t = task_begin(DM_DEVICE_LIST, NULL, e);
	if (!t)
		return -EIO;
	in = dm_task_run(t) ? dm_task_get_names(t) : NULL;
	if (!in)
		ret = no_control(e, dm_task_get_errno(t) ?: EIO);
	else
		ret = names_copy(in, names) ? no_memory(e) : 0;
	task_end(t);
	return ret;
}

static int list(bool (*wanted)(const char *name, const char *arg),
		const char *arg, char ***names, struct blk_error *e)
{
	char **all, **from, **to;
	int ret;

	*names = NULL;
	ret = list_all(&all, e);
	if (ret)
		return ret;
	for (from = to = all; *from; from++) {
		if (wanted(*from, arg))
			*to++ = *from;
		else
			free(*from);
	}
	*to = NULL;
	*names = all;
	return 0;
}

int blk_dm_list(char ***names, struct blk_error *e)
{
	return list(has_our_table, NULL, names, e);
}

static bool has_uuid(const char *name, const char *prefix)
{
	size_t len = strlen(BLK_DM_UUID_PREFIX);
	struct blk_dm_info info;

	return !blk_dm_info(name, &info, NULL) &&
		!strncmp(info.uuid, BLK_DM_UUID_PREFIX, len) &&
		!strncmp(info.uuid + len, prefix, strlen(prefix));
}

int blk_dm_list_uuid(const char *prefix, char ***names, struct blk_error *e)
{
	return list(has_uuid, prefix, names, e);
}

void blk_dm_list_free(char **names)
{
	char **p;

	for (p = names; p && *p; p++)
		free(*p);
	free(names);
}

/* 1 yes, 0 no, or -errno */
static int find_target(const char *target, struct blk_error *e)
{
	struct dm_versions *v;
	struct dm_task *t;
	int ret = 0;

	t = task_begin(DM_DEVICE_LIST_VERSIONS, NULL, e);
	if (!t)
		return -EIO;
	v = dm_task_run(t) ? dm_task_get_versions(t) : NULL;
	if (!v)
		ret = no_control(e, dm_task_get_errno(t) ?: EIO);
	while (v && !ret) {
		ret = !strcmp(v->name, target);
		v = v->next ?
			(struct dm_versions *)((char *)v + v->next) : NULL;
	}
	task_end(t);
	return ret;
}

int blk_dm_has_target(const char *target, bool load, struct blk_error *e)
{
	char module[64], why[160] = "";
	int ret;

	ret = find_target(target, e);
	if (ret == 1 || !load)
		return ret;
	snprintf(module, sizeof(module), "dm-%s", target);
	blk_modprobe(module, why, sizeof(why));
	ret = find_target(target, e);
	if (ret)
		return ret;
	blk_error_set(e, BLK_ERR_UNAVAILABLE, ENOENT,
		      "the kernel module %s is not loaded%s%s", module,
		      why[0] ? ": " : "", why);
	if (strcmp(target, DM_QCOW_TARGET_NAME))
		blk_error_hint(e, "modprobe %s", module);
	else
		blk_error_hint(e, "modprobe %s; \"dkms status\" says whether "
			       "it was built for this kernel", module);
	return 0;
}

int blk_dm_check_name(const char *name, struct blk_error *e)
{
	const char *p;

	if (!name[0])
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "a device name is empty");
	if (strlen(name) >= DM_NAME_LEN)
		return blk_error_set(e, BLK_ERR_USAGE, ENAMETOOLONG,
				     "the device name is longer than %d bytes",
				     DM_NAME_LEN - 1);
	if (!strcmp(name, ".") || !strcmp(name, "..") ||
	    !strcmp(name, "control"))
		return blk_error_set(e, BLK_ERR_USAGE, EINVAL,
				     "a device cannot be named \"%s\"", name);
	for (p = name; *p; p++) {
		/* what udev and libdevmapper leave as it is in /dev/mapper */
		if ((unsigned char)*p < 0x80 &&
		    (isalnum((unsigned char)*p) || strchr("#+-.:=@_", *p)))
			continue;
		blk_error_set(e, BLK_ERR_USAGE, EINVAL,
			      "a device name cannot have the byte 0x%02x",
			      (unsigned char)*p);
		blk_error_hint(e, "use letters, digits and # + - . : = @ _");
		return -EINVAL;
	}
	return 0;
}
