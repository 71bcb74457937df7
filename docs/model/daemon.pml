/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The daemon of the model in commit.pml: the feeder, adoption, the leak scan,
 * the moving of metadata, and detaching. What it knows dies with it.
 */

bool killed;
byte kills = KILLS;

/* of the living daemon */
byte touched;			/* bitmap: not for the scan to judge */
byte refs[NC + 1];		/* what the scan has counted */
byte plain;			/* bitmap: by an entry that asks for COPIED */
byte scan_l1[NS];		/* as it was at its beginning */
mtype:scan = { NO_SCAN, WALK, WALKED, COMMITTING };
mtype:scan phase = NO_SCAN;
bool walking;
bool lost;			/* there may be leaks, until a scan has ended */

/* of the kernel */
byte claimed;			/* bitmap: the daemon's metadata */

#ifdef MOVE
byte moves = MOVE;
#endif

/* The daemon has refcounts to go by, and nothing else. */
inline find_free(c) {
	if
	:: rc[1] == 0 -> c = 1
	:: else -> if
	:: rc[2] == 0 -> c = 2
	:: else -> if
	:: NC > 2 && rc[3] == 0 -> c = 3
	:: else -> if
	:: NC > 3 && rc[4] == 0 -> c = 4
	:: else -> if
	:: NC > 4 && rc[5] == 0 -> c = 5
	:: else -> if
	:: NC > 5 && rc[6] == 0 -> c = 6
	:: else -> c = 0
	fi fi fi fi fi fi
}

#define one_bit(m)	(((m) & ((m) - 1)) == 0)
#define enough		(granted && (GRANT == 1 || !one_bit(granted)))

/* What is in a cluster that is allocated is junk, or is made zeroes first. */
inline choose(c, z) {
	d_step {
		find_free(c);
		if
		:: c ->
			who[c] = 0;
			base[c] = NO_BASE;
			data[c] = JUNK;
			data_set[c] = JUNK;
			check()
		:: else
		fi
	}
	if
	:: c == 0
	:: c -> z = false
#ifndef NOZERO
	:: c -> d_step {
		z = true
#ifndef BREAK_ZEROES
		; data[c] = ZERO;
		data_set[c] = JUNK | ZERO
#endif
	   }
#endif
	fi
}

inline touch(c) {
#ifdef BREAK_TOUCH
	skip
#else
	touched = touched | BIT(c)
#endif
}

inline count_it(c) {
	d_step {
		move(c, FREE, HELD);
		touch(c);
		rc_write(c, 1);
		check()
	}
}

/* alloc.c and grant.c: counted, durable, granted */
inline give() {
	choose(c, z);
	if
	:: c ->
		count_it(c);
#ifndef BREAK_GRANT_FLUSH
		flush_device();
#endif
		d_step {
			/* -EUCLEAN would be said of a sound image */
			assert(!(claimed & BIT(c)));
			move(c, HELD, GRANTED);
			granted = granted | BIT(c);
			zeroed = zeroed | (z -> BIT(c) : 0);
			closed = false
		}
	:: else
	fi;
	d_step { c = 0; z = false }
}

/* release.c: one reference of each */
inline drop(set) {
	d_step {
		for (i_ : 1 .. NC) {
			if
			:: set & BIT(i_) ->
				assert(rc[i_]);
				touch(i_);
				rc_write(i_, rc[i_] - 1);
				assert(place[i_] == HELD || place[i_] == FREED);
				place[i_] = (rc[i_] -> KEPT : FREE)
			:: else
			fi
		}
		check()
	}
	flush_device();
	set = 0
}

inline take_freed(set) {
	d_step {
		set = set | freed;
#ifndef BREAK_TAKE
		freed = 0
#endif
	}
}

inline reap() {
	take_freed(mine);
	if
	:: mine ->
		drop(mine)
#ifdef BREAK_TAKE
		;
		freed = 0
#endif
	:: else
	fi
}

inline take_grants(set) {
	d_step {
		for (i_ : 1 .. NC) {
			if
			:: granted & BIT(i_) -> move(i_, GRANTED, HELD)
			:: else
			fi
		}
		set = set | granted;
		granted = 0;
		zeroed = 0;
		closed = true
	}
}

inline ask_commit(t) {
	d_step {
		c_asked++;
		t = c_asked;
		c_barrier = true;
		c_work = true
	}
}

inline barrier(t) {
	ask_commit(t);
	c_done >= t;
	t = 0
}

/*
 * The leak scan
 */

inline scan_begin() {
	d_step {
		for (i_ : 1 .. NC) {
			refs[i_] = 0
		}
		for (i_ : 0 .. NS - 1) {
			scan_l1[i_] = l1[i_]
		}
#ifdef MOVE
		refs[meta] = 1;
#endif
#ifdef SNAP
		for (i_ : 0 .. NE - 1) {
			refs[snap_data[i_]]++;
			refs[snap_table[S(i_)]] = 1
		}
#endif
		touched = 0;
		plain = 0;
		phase = WALK
	}
}

inline walk_entry(s, e) {
	d_step {
		if
		:: S(e) != s
#ifdef SNAP
		:: S(e) == s && scan_l1[s] == snap_table[s] ->
			refs[snap_data[e]]++;
			plain = plain | BIT(snap_data[e])
#endif
		:: else ->
			if
			:: l2[e] && l2[e] != TABLE_OF_OTHERS ->
				refs[l2[e]]++;
				plain = plain | BIT(l2[e])
			:: else
			fi
		fi
	}
}

/* A thread of its own, beside the feeder and the kernel. */
proctype walker() {
	byte s, e;

end:	do
	:: atomic { phase == WALK && !killed -> walking = true }
	   for (s : 0 .. NS - 1) {
		if
		:: scan_l1[s] && !killed ->
			refs[scan_l1[s]]++;
			plain = plain | BIT(scan_l1[s]);
			for (e : 0 .. NE - 1) {
				walk_entry(s, e)
			}
		:: else
		fi
	   }
	   s = 0;
	   d_step {
		e = 0;
		walking = false;
		phase = (phase == WALK && !killed -> WALKED : NO_SCAN)
	   }
	od
}

/* Behind the barrier: what was not touched is counted as it is used. */
inline scan_end() {
	d_step {
		for (i_ : 1 .. NC) {
			if
			:: touched & BIT(i_)
			:: else ->
				assert(refs[i_] <= rc[i_]);
				if
				:: refs[i_] < rc[i_] &&
				   !(refs[i_] == 1 && plain & BIT(i_)) ->
					assert(place[i_] == HELD ||
					       place[i_] == FREED);
					assert(!((c_freed | r_freed | freed)
						 & BIT(i_)));
					rc_write(i_, refs[i_]);
					place[i_] = (rc[i_] -> KEPT : FREE)
				:: else
				fi
			fi
		}
		check()
	}
	flush_device();
	d_step { phase = NO_SCAN; lost = false }
}

inline scan_step() {
	if
	:: phase == WALKED ->
#ifdef BREAK_SCAN_BARRIER
		cookie = c_done;
#else
		ask_commit(cookie);
#endif
		phase = COMMITTING
	:: phase == COMMITTING && c_done >= cookie ->
		do
		:: freed -> reap()
		:: else -> break
		od;
		cookie = 0;
		scan_end()
	fi
}

inline quiet() {
	in_flight[0] + in_flight[1] == 0 && !making_table && !dirty &&
		!needed && !c_work && !r_freed
}

/* adopt.c */
inline adopt() {
	barrier(cookie);
	take_grants(mine);
#ifndef BREAK_ADOPT_BARRIER
	barrier(cookie);
#endif
#ifndef BREAK_ADOPT_AGAIN
	take_grants(mine);
#endif
	take_freed(mine);
	drop(mine)
#ifdef BREAK_TAKE
	;
	freed = 0
#endif
	;
#if defined(MOVE) && !defined(BREAK_CLAIM_ANEW)
	claimed = BIT(meta);
#endif
	scan_begin();
	d_step { closed = false; suspended = false }
}

/* resize.c: metadata moves while the device is suspended */
#ifdef MOVE
inline move_metadata() {
	atomic { suspended = true; moves-- }
	quiet();
	choose(c, z);
	if
	:: c ->
		count_it(c);
		flush_device();
		d_step {
			place[meta] = HELD;
			place[c] = KEPT;
			meta = c;
			check()
		}
		flush_device();
		/* the scan is stopped before this, and begins anew */
		d_step {
			for (i_ : 1 .. NC) {
				if
				:: place[i_] == HELD && claimed & BIT(i_) ->
					place[i_] = FREE;
					rc_write(i_, 0)
				:: else
				fi
			}
			check()
		}
		flush_device();
		claimed = BIT(c)
	:: else
	fi;
	d_step { c = 0; z = false; suspended = false }
}
#endif

/* detach.c: nothing is leaked, and nothing that is used is free */
inline detach() {
	quiet();
	take_grants(mine);
	take_freed(mine);
	drop(mine);
	phase != WALK;
	if
	:: phase == NO_SCAN
	:: else -> scan_end()
	fi;
	d_step {
		for (i_ : 1 .. NC) {
			assert(place[i_] == FREE || place[i_] == MAPPED ||
			       place[i_] == KEPT ||
			       (lost && (place[i_] == HELD || place[i_] == FREED)));
			assert((rc[i_] == 0) == (place[i_] == FREE))
		}
	}
}

proctype daemon() {
	byte c, mine, cookie;
	bool z, again;

life:	{
		if
		:: again -> adopt()
		:: else
		fi;
		do
		:: writers && !enough -> give()
		:: freed -> reap()
		:: phase == WALKED ||
		   (phase == COMMITTING && c_done >= cookie) -> scan_step()
#ifdef MOVE
		:: moves && phase == NO_SCAN -> move_metadata()
#endif
		:: writers == 0 && quiet_now -> break
		od;
		detach();
		goto ended
	} unless {
		killed
	}
	!walking;
	d_step {
		phase = NO_SCAN;
		touched = 0;
		killed = false;
		c = 0;
		z = false;
		mine = 0;
		cookie = 0;
		again = true;
		lost = true
	}
	goto life;
ended:	skip
}

proctype killer() {
end:	do
	:: d_step { kills && !killed && writers -> kills--; killed = true }
	od
}
