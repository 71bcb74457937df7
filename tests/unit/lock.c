// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Image locks against QEMU's own programs, both ways.
 */
#include "image.h"

#define IMAGE "lock.qcow2"

static struct blk_file *open_file(bool writable)
{
	struct blk_file *f = NULL;
	struct blk_error e;

	blk_file_open(IMAGE, writable ? BLK_FILE_WRITE : 0, &f, &e);
	return f;
}

/* Locks, looks at the error, unlocks. */
static int try_lock(bool writable, struct blk_error *e)
{
	struct blk_file *f = open_file(writable);
	int ret = blk_lock_image(f->fd, f->path, writable, e);

	blk_file_close(f);
	return ret;
}

/* Waits until the other program has its locks. */
static bool wait_locked(bool writable)
{
	for (int i = 0; i < 100; i++) {
		if (try_lock(writable, NULL) == -EBUSY)
			return true;
		usleep(50000);
	}
	return false;
}

static pid_t spawn(char *const argv[])
{
	pid_t pid = fork();

	if (!pid) {
		int in[2];

		/* a standard input that never ends */
		if (pipe(in) || dup2(in[0], 0) < 0 ||
		    !freopen("/dev/null", "w", stdout) ||
		    !freopen("/dev/null", "w", stderr))
			_exit(127);
		execvp(argv[0], argv);
		_exit(127);
	}
	return pid;
}

static void stop(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void test_against(const char *name, char *const argv[],
			 bool they_write)
{
	struct blk_error e = { 0 };
	pid_t pid = spawn(argv);
	char who[64];
	int ret;

	ksft_test_result(wait_locked(true), "%s keeps writers out", name);
	ret = try_lock(true, &e);
	snprintf(who, sizeof(who), "process %d (%.15s", (int)pid, argv[0]);
	ksft_test_result(ret == -EBUSY && e.cls == BLK_ERR_BUSY &&
			 strstr(e.msg, who), "and is named: %s", e.msg);
	ret = try_lock(false, &e);
	ksft_test_result(ret == (they_write ? -EBUSY : 0),
			 "%s: readers may %scome in", name,
			 they_write ? "not " : "");
	stop(pid);
	ksft_test_result(!try_lock(true, &e), "%s is gone", name);
}

static void test_qemu_holds(void)
{
	char *nbd[] = { "qemu-nbd", "-f", "qcow2", "-t", "-k",
			"/proc/self/cwd/sock", IMAGE, NULL };
	char *nbd_ro[] = { "qemu-nbd", "-r", "-f", "qcow2", "-t", "-k",
			   "/proc/self/cwd/sock", IMAGE, NULL };
	char *qsd[] = { "qemu-storage-daemon", "--blockdev",
			"driver=file,filename=" IMAGE ",node-name=f",
			"--blockdev", "driver=qcow2,file=f,node-name=q", NULL };
	char *io[] = { "qemu-io", "-f", "qcow2", IMAGE, NULL };

	test_against("qemu-nbd", nbd, true);
	test_against("qemu-nbd -r", nbd_ro, false);
	test_against("qemu-storage-daemon", qsd, true);
	test_against("qemu-io", io, true);
}

static void test_we_write(void)
{
	struct blk_file *f = open_file(true);
	struct blk_error e = { 0 };

	ksft_test_result(!blk_lock_image(f->fd, f->path, true, &e),
			 "we lock as a writer");
	ksft_test_result(sh("qemu-img check " IMAGE " >/dev/null 2>&1"),
			 "qemu-img check refuses");
	ksft_test_result(sh("qemu-img info " IMAGE " >/dev/null 2>&1"),
			 "qemu-img info refuses");
	ksft_test_result(!sh("qemu-img info -U " IMAGE " >/dev/null 2>&1"),
			 "qemu-img info -U works");
	ksft_test_result(sh("qemu-io -f qcow2 -c 'write 0 1' " IMAGE
			    " >/dev/null 2>&1"), "qemu-io refuses");
	ksft_test_result(try_lock(true, &e) == -EBUSY &&
			 strstr(e.msg, "by this process"),
			 "a second writer of ours: %s", e.msg);
	ksft_test_result(try_lock(false, &e) == -EBUSY, "a reader of ours");
	blk_unlock_image(f->fd);
	ksft_test_result(!try_lock(true, &e), "unlocked");
	blk_file_close(f);
}

static void test_we_read(void)
{
	struct blk_file *f = open_file(false);
	struct blk_error e = { 0 };

	ksft_test_result(!blk_lock_image(f->fd, f->path, false, &e),
			 "we lock as a reader");
	ksft_test_result(!try_lock(false, &e), "another reader");
	ksft_test_result(try_lock(true, &e) == -EBUSY, "no writer");
	ksft_test_result(!sh("qemu-img check " IMAGE " >/dev/null 2>&1"),
			 "qemu-img check works");
	ksft_test_result(sh("qemu-io -f qcow2 -c 'write 0 1' " IMAGE
			    " >/dev/null 2>&1"), "qemu-io refuses to write");
	blk_file_close(f);
}

/* The locks live with the open file, whoever holds it. */
static void test_lifetime(void)
{
	struct blk_file *f = open_file(true);
	struct blk_error e = { 0 };
	int fd = dup(f->fd);

	blk_lock_image(f->fd, f->path, true, &e);
	blk_file_close(f);
	ksft_test_result(try_lock(true, &e) == -EBUSY,
			 "a duplicate keeps the locks");
	close(fd);
	ksft_test_result(!try_lock(true, &e), "the last close drops them");
}

int main(void)
{
	img_start();
	sh("qemu-img create -q -f qcow2 " IMAGE " 16M");
	test_we_write();
	test_we_read();
	test_lifetime();
	if (sh("qemu-storage-daemon --version >/dev/null 2>&1"))
		ksft_test_result_skip("QEMU holds the image",
				      "qemu-storage-daemon is not installed");
	else
		test_qemu_holds();
	ksft_finished();
}
