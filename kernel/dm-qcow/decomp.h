/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef QCOW_DECOMP_H
#define QCOW_DECOMP_H
#include "image.h"
struct bio;
int qcow_decomp_init(void);
void qcow_decomp_exit(void);
int qcow_decomp_cache_init(struct qcow_image *img);
void qcow_decomp_cache_exit(struct qcow_image *img);
void qcow_decomp_drop(struct qcow_image *img);
bool qcow_decomp_hit(struct qcow_image *img, u64 entry, u32 in, struct bio *bio);
void qcow_decomp_bio(struct qcow_image *img, u64 entry, u32 in, struct bio *bio);
int qcow_decomp_read(struct qcow_image *img, u64 entry, u32 in, void *buf, u32 len);
#endif
