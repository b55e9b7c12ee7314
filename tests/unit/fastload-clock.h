/*
 * A clock of the engine that unit tests control.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test programs define clock_gettime(), which the engine in them calls,
 * too.  CLOCK_MONOTONIC can be stopped, and then moves only when the test says
 * so: what the engine does at a given time does not depend on the speed of the
 * machine.  Other clocks, and threads that sleep in the kernel, are not
 * affected; the simulator is (fastload-sim.h).
 */
#ifndef FASTLOAD_CLOCK_H
#define FASTLOAD_CLOCK_H

/* Call before a load is started: no other thread may read the clock. */
void test_clock_stop(void);
/* From here on time passes by itself again, as at the start of each test. */
void test_clock_go(void);
bool test_clock_is_stopped(void);
/* Moves the clock on, whether it is stopped or not. */
void test_clock_skip(uint64_t ns);

#endif /* FASTLOAD_CLOCK_H */
