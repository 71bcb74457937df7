/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scope-bound cleanup: free, close and unlock on every way out of a block.
 */
#ifndef BLK_BASE_CLEANUP_H
#define BLK_BASE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define blk_cleanup(func) __attribute__((cleanup(func)))

/* void *p blk_auto_free = malloc(...); */
#define blk_auto_free blk_cleanup(blk_cleanup_free)
/* int fd blk_auto_close = open(...); negative is fine */
#define blk_auto_close blk_cleanup(blk_cleanup_close)
/* Holds @m until the end of the enclosing block. */
#define blk_guard_mutex(m) \
	pthread_mutex_t *blk_held_mutex blk_cleanup(blk_cleanup_unlock) \
		__attribute__((unused)) = (pthread_mutex_lock(m), (m))

static inline void blk_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void blk_cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void blk_cleanup_unlock(pthread_mutex_t **m)
{
	pthread_mutex_unlock(*m);
}

/* Gives a pointer away: returns it and sets the variable to NULL. */
#define blk_take(p) __extension__({	\
	__typeof__(p) blk_taken = (p);	\
	(p) = NULL;			\
	blk_taken;			\
})

#endif
