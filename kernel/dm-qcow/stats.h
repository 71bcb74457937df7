/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Per-CPU counters of a device, in the layout of struct dm_qcow_stats.
 */
#ifndef QCOW_STATS_H
#define QCOW_STATS_H

#include <linux/percpu.h>
#include <linux/dm_qcow.h>

/* 32-bit machines may read a torn counter; these are statistics. */
#define qcow_stat_inc(pcpu, field)	this_cpu_inc((pcpu)->field)
#define qcow_stat_add(pcpu, field, n)	this_cpu_add((pcpu)->field, n)

/* Adds up all CPUs' counters. */
void qcow_stats_sum(const struct dm_qcow_stats __percpu *pcpu,
		    struct dm_qcow_stats *sum);

#endif
