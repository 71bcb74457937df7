// SPDX-License-Identifier: GPL-2.0-only
/*
 * Epochs of I/O in flight.
 *
 * Owns the per-CPU counters.  A counter may be negative on one CPU; only the
 * sum means something.  After a flip and synchronize_rcu() nobody adds to the
 * old counter any more, so its sum only falls, and a sum of 0 read CPU by CPU
 * is a true 0.
 *
 * Locking: flip (mutex) serialises barriers; the fast side takes nothing.
 */
#include <linux/delay.h>
#include <linux/rcupdate.h>

#include "inflight.h"

int qcow_inflight_init(struct qcow_inflight *in)
{
	in->pcpu = alloc_percpu(struct qcow_inflight_pcpu);
	if (!in->pcpu)
		return -ENOMEM;
	in->epoch = 0;
	mutex_init(&in->flip);
	return 0;
}

void qcow_inflight_exit(struct qcow_inflight *in)
{
	free_percpu(in->pcpu);
	in->pcpu = NULL;
}

static long inflight_sum(struct qcow_inflight *in, unsigned int e)
{
	long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(in->pcpu, cpu)->nr[e]);
	return sum;
}

static void inflight_wait(struct qcow_inflight *in, unsigned int e)
{
	unsigned int us = 20;

	while (inflight_sum(in, e)) {
		usleep_range(us, 2 * us);
		if (us < 2000)
			us *= 2;
	}
}

void qcow_inflight_barrier(struct qcow_inflight *in)
{
	unsigned int old;

	mutex_lock(&in->flip);
	old = in->epoch;
	WRITE_ONCE(in->epoch, !old);
	synchronize_rcu();
	inflight_wait(in, old);
	mutex_unlock(&in->flip);
}

void qcow_inflight_drain(struct qcow_inflight *in)
{
	qcow_inflight_barrier(in);
	qcow_inflight_barrier(in);
}
