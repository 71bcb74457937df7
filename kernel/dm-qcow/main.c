// SPDX-License-Identifier: GPL-2.0-only
/*
 * dm-qcow: qcow2 images as block devices.  Module loading and unloading.
 */
#include <linux/device-mapper.h>
#include <linux/module.h>

#include "cow.h"
#include "decomp.h"
#include "netlink.h"
#include "slice.h"
#include "target.h"

#if BITS_PER_LONG != 64
#error "dm-qcow needs a 64-bit kernel"
#endif

static int __init qcow_init(void)
{
	int r;

	r = qcow_slices_init();
	if (r)
		return r;
	r = qcow_fill_init();
	if (r)
		goto slices;
	r = qcow_decomp_init();
	if (r)
		goto fill;
	r = qcow_netlink_init();
	if (r)
		goto decomp;
	r = dm_register_target(&qcow_target_type);
	if (r)
		goto netlink;
	return 0;
netlink:
	qcow_netlink_exit();
decomp:
	qcow_decomp_exit();
fill:
	qcow_fill_exit();
slices:
	qcow_slices_exit();
	return r;
}

static void __exit qcow_exit(void)
{
	dm_unregister_target(&qcow_target_type);
	qcow_netlink_exit();
	qcow_decomp_exit();
	qcow_fill_exit();
	qcow_slices_exit();
}

module_init(qcow_init);
module_exit(qcow_exit);

MODULE_DESCRIPTION("device-mapper target for qcow2 images");
MODULE_VERSION("0.1.0");
MODULE_LICENSE("GPL");
MODULE_ALIAS("dm-qcow");
