// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An image with a data file is emptied, when the image below has everything:
 * power cuts with two files, of which each may be ahead of the other.
 */
#include "img/image.h"
#include "powercut.h"

static bool is_data[MAX_OPS];

static int log_data(void *opaque, enum blk_file_op op, uint64_t off,
		    uint64_t len, const void *data)
{
	if (n_ops < MAX_OPS)
		is_data[n_ops] = true;
	return cut_log(opaque, op, off, len, data);
}

static bool make(const char *opts)
{
	cut_forget();
	memset(is_data, 0, sizeof(is_data));
	return !sh("rm -f *.qcow2 *.data; qemu-img create -q -f qcow2 b.qcow2 2M && "
		   "qemu-img create -q -f qcow2 -b b.qcow2 -F qcow2 -o data_file=i.data,%s i.qcow2 && "
		   "qemu-io -f qcow2 -c 'write -P 2 100k 700k' -c 'write -P 3 1500k 90k' "
		   "-c 'write -z 1M 64k' i.qcow2 >/dev/null && "
		   "qemu-img convert -f qcow2 -O raw i.qcow2 want.raw && "
		   "qemu-img commit -q -d -f qcow2 i.qcow2 && "
		   "cp i.qcow2 base.qcow2 && cp i.data base.data", opts);
}

static bool empty(void)
{
	struct blk_error e = { .err = 0 };
	struct blk_img *m = NULL;
	int ret = blk_img_open("i.qcow2", false, "qcow2", BLK_IMG_WRITE |
			       BLK_IMG_NO_BACKING | BLK_IMG_BUFFERED, NULL, &m,
			       &e);

	if (!ret) {
		blk_img_file(m)->hook = cut_log;
		blk_img_data_file(m)->hook = log_data;
		ret = blk_img_empty(m, &e);
	}
	if (blk_img_close(m, ret ? NULL : &e))
		ret = -EIO;
	if (ret)
		ksft_print_msg("%s", e.msg);
	return !ret;
}

static size_t last_flush(size_t k, bool data)
{
	while (k && !(ops[k - 1].op == BLK_FILE_OP_FLUSH &&
		      is_data[k - 1] == data))
		k--;
	return k;
}

/* @image, @data: so many ops have reached each file */
static bool state_ok(size_t image, size_t data)
{
	bool ok = !sh("cp base.qcow2 w.qcow2; cp base.data w.data");
	int fd[2] = { open("w.qcow2", O_RDWR | O_CLOEXEC),
		      open("w.data", O_RDWR | O_CLOEXEC) };

	for (size_t k = 0; k < n_ops && ok; k++)
		if (k < (is_data[k] ? data : image))
			ok = apply(fd[is_data[k]], &ops[k], 2);
	close(fd[0]);
	close(fd[1]);
	ok = ok && !sh("qemu-img compare -U -F raw 'json:{\"driver\":\"qcow2\","
		       "\"file\":{\"driver\":\"file\",\"filename\":\"w.qcow2\"},"
		       "\"data-file\":{\"driver\":\"file\",\"filename\":\"w.data\"}}' "
		       "want.raw >/dev/null");
	if (!ok)
		ksft_print_msg("%zu and %zu of %zu ops: reads as something else",
			       image, data, n_ops);
	return ok;
}

static void test_empty(const char *opts)
{
	bool ok = make(opts) && empty() && img_has_leaks("i.qcow2", 0);

	for (size_t k = 0; k <= n_ops && ok; k++)
		ok = state_ok(k, k) && state_ok(last_flush(k, false), k) &&
			state_ok(k, last_flush(k, true));
	ksft_test_result(ok && n_ops, "emptied: %zu ops: %s", n_ops, opts);
}

int main(void)
{
	img_start_fast();
	test_empty("cluster_size=64k");
	test_empty("cluster_size=4k");
	test_empty("extended_l2=on");
	cut_forget();
	ksft_finished();
}
