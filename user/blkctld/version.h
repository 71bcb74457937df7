/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BLKCTLD_VERSION_H
#define BLKCTLD_VERSION_H

/* The build gives the project's version. */
#ifndef BLKCTL_VERSION
#define BLKCTL_VERSION "0"
#endif

/* The version of QEMU whose interface is followed, for clients that look. */
#define QMP_COMPAT_MAJOR 10
#define QMP_COMPAT_MINOR 2

#endif
