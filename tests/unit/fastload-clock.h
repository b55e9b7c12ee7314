/*
 * The clock that the engine looks at, in the hands of a unit test.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The test programs' own clock_gettime(), which the engine in them calls too.
 * CLOCK_MONOTONIC can be stopped, and then goes on only when told to: what the
 * engine does at a given time then does not depend on how fast the machine is.
 * Other clocks, and whoever sleeps in the kernel, know nothing of it; the
 * simulator does (fastload-sim.h).
 */
#ifndef FASTLOAD_CLOCK_H
#define FASTLOAD_CLOCK_H

/* Before a load is started: no other thread may look at the clock just then. */
void test_clock_stop(void);
/* From here on time goes on by itself again; each test begins so. */
void test_clock_go(void);
bool test_clock_is_stopped(void);
/* It is so much later now, whether the clock is stopped or not. */
void test_clock_skip(uint64_t ns);

#endif /* FASTLOAD_CLOCK_H */
