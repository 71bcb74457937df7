/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model of commits, grants, freed clusters and adoption, for spin.
 *
 * It has the steps of kernel/dm-qcow (commit.c, grant.c, pending.c, cow.c,
 * l2table.c, zero.c, inflight.c) and of user/libblkctl (kctl/grant.c,
 * kctl/adopt.c, kctl/scan.c, fmt/qcow2_alloc.c, fmt/qcow2_release.c) that
 * others may come between, and the disk with a volatile cache. tests/model/run
 * checks it in several sizes, and that every broken rule (BREAK_...) is found.
 *
 * A crash needs no step of its own: each object of the disk has what was
 * written last and what else it may have after a crash now; check() judges all
 * combinations after each change of the disk. A write is in that set from its
 * submission on, a flush takes out all but what was complete when it began.
 *
 * What is left out: errors of the metadata device (the device is read-only from
 * then on), memory shortage (more leaks), discards of parts, a second device.
 *
 * Sizes: NC clusters, numbered from 1; NE guest clusters; NS L2 tables, of one
 * slice each; NW writers, of OPS operations each. Options: TABLE (there is one
 * at first), OLD (guest clusters have compressed data at first), SNAP (they
 * share table and data with a snapshot), READER, FUA, DISCARD, NOFLUSH (nobody
 * flushes), FAIL (one write fails), NOZERO (nothing granted is said to read as
 * zeroes), KILLS (how often the daemon dies), MOVE (how often it moves its
 * metadata).
 */
#ifndef NC
#define NC	3
#endif
#ifndef NE
#define NE	1
#endif
#ifndef NS
#define NS	1
#endif
#ifndef OPS
#define OPS	2
#endif
#ifndef KILLS
#define KILLS	0
#endif
#ifndef FAIL
#define FAIL	0
#endif
#ifndef NW
#define NW	NE
#endif
#ifndef GRANT
#define GRANT	2	/* the daemon keeps so many granted */
#endif

#define BIT(n)	(1 << (n))
#define S(e)	((e) * NS / NE)
#define TABLE_OF_OTHERS	15	/* an L2 entry of unknown content */
#define NO_BASE	7

/* what a data cluster has: junk, zeroes, a version of its guest cluster */
#define JUNK	1
#define ZERO	2
#define VER(v)	(4 << (v))

/*
 * The disk
 */

byte rc[NC + 1];	/* refcounts as written */
byte rc_min[NC + 1];	/* the lowest that a crash leaves */
byte l1[NS], l1_old[NS];
byte l2[NE], l2_old[NE];	/* the table that the kernel writes */
byte l2v[NE], l2v_old[NE];	/* version that an entry without cluster shows */
byte data[NC + 1];	/* one bit */
byte data_set[NC + 1];	/* what it may be after a crash */
byte who[NC + 1];	/* whose data it is: guest cluster + 1 */
byte base[NC + 1];	/* version that zeroes in it show */
byte acked[NE];		/* versions promised by a flush */
#ifdef SNAP
byte snap_table[NS], snap_data[NE];
#define SHARED(c)	(is_shared & BIT(c))
byte is_shared;
#else
#define SHARED(c)	0
#endif
#ifdef MOVE
byte meta, meta_old;	/* the daemon's own metadata */
#endif

hidden byte i_, j_;

inline check_entry(e, c, v) {
	if
	:: c == 0 -> assert(v >= acked[e])
	:: else ->
		assert(c != TABLE_OF_OTHERS);		/* L2 before L1 */
		assert(rc_min[c] > (SHARED(c) -> 1 : 0)); /* refcount before L2 */
		assert(who[c] == e + 1 && !(data_set[c] & JUNK));
		assert(!(data_set[c] & ZERO) ||
		       (base[c] != NO_BASE && base[c] >= acked[e]));
		assert(!((data_set[c] >> 2) & (BIT(acked[e]) - 1)))
	fi
}

inline check_table(s, t) {
	if
	:: t == 0 ->
		for (j_ : 0 .. NE - 1) {
			assert(S(j_) != s || acked[j_] == 0)
		}
#ifdef SNAP
	:: t == snap_table[s] ->
		assert(rc_min[t] >= 2);
		for (j_ : 0 .. NE - 1) {
			if
			:: S(j_) == s ->
				assert(rc_min[snap_data[j_]] >= 2);
				assert(acked[j_] == 0)
			:: else
			fi
		}
#endif
	:: else ->
		assert(rc_min[t] >= 1);
		for (j_ : 0 .. NE - 1) {
			if
			:: S(j_) == s ->
				check_entry(j_, l2[j_], l2v[j_]);
				check_entry(j_, l2_old[j_], l2v_old[j_])
			:: else
			fi
		}
	fi
}

/* No crash at this moment does more than leak. */
inline check() {
	for (i_ : 0 .. NS - 1) {
		check_table(i_, l1[i_]);
		if
		:: l1_old[i_] != l1[i_] -> check_table(i_, l1_old[i_])
		:: else
		fi
	}
#ifdef SNAP
	for (i_ : 0 .. NE - 1) {
		assert(rc_min[snap_data[i_]] && data_set[snap_data[i_]] == VER(0));
		assert(rc_min[snap_table[S(i_)]])
	}
#endif
#ifdef MOVE
	assert(rc_min[meta] && rc_min[meta_old]);
#endif
	i_ = 0
}

inline flush_device() {
	d_step {
		for (i_ : 1 .. NC) {
			rc_min[i_] = rc[i_];
			data_set[i_] = data[i_]
		}
		for (i_ : 0 .. NE - 1) {
			l2_old[i_] = l2[i_];
			l2v_old[i_] = l2v[i_]
		}
		for (i_ : 0 .. NS - 1) {
			l1_old[i_] = l1[i_]
		}
#ifdef MOVE
		meta_old = meta
#endif
		check()
	}
}

/* Two writes of one object without a flush: the first may be there or not. */
inline l2_write(e, c, v) {
	if
	:: l2_old[e] = l2[e]; l2v_old[e] = l2v[e]
	:: l2_old[e] != l2[e]
	fi;
	d_step {
		l2[e] = c;
		l2v[e] = v;
		check()
	}
}

inline rc_write(c, n) {
	rc[c] = n;
	rc_min[c] = (rc_min[c] < rc[c] -> rc_min[c] : rc[c])
}

/*
 * Where each cluster is: one place at a time
 */

mtype = { FREE, HELD, GRANTED, TAKEN, MAPPED, FREED, KEPT };
mtype place[NC + 1] = FREE;

inline move(c, from, to) {
	assert(place[c] == from);
	place[c] = to
}

/*
 * The kernel's memory
 */

byte table[NS];			/* L1 entries */
bool table_new[NS];		/* no L1 entry on disk names it yet */
bool table_frozen[NS];
bool table_whole[NS];		/* its content is on its way: zeroes or a copy */
bool table_shared[NS];
byte ent[NE], entv[NE];		/* settled entries; the version shown by zeroes */
bool ent_own[NE];		/* COPIED: written in place */
byte pend[NE];			/* the new cluster of a pending entry */
bool pend_join[NE];
byte pend_users[NE];
bool locked[NE];		/* by a copy-on-write */
bool s_dirty[NS], s_commit[NS], s_data[NS], s_listed[NS];

byte granted, zeroed;		/* bitmaps of clusters */
bool closed;			/* the daemon has taken all of them */
byte in_flight[2], epoch;
bool making_table;

bool c_work, c_barrier;
byte c_freed, r_freed;		/* bitmaps: they wait for a commit; for one that runs */
byte c_asked, c_done;
byte freed;			/* bitmap: for the daemon to be taken */
byte waits[NW];			/* 0, 1: queued, 2: taken, 3: done */

byte version[NE], done[NE];
byte failures = FAIL;
byte writers = NW;
bool suspended;

#define needed	(table_new[0] || s_dirty[0] || s_commit[0] || \
		 table_new[NS - 1] || s_dirty[NS - 1] || s_commit[NS - 1])
#define dirty	(s_listed[0] || s_listed[NS - 1] || c_freed || \
		 table_new[0] || table_new[NS - 1])

inline enter(e_) {
	e_ = epoch;
	in_flight[e_]++
}

inline leave(e_) {
	in_flight[e_]--
}

/* All that began before has ended. */
inline epoch_barrier(e_) {
	d_step {
		e_ = epoch;
		epoch = 1 - epoch
	}
	in_flight[e_] == 0
}

#ifdef BREAK_CLOSED_GRANTS
#define can_take	(granted != 0)
#else
#define can_take	(granted != 0 && !closed)
#endif

inline select_bit(c, mask) {
	if
	:: mask & BIT(1) -> c = 1
	:: mask & BIT(2) -> c = 2
	:: NC > 2 && mask & BIT(3) -> c = 3
	:: NC > 3 && mask & BIT(4) -> c = 4
	:: NC > 4 && mask & BIT(5) -> c = 5
	:: NC > 5 && mask & BIT(6) -> c = 6
	fi
}

/* which of them is not said */
inline grant_take(c, z) {
	select_bit(c, granted);
	granted = granted & ~BIT(c);
	z = (zeroed & BIT(c)) != 0;
	zeroed = zeroed & ~BIT(c);
	move(c, GRANTED, TAKEN)
}

/* Its content is not known. */
inline grant_put(c) {
	move(c, TAKEN, GRANTED);
	data[c] = JUNK;
	data_set[c] = data_set[c] | JUNK;
	granted = granted | BIT(c);
#ifdef BREAK_PUT_AS_ZEROES
	zeroed = zeroed | BIT(c)
#endif
}

inline entry_link(e, c, v, flush_first) {
	ent[e] = c;
	entv[e] = v;
	ent_own[e] = true;
	s_data[S(e)] = s_data[S(e)] || flush_first;
	if
	:: !s_dirty[S(e)] ->
		s_dirty[S(e)] = true;
		s_listed[S(e)] = true
	:: else
	fi
}

/*
 * commit.c
 */

inline table_clear(s) {
	byte x;
	for (x : 0 .. NE - 1) {
		if
		:: S(x) == s -> l2_write(x, 0, 0)
		:: else
		fi
	}
	x = 0
}

/* l1_copy(): the tables of this commit, and no other that is new */
inline l1_write(s) {
	if
#ifndef BREAK_L1_COPY
	:: table_new[s] && !table_frozen[s] -> skip
#endif
	:: else ->
		if
		:: l1_old[s] = l1[s]
		:: l1_old[s] != l1[s]
		fi;
		d_step {
			l1[s] = table[s];
			check()
		}
	fi
}

proctype commit() {
	byte ticket, ep, k;
	bool barrier, r_dirty[NS], r_table, flush_first;
	byte copy[NE], copyv[NE];

end:	do
	:: atomic {
		c_work || dirty ->
		c_work = false;
		ticket = c_asked;
		barrier = c_barrier;
		c_barrier = false
	   }
	   if
#ifndef BREAK_BARRIER
	   :: barrier -> epoch_barrier(ep)
#endif
	   :: else
	   fi;
	   d_step {
		ep = 0;
		r_freed = c_freed;
		c_freed = 0;
		for (k : 0 .. NS - 1) {
			r_dirty[k] = s_listed[k];
			s_listed[k] = false
		}
		for (k : 0 .. NW - 1) {
			waits[k] = (waits[k] == 1 -> 2 : waits[k])
		}
		k = 0
	   }
#ifdef BREAK_FREE_BEFORE_COMMIT
	   atomic { freed = freed | r_freed; r_freed = 0 }
#endif
	   /* tables_freeze() */
	   for (k : 0 .. NS - 1) {
		atomic {
			if
			:: table_new[k] ->
				table_frozen[k] = true;
				r_table = true;
#ifndef BREAK_TABLE_ZEROES
				if
				:: !table_whole[k] -> table_clear(k)
				:: else
				fi
#endif
			:: else
			fi
		}
	   }
	   k = 0;
	   /* commit_batch() */
	   d_step {
		for (k : 0 .. NS - 1) {
			if
			:: r_dirty[k] ->
				flush_first = flush_first || s_data[k];
				s_dirty[k] = false;
				s_data[k] = false;
				s_commit[k] = true
			:: else
			fi
		}
		for (k : 0 .. NE - 1) {
			copy[k] = ent[k];
			copyv[k] = entv[k]
		}
		k = 0
	   }
	   if
#ifndef BREAK_DATA_FLUSH
	   :: flush_first -> flush_device(); flush_first = false
#endif
	   :: else
	   fi;
	   for (k : 0 .. NE - 1) {
		atomic {
			if
			:: r_dirty[S(k)] ->
#ifdef BREAK_COPIES
				copy[k] = ent[k];
				copyv[k] = entv[k];
#endif
				l2_write(k, copy[k], copyv[k])
			:: else
			fi
		}
	   }
#ifndef BREAK_L2_FLUSH
	   flush_device();
#endif
	   if
	   :: r_table ->
		atomic {
			for (k : 0 .. NS - 1) {
				l1_write(k)
			}
		}
		flush_device();
		r_table = false
	   :: else
	   fi;
	   /* commit_end() */
	   d_step {
		flush_first = false;
		for (k : 0 .. NE - 1) {
			copy[k] = 0;
			copyv[k] = 0
		}
		for (k : 0 .. NS - 1) {
			if
			:: table_frozen[k] ->
				table_frozen[k] = false;
				table_new[k] = false
			:: else
			fi;
			if
			:: r_dirty[k] ->
				s_commit[k] = false;
#ifdef BREAK_CLEAN_ALL
				s_dirty[k] = false;
				s_listed[k] = false;
#endif
				r_dirty[k] = false
			:: else
			fi
		}
		for (k : 0 .. NW - 1) {
			waits[k] = (waits[k] == 2 -> 3 : waits[k])
		}
		k = 0
	   }
	   if
	   :: r_freed ->
#ifndef BREAK_EPOCH
		epoch_barrier(ep);
#endif
		atomic {
			freed = freed | r_freed;
			r_freed = 0;
			ep = 0
		}
	   :: else
	   fi;
	   d_step {
		c_done = ticket;
		ticket = 0;
		barrier = false
	   }
	od
}

/*
 * The data path: one bio at a time for each writer
 */

/* what a write has to do */
#define HOW_NONE	0
#define HOW_TABLE	1
#define HOW_WAIT	2
#define HOW_PLACE	3
#define HOW_FILL	4
#define HOW_NEW	5
#define HOW_JOIN	6
#define HOW_PARK	7
#define HOW_DONE	8

inline place_table(s) {
	atomic {
		old = table[s];
		for (k : 0 .. NE - 1) {
			if
			:: S(k) != s
			:: else ->
				/* what was in the cluster is no table */
				l2_old[k] = (z -> 0 : TABLE_OF_OTHERS);
				l2v_old[k] = 0;
				l2[k] = (old -> ent[k] : l2_old[k]);
				l2v[k] = entv[k]
			fi
		}
		k = 0;
		data_set[c] = JUNK;
		data[c] = JUNK;
		who[c] = 0
	}
	d_step {
		table_whole[s] = z || old;
		table_new[s] = true;
		table[s] = c;
		move(c, TAKEN, MAPPED)
	}
	if
	:: old ->
		d_step {
			table_shared[s] = false;
			place[old] = FREED;
			c_freed = c_freed | BIT(old)
		}
	:: else
	fi;
	atomic { leave(ep); making_table = false }
}

/* l2table.c: a table for an L1 entry that has none, or a shared one's copy */
inline make_table(s) {
	atomic { !making_table -> making_table = true; enter(ep) }
	if
	:: table[s] != 0 && !table_shared[s] ->
		atomic { leave(ep); making_table = false }
	:: else ->
		atomic {
			if
			:: can_take -> grant_take(c, z)
			:: else -> c = 0
			fi
		}
		if
		:: c == 0 ->
			atomic { leave(ep); making_table = false }
			atomic { can_take && !suspended }
		:: else ->
			place_table(s)
		fi
	fi;
	d_step { c = 0; old = 0; z = false; ep = 0 }
}

/* Data on its way to a cluster. Versions of writes that overlap count as one. */
inline data_submit(c, e, v) {
	d_step {
		if
		:: who[c] != e + 1 ->
			/* not zeroes of ours: others' data */
			data_set[c] = data_set[c] | (data_set[c] > ZERO -> JUNK : 0);
			data_set[c] = data_set[c] & (JUNK | ZERO);
			data[c] = (data[c] > ZERO -> JUNK : data[c]);
			who[c] = e + 1
		:: else
		fi;
		data_set[c] = data_set[c] | VER(v);
		check()
	}
}

inline data_complete(c, e, v, fua) {
	d_step {
		if
		:: who[c] != e + 1 -> data[c] = JUNK
		:: data[c] < VER(v) -> data[c] = VER(v)
		:: else
		fi;
		data_set[c] = (fua -> data[c] : data_set[c] | data[c]);
		check()
	}
}

/* pending.c: whoever ends first links it */
inline write_end(e, v, fua) {
	if
	:: failures && how == HOW_NEW -> failures--; bad = true
	:: data_complete(c, e, v, fua)
	fi;
	atomic {
		if
		:: !bad ->
			if
			:: pend[e] == c ->
				pend[e] = 0;
				pend_users[e] = 0;
				move(c, TAKEN, MAPPED);
				entry_link(e, c, v, !pend_join[e]);
				pend_join[e] = false
			:: else
			fi;
			done[e] = (done[e] < v -> v : done[e])
		:: bad && pend[e] == c ->
			pend_users[e]--;
			if
			:: pend_users[e] == 0 ->
				pend[e] = 0;
				pend_join[e] = false;
				grant_put(c)
			:: else
			fi
		:: else
		fi
	}
	atomic { leave(ep); bad = false }
}

/* cow.c */
inline fill(e, v) {
	atomic { enter(ep); c = 0 }
	atomic {
		if
		:: can_take -> grant_take(c, z)
		:: else
		fi
	}
	atomic {
		if
		:: c == 0 -> leave(ep); how = HOW_PARK
		:: c && (locked[e] || pend[e] || !ent[e] || ent_own[e] ||
			 table_shared[S(e)]) ->
			grant_put(c);
			leave(ep);
			how = HOW_WAIT
		:: else ->
			locked[e] = true;
			base[c] = NO_BASE;
			old = ent[e]
		fi
	}
	if
	:: how == HOW_PARK -> can_take
	:: how == HOW_WAIT
	:: else ->
		data_submit(c, e, v);
		data_complete(c, e, v, false);
#ifdef BREAK_LINK_FIRST
		place[old] = FREED;
		c_freed = c_freed | BIT(old);
#endif
		atomic {
			locked[e] = false;
			move(c, TAKEN, MAPPED);
#ifdef BREAK_JOIN
			entry_link(e, c, v, !z)
#else
			entry_link(e, c, v, true)
#endif
		}
#ifndef BREAK_LINK_FIRST
		d_step {
			place[old] = FREED;
			c_freed = c_freed | BIT(old)
		}
#endif
		atomic {
			done[e] = (done[e] < v -> v : done[e]);
			leave(ep);
			how = HOW_DONE
		}
	fi;
	d_step { c = 0; z = false; old = 0; ep = 0 }
}

/* map_write(): to what is mapped, pending, or a new cluster of zeroes */
inline write(e, v, fua) {
	do
	:: suspended -> !suspended
	:: else ->
		how = HOW_NONE;
		atomic {
			!suspended ->
			enter(ep);
			if
			:: table[S(e)] == 0 || table_shared[S(e)] ->
				if
#ifdef BREAK_SHARED
				:: table[S(e)] && ent[e]
#else
				:: false
#endif
				-> c = ent[e]; how = HOW_PLACE
				:: else -> how = HOW_TABLE
				fi
			:: else ->
				if
				:: locked[e] -> how = HOW_WAIT
				:: !locked[e] && pend[e] && pend_join[e] ->
					c = pend[e];
					pend_users[e]++;
					how = HOW_JOIN
				:: !locked[e] && pend[e] && !pend_join[e] ->
					how = HOW_WAIT
				:: !locked[e] && !pend[e] && ent[e] && ent_own[e] ->
					c = ent[e];
					durable = !s_dirty[S(e)] && !s_commit[S(e)];
#ifdef BREAK_FUA
					durable = true;
#endif
					how = HOW_PLACE
				:: !locked[e] && !pend[e] && ent[e] && !ent_own[e] ->
					how = HOW_FILL
				:: !locked[e] && !pend[e] && !ent[e] && can_take ->
					grant_take(c, z);
					base[c] = (z -> entv[e] : NO_BASE);
					pend[e] = c;
					pend_join[e] = z;
					pend_users[e] = 1;
					how = HOW_NEW
				:: else -> how = HOW_PARK
				fi
			fi;
			if
			:: how == HOW_TABLE || how == HOW_WAIT ||
			   how == HOW_PARK || how == HOW_FILL -> leave(ep)
			:: else
			fi
		}
		if
		:: how == HOW_TABLE -> make_table(S(e))
		:: how == HOW_WAIT -> !locked[e] && !pend[e]
		:: how == HOW_PARK -> can_take
		:: how == HOW_FILL -> fill(e, v); if :: how == HOW_DONE -> break :: else fi
		:: how == HOW_PLACE ->
			data_submit(c, e, v);
			data_complete(c, e, v, fua);
			atomic { done[e] = (done[e] < v -> v : done[e]); leave(ep) }
			break
		:: how == HOW_NEW || how == HOW_JOIN ->
			data_submit(c, e, v);
			write_end(e, v, fua);
			break
		fi
	od;
	how = HOW_NONE;
	d_step { c = 0; z = false; ep = 0 }
}

/* zero.c: a whole cluster */
inline discard(e, v) {
	do
	:: atomic {
		!locked[e] && !pend[e] && !suspended && !table_shared[S(e)] ->
		enter(ep);
		old = ent[e];
		if
		:: table[S(e)] && old ->
			entry_link(e, 0, v, false);
			ent_own[e] = false
		:: else
		fi
	   }
	   break
	:: table_shared[S(e)] -> make_table(S(e))
	od;
	ep = ep;
	d_step {
		if
		:: old ->
			done[e] = (done[e] < v -> v : done[e]);
			move(old, MAPPED, FREED);
			c_freed = c_freed | BIT(old)
		:: else
		fi;
		leave(ep);
		old = 0;
		ep = 0
	}
}

inline wait_commit(me) {
	if
#ifdef BREAK_FLUSH_WAITS
	:: flush_device()
#else
	:: !needed -> flush_device()
	:: needed ->
		atomic { waits[me] = 1; c_work = true }
		atomic { waits[me] == 3 -> waits[me] = 0 }
#endif
	fi
}

inline flush(me) {
	d_step {
		for (k : 0 .. NE - 1) {
			want[k] = done[k]
		}
		k = 0
	}
	wait_commit(me)
	d_step {
		for (k : 0 .. NE - 1) {
			acked[k] = (acked[k] < want[k] -> want[k] : acked[k]);
			want[k] = 0
		}
		k = 0;
		check()
	}
}

proctype writer(byte me; byte e) {
	byte n, v, c, old, ep, k, how, want[NE];
	bool z, bad, durable;

	for (n : 1 .. OPS) {
		atomic { !suspended -> version[e]++; v = version[e] }
		if
		:: true -> write(e, v, false)
#ifdef FUA
		:: true -> write(e, v, true);
		   if
		   :: !durable -> wait_commit(me)
		   :: else
		   fi;
		   d_step {
			acked[e] = (acked[e] < v -> v : acked[e]);
			durable = false;
			check()
		   }
#endif
#ifdef DISCARD
		:: discard(e, v)
#endif
#ifndef NOFLUSH
		:: flush(me)
#endif
		fi;
		durable = false
	}
	writers--
}

#ifdef READER
proctype reader(byte e) {
	byte ep, c;

	do
	:: writers == 0 -> break
	:: atomic { !suspended -> enter(ep); c = ent[e] }
	   d_step {
		assert(c == 0 || (who[c] == e + 1 && data[c] != JUNK));
		leave(ep);
		c = 0
	   }
	   break
	od
}
#endif

#define quiet_now	(!dirty && !needed && !c_work && !r_freed)
#include "daemon.pml"

inline setup(e, c_, t) {
	rc[c_] = 1; rc_min[c_] = 1;
	place[c_] = MAPPED;
	who[c_] = e + 1; data[c_] = VER(0); data_set[c_] = VER(0);
	ent[e] = c_; l2[e] = c_; l2_old[e] = c_;
	table[S(e)] = t; l1[S(e)] = t; l1_old[S(e)] = t;
	rc[t] = 1; rc_min[t] = 1;
	place[t] = MAPPED
}

inline setup_shared(e, c_, t) {
	table_shared[S(e)] = true;
	snap_table[S(e)] = t;
	snap_data[e] = c_;
	is_shared = is_shared | BIT(c_) | BIT(t);
	rc[c_] = 2; rc_min[c_] = 2;
	rc[t] = 2; rc_min[t] = 2
}

init {
	atomic {
		for (i_ : 1 .. NC) {
			data[i_] = JUNK;
			data_set[i_] = JUNK;
			base[i_] = NO_BASE
		}
#if defined(OLD) || defined(SNAP)
		setup(0, 1, NE + 1);
#if NE > 1
		setup(1, 2, NE + NS);
#endif
#endif
#ifdef TABLE
		table[0] = 1; l1[0] = 1; l1_old[0] = 1;
		rc[1] = 1; rc_min[1] = 1;
		place[1] = MAPPED;
#endif
#ifdef SNAP
		setup_shared(0, 1, NE + 1);
#if NE > 1
		setup_shared(1, 2, NE + NS);
#endif
#endif
#ifdef MOVE
		meta = NC; meta_old = NC; rc[NC] = 1; rc_min[NC] = 1;
		place[NC] = KEPT; claimed = BIT(NC);
#endif
		run commit();
		run writer(0, 0);
#if NW > 1
		run writer(1, NE - 1);
#endif
#ifdef READER
		run reader(0);
#endif
		run daemon();
		run walker();
#if KILLS
		run killer();
#endif
	}
}
