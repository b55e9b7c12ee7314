/*
 * A read backend that behaves like bad storage, from a seed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads the snapshot with pread() and keeps the contract of FastloadIoOps,
 * but completes requests late and out of order, reads them in pieces of any
 * length, and fails them: at a rate, or where a range is bad.  It may break for
 * good: then, later, rubbish is written to the buffers of requests that were
 * not complete.  One simulation at a time; all functions but sim_reset() may be
 * called while a load runs.  While the test's clock is stopped, workers sleep
 * by that clock, and the test moves it with sim_step(), from one event that is
 * due to the next.
 */
#ifndef FASTLOAD_SIM_H
#define FASTLOAD_SIM_H

#include "qemu/fastload_int.h"

#define SIM_BAD_COUNT_MAX 8

typedef struct SimConfig {
    uint32_t seed;
    uint32_t eio_permille;    /* of the pieces */
    uint32_t eagain_permille;
    uint32_t delay_turns_max; /* polls that a piece may take */
    uint32_t break_permille;  /* of the polls with requests pending */
    uint32_t break_turn;      /* breaks at this one of them; 0: at random */
    bool breaks_with_fault;   /* not before it can take a fault along */
} SimConfig;

typedef enum SimHold {
    SIM_HOLD_NONE = 0,
    SIM_HOLD_URGENT = 1,
    SIM_HOLD_BACKGROUND = 2,
    SIM_HOLD_ALL = 3,
} SimHold;

extern const FastloadIoOps sim_ops;

/* Waits for late writes, and starts a new simulation. */
void sim_reset(const SimConfig *config);
void sim_set_rates(uint32_t eio_permille, uint32_t eagain_permille);
/*
 * Reads fail with @error_number at the first byte of the range that they
 * contain, and succeed up to it.  After @fail_count failures the range heals
 * (0: never).
 */
void sim_add_bad(uint64_t file_off, uint64_t len_bytes, int error_number,
                 uint32_t fail_count);
/* Heals the range that begins at @file_off. */
void sim_heal(uint64_t file_off);
/* Requests of this kind do not complete; a load that ends abandons them. */
void sim_hold(SimHold hold);
/* Nor do requests of any class that begin in this range; 0: no range. */
void sim_hold_range(uint64_t file_off, uint64_t len_bytes);
/* Makes open() fail, or work again. */
void sim_refuse(bool is_refused);
/* How many requests have failed so far. */
uint64_t sim_failed_count(void);
/* Of those, urgent ones. */
uint64_t sim_failed_urgent_count(void);
/* How often workers have polled so far. */
uint64_t sim_poll_count(void);
/* The worker whose backend @io is. */
uint64_t sim_poll_count_of(const FastloadIo *io);
/* How many backends broke while requests were pending. */
uint64_t sim_broken_count(void);
/* Requests queued and not completed. */
uint64_t sim_pending_count(void);
/* Of those, urgent ones. */
uint64_t sim_pending_urgent_count(void);
/* Waits for all late writes of backends that broke. */
void sim_wait_late(void);

/* ---- workers that sleep ---- */

/*
 * Waits until all workers sleep, and no descriptor that they watch is readable.
 * A worker that never sleeps fails the test.
 */
void sim_wait_asleep(void);
bool sim_is_asleep(void);
/*
 * Waits until all workers sleep, and moves the stopped clock on until the first
 * of them wakes.  False: none of them has a limit to its sleep.
 */
bool sim_step(void);
/* As sim_step(), but by @ns; a worker that is due before wakes late. */
void sim_skip(uint64_t ns);
/* Moves the clock on, while all workers sleep, until @condition holds. */
#define sim_run_until(condition) \
    do { \
        while (sim_wait_asleep(), !(condition)) { \
            if (!sim_step()) { \
                g_usleep(100); /* it is another thread's turn */ \
            } \
        } \
    } while (0)

#endif /* FASTLOAD_SIM_H */
