// SPDX-License-Identifier: GPL-2.0-only
#include "decomp.h"
#include "io.h"
int qcow_decomp_init(void) { return 0; }
void qcow_decomp_exit(void) {}
int qcow_decomp_cache_init(struct qcow_image *img) { return 0; }
void qcow_decomp_cache_exit(struct qcow_image *img) {}
void qcow_decomp_drop(struct qcow_image *img) {}
bool qcow_decomp_hit(struct qcow_image *img, u64 entry, u32 in, struct bio *bio) { return false; }
void qcow_decomp_bio(struct qcow_image *img, u64 entry, u32 in, struct bio *bio) { qcow_bio_end(bio, BLK_STS_NOTSUPP); }
int qcow_decomp_read(struct qcow_image *img, u64 entry, u32 in, void *buf, u32 len) { return -EIO; }
