/*
 * A read backend that behaves as bad storage does, from a seed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads the snapshot with pread() and keeps the contract of FastloadIoOps,
 * but completes requests late and out of order, reads them in pieces of any
 * length, and fails them: at a rate, or wherever a range is bad.  It may break
 * for good: then rubbish comes in for whatever was not complete, later.  One
 * simulation at a time; every call but sim_reset() may be made while a load
 * runs.
 * Where the test's clock is stopped, workers sleep by that clock, and the test
 * has it go on: with sim_step(), from one thing that falls due to the next.
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
    uint32_t break_turn;      /* of those it is this one; 0: see above */
} SimConfig;

typedef enum SimHold {
    SIM_HOLD_NONE = 0,
    SIM_HOLD_URGENT = 1,
    SIM_HOLD_BACKGROUND = 2,
    SIM_HOLD_ALL = 3,
} SimHold;

extern const FastloadIoOps sim_ops;

/* Forgets everything and begins anew, when all that is late has come. */
void sim_reset(const SimConfig *config);
void sim_set_rates(uint32_t eio_permille, uint32_t eagain_permille);
/*
 * Reads of any byte of the range fail with @error_number, up to the range
 * they succeed; after @fail_count failures it heals (0: never).
 */
void sim_add_bad(uint64_t file_off, uint64_t len_bytes, int error_number,
                 uint32_t fail_count);
/* Heals the range that begins at @file_off. */
void sim_heal(uint64_t file_off);
/* These do not complete; a load that ends leaves them behind in the end. */
void sim_hold(SimHold hold);
/* Nor do those that begin in this range, whatever their class; 0: none. */
void sim_hold_range(uint64_t file_off, uint64_t len_bytes);
/* Whether open() fails. */
void sim_refuse(bool is_refused);
/* So many requests failed so far. */
uint64_t sim_failed_count(void);
/* Of those, urgent ones. */
uint64_t sim_failed_urgent_count(void);
/* So often workers have polled so far. */
uint64_t sim_poll_count(void);
/* The worker whose backend @io is. */
uint64_t sim_poll_count_of(const FastloadIo *io);
/* So many workers' backends broke with requests pending. */
uint64_t sim_broken_count(void);
/* Requests queued and not completed. */
uint64_t sim_pending_count(void);
/* Of those, urgent ones. */
uint64_t sim_pending_urgent_count(void);
/* Waits until all that comes late for backends that broke has come. */
void sim_wait_late(void);

/* ---- workers that sleep ---- */

/*
 * Waits until all workers sleep, and nothing that they watch would wake them.
 * One that never sleeps fails the test.
 */
void sim_wait_asleep(void);
bool sim_is_asleep(void);
/*
 * When all workers sleep, and the clock is stopped: has it go on until the
 * first of them wakes.  False: none does by itself.
 */
bool sim_step(void);
/* As sim_step(), but so much later; whoever falls due meanwhile is late. */
void sim_skip(uint64_t ns);
/* Has the clock go on as far as it takes, where all workers sleep till then. */
#define sim_run_until(condition) \
    do { \
        while (sim_wait_asleep(), !(condition)) { \
            if (!sim_step()) { \
                g_usleep(100); /* it is another thread's turn */ \
            } \
        } \
    } while (0)

#endif /* FASTLOAD_SIM_H */
