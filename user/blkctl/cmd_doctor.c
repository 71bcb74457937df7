// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * blkctl doctor: looks at everything that "create" needs and says what is
 * missing and what to do about it.  Changes nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "client.h"
#include "out.h"

#define MODULE_NAME "dm-qcow"

/**
 * struct finding - the result of one check
 * @ok: nothing to do
 * @text: what was seen
 * @hint: what to do, "" when @ok
 */
struct finding {
	bool ok;
	char text[256];
	const char *hint;
};

/* First line of a file in /sys; false if it cannot be read. */
static bool read_line(const char *path, char *buf, size_t room)
{
	FILE *f = fopen(path, "re");
	bool ok;

	if (!f)
		return false;
	ok = fgets(buf, room, f);
	fclose(f);
	if (ok)
		buf[strcspn(buf, "\n")] = '\0';
	return ok;
}

static bool module_loaded(void)
{
	return !access("/sys/module/dm_qcow", F_OK);
}

/* Looks where modprobe looks; lines are "PATH.ko[.xz]: DEPENDENCIES". */
static bool module_installed(const char *release)
{
	char line[512], path[1024];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/lib/modules/%s/modules.dep", release);
	f = fopen(path, "re");
	while (f && !found && fgets(line, sizeof(line), f)) {
		line[strcspn(line, ":")] = '\0';
		if (!strstr(line, "/" MODULE_NAME ".ko"))
			continue;
		snprintf(path, sizeof(path), "/lib/modules/%s/%s", release,
			 line);
		found = !access(path, F_OK);
	}
	if (f)
		fclose(f);
	return found;
}

static void check_module(struct cli *cli, struct finding *f)
{
	char version[64] = "";
	struct utsname u;

	uname(&u);
	read_line("/sys/module/dm_qcow/version", version,
			 sizeof(version));
	if (module_loaded()) {
		f->ok = !*version || !strcmp(version, BLKCTL_VERSION);
		snprintf(f->text, sizeof(f->text), "%s %s%sis loaded",
			 MODULE_NAME, version, *version ? " " : "");
		f->hint = "it is not of version " BLKCTL_VERSION
			  " as the programs are: remove all devices, then modprobe -r "
			  MODULE_NAME " && modprobe " MODULE_NAME;
		return;
	}
	f->ok = module_installed(u.release);
	snprintf(f->text, sizeof(f->text), "%s is %s for kernel %s",
		 MODULE_NAME, f->ok ? "installed, not loaded yet,"
				    : "not installed", u.release);
	f->hint = "make dkms, or: make install";
}

static void check_signature(struct cli *cli, struct finding *f)
{
	char line[128];
	bool enforced, locked;

	enforced = read_line("/sys/module/module/parameters/sig_enforce",
				    line, sizeof(line)) && *line == 'Y';
	locked = read_line("/sys/kernel/security/lockdown", line,
				  sizeof(line)) && !strstr(line, "[none]");
	f->ok = module_loaded() || !(enforced || locked);
	snprintf(f->text, sizeof(f->text), "the kernel %s",
		 enforced || locked ? "accepts only signed modules (Secure Boot)"
				    : "accepts modules without a signature");
	f->hint = "sign the module: mokutil --import /var/lib/dkms/mok.pub, and reboot";
}

static void check_daemon(struct cli *cli, struct finding *f)
{
	client_auto_t *c = NULL;
	json_auto_t *ret = NULL;
	struct blk_error e = { 0 };
	const char *v = "?";

	f->hint = "systemctl start blkctld";
	f->ok = !client_open(cli->socket, &c, &e) &&
		!client_call(c, "query-version", NULL, &ret, &e);
	if (!f->ok) {
		snprintf(f->text, sizeof(f->text), "%.255s", e.msg);
		return;
	}
	json_unpack(ret, "{s?s}", "package", &v);
	snprintf(f->text, sizeof(f->text), "%s answers at %s", v,
		 cli->socket);
}

static void check_root(struct cli *cli, struct finding *f)
{
	f->ok = !geteuid();
	snprintf(f->text, sizeof(f->text), "%s",
		 f->ok ? "this is root" : "this is not root");
	f->hint = "sudo blkctl doctor";
}

static void check_udev(struct cli *cli, struct finding *f)
{
	f->ok = !access("/run/udev/control", F_OK);
	snprintf(f->text, sizeof(f->text), "udev %s",
		 f->ok ? "is running" : "is not running");
	f->hint = "without udev there are no links such as /dev/disk/by-uuid";
}

static const struct check {
	const char *name;
	void (*run)(struct cli *cli, struct finding *f);
} checks[] = {
	{ "root", check_root },
	{ "module", check_module },
	{ "signature", check_signature },
	{ "daemon", check_daemon },
	{ "udev", check_udev },
};

static void print_finding(const char *name, const struct finding *f)
{
	printf("%-10s %-4s %s\n", name, f->ok ? "ok" : "BAD", f->text);
	if (!f->ok)
		printf("%-10s hint: %s\n", "", f->hint);
}

static int run(struct cli *cli, const void *args, struct blk_error *e)
{
	json_t *all = json_array();
	unsigned int bad = 0;
	size_t i;

	for (i = 0; i < sizeof(checks) / sizeof(*checks); i++) {
		struct finding f = { .hint = "" };

		checks[i].run(cli, &f);
		bad += !f.ok;
		json_array_append_new(all,
			json_pack("{s:s, s:b, s:s, s:s}", "check",
				  checks[i].name, "ok", (int)f.ok, "text",
				  f.text, "hint", f.ok ? "" : f.hint));
		if (!cli->json)
			print_finding(checks[i].name, &f);
	}
	if (cli->json)
		out_document(cli, "checks", json_incref(all));
	json_decref(all);
	cli->exit_code = bad ? blk_error_exit(BLK_ERR_UNAVAILABLE) : 0;
	return 0;
}

static const struct opt doctor_opts[] = { {} };

const struct verb verb_doctor = {
	.name = "doctor",
	.summary = "look for what is missing or does not fit",
	.opts = doctor_opts,
	.run = run,
};
