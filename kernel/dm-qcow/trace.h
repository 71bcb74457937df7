/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints: what leaves the hot path, and what changes state.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM dm_qcow

#if !defined(QCOW_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define QCOW_TRACE_H

#include <linux/tracepoint.h>

#include "image.h"

TRACE_EVENT(qcow_slice_load,
	TP_PROTO(const struct qcow_image *img, u64 nr, int error),
	TP_ARGS(img, nr, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, nr)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = img->bdev->bd_dev;
		__entry->nr = nr;
		__entry->error = error;
	),
	TP_printk("image %d:%d slice %llu error %d", MAJOR(__entry->dev),
		  MINOR(__entry->dev), __entry->nr, __entry->error)
);

TRACE_EVENT(qcow_link,
	TP_PROTO(const struct qcow_image *img, u64 slice, u32 idx, u32 nr,
		 u64 host, int error),
	TP_ARGS(img, slice, idx, nr, host, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, slice)
		__field(u32, idx)
		__field(u32, nr)
		__field(u64, host)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = img->bdev->bd_dev;
		__entry->slice = slice;
		__entry->idx = idx;
		__entry->nr = nr;
		__entry->host = host;
		__entry->error = error;
	),
	TP_printk("image %d:%d slice %llu entries %u+%u host %llu error %d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->slice,
		  __entry->idx, __entry->nr, __entry->host, __entry->error)
);

TRACE_EVENT(qcow_fill,
	TP_PROTO(const struct qcow_image *img, u64 guest, u64 host, u64 old),
	TP_ARGS(img, guest, host, old),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u64, guest)
		__field(u64, host)
		__field(u64, old)
	),
	TP_fast_assign(
		__entry->dev = img->bdev->bd_dev;
		__entry->guest = guest;
		__entry->host = host;
		__entry->old = old;
	),
	TP_printk("image %d:%d guest %llu host %llu old %llu",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->guest,
		  __entry->host, __entry->old)
);

TRACE_EVENT(qcow_commit,
	TP_PROTO(const struct qcow_image *img, u32 slices, u32 tables,
		 int error),
	TP_ARGS(img, slices, tables, error),
	TP_STRUCT__entry(
		__field(dev_t, dev)
		__field(u32, slices)
		__field(u32, tables)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = img->bdev->bd_dev;
		__entry->slices = slices;
		__entry->tables = tables;
		__entry->error = error;
	),
	TP_printk("image %d:%d slices %u tables %u error %d",
		  MAJOR(__entry->dev), MINOR(__entry->dev), __entry->slices,
		  __entry->tables, __entry->error)
);

TRACE_EVENT(qcow_mode,
	TP_PROTO(u64 dev, u32 mode, int error),
	TP_ARGS(dev, mode, error),
	TP_STRUCT__entry(
		__field(u64, dev)
		__field(u32, mode)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->mode = mode;
		__entry->error = error;
	),
	TP_printk("device %u:%u mode %u error %d", (u32)(__entry->dev >> 32),
		  (u32)__entry->dev, __entry->mode, __entry->error)
);

TRACE_EVENT(qcow_park,
	TP_PROTO(u64 dev, u32 parked),
	TP_ARGS(dev, parked),
	TP_STRUCT__entry(
		__field(u64, dev)
		__field(u32, parked)
	),
	TP_fast_assign(
		__entry->dev = dev;
		__entry->parked = parked;
	),
	TP_printk("device %u:%u parked %u", (u32)(__entry->dev >> 32),
		  (u32)__entry->dev, __entry->parked)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
