/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the verbs of "blkctl image" share: work on images that are not
 * attached, without a daemon and without root.
 */
#ifndef BLKCTL_IMAGE_IMAGE_H
#define BLKCTL_IMAGE_IMAGE_H

#include "cli.h"
#include "out.h"

#endif
