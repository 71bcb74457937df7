/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * I/O in flight, counted per image in two epochs, so that somebody can wait
 * for all I/O that began before a moment without stopping the I/O after it.
 */
#ifndef QCOW_INFLIGHT_H
#define QCOW_INFLIGHT_H

#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/types.h>

struct qcow_inflight_pcpu {
	long nr[2];
};

/**
 * struct qcow_inflight - the counters of one image
 * @pcpu: a bio adds on the CPU where it is mapped and subtracts where it ends
 * @epoch: 0 or 1: which counter new bios take
 * @flip: one flip at a time
 */
struct qcow_inflight {
	struct qcow_inflight_pcpu __percpu *pcpu;
	unsigned int epoch;
	struct mutex flip;
};

int qcow_inflight_init(struct qcow_inflight *in);
void qcow_inflight_exit(struct qcow_inflight *in);

/*
 * Called inside rcu_read_lock(), before the mapping is looked at.  The value
 * is handed to qcow_inflight_end() when the I/O has ended, in any context.
 */
static inline unsigned int qcow_inflight_begin(struct qcow_inflight *in)
{
	unsigned int e = READ_ONCE(in->epoch);

	this_cpu_inc(in->pcpu->nr[e]);
	return e;
}

/* For those who are not in an RCU section. */
static inline unsigned int qcow_inflight_enter(struct qcow_inflight *in)
{
	unsigned int e;

	rcu_read_lock();
	e = qcow_inflight_begin(in);
	rcu_read_unlock();
	return e;
}

static inline void qcow_inflight_end(struct qcow_inflight *in, unsigned int e)
{
	this_cpu_dec(in->pcpu->nr[e]);
}

/* Waits until every I/O that began before the call has ended.  May sleep. */
void qcow_inflight_barrier(struct qcow_inflight *in);

/* The caller has stopped new I/O: waits until none is left.  May sleep. */
void qcow_inflight_drain(struct qcow_inflight *in);

#endif
