// SPDX-License-Identifier: GPL-2.0-only
/*
 * Statistics: sums only.  Owns nothing; readers and writers take no lock.
 */
#include <linux/cpumask.h>
#include <linux/string.h>

#include "stats.h"

void qcow_stats_sum(const struct dm_qcow_stats __percpu *pcpu,
		    struct dm_qcow_stats *sum)
{
	u64 *to = (u64 *)sum;
	unsigned int i;
	int cpu;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		const u64 *from = (const u64 *)per_cpu_ptr(pcpu, cpu);

		for (i = 0; i < sizeof(*sum) / sizeof(u64); i++)
			to[i] += READ_ONCE(from[i]);
	}
}
