/*
 * A clock of the engine that unit tests control.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <sys/syscall.h>
#include <time.h>
#include "fastload-clock.h"

#define SECOND_NS 1000000000ull

/* Both atomic. */
static struct {
    uint64_t stopped_ns; /* where it stands; 0: it is not stopped */
    uint64_t ahead_ns;   /* how far it is ahead of the kernel's clock */
} test_clock;

static uint64_t clock_kernel_ns(void)
{
    struct timespec ts;

    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * SECOND_NS + ts.tv_nsec;
}

static uint64_t clock_now_ns(void)
{
    /* Pairs with the release in test_clock_go(). */
    uint64_t stopped_ns = __atomic_load_n(&test_clock.stopped_ns,
                                          __ATOMIC_ACQUIRE);

    return stopped_ns ? stopped_ns
                      : clock_kernel_ns() +
                        __atomic_load_n(&test_clock.ahead_ns,
                                        __ATOMIC_RELAXED);
}

void test_clock_stop(void)
{
    __atomic_store_n(&test_clock.stopped_ns, clock_now_ns(),
                     __ATOMIC_RELEASE);
}

void test_clock_go(void)
{
    /* Time never goes back. */
    if (test_clock_is_stopped()) {
        __atomic_store_n(&test_clock.ahead_ns,
                         clock_now_ns() - clock_kernel_ns(),
                         __ATOMIC_RELAXED);
        __atomic_store_n(&test_clock.stopped_ns, 0, __ATOMIC_RELEASE);
    }
}

bool test_clock_is_stopped(void)
{
    return __atomic_load_n(&test_clock.stopped_ns, __ATOMIC_ACQUIRE);
}

void test_clock_skip(uint64_t ns)
{
    __atomic_fetch_add(test_clock_is_stopped() ? &test_clock.stopped_ns
                                               : &test_clock.ahead_ns,
                       ns, __ATOMIC_ACQ_REL);
}

/* In the test programs this is found before the C library's function. */
int clock_gettime(clockid_t id, struct timespec *ret_ts)
{
    uint64_t ns;

    if (id != CLOCK_MONOTONIC) {
        return syscall(SYS_clock_gettime, id, ret_ts);
    }
    ns = clock_now_ns();
    ret_ts->tv_sec = ns / SECOND_NS;
    ret_ts->tv_nsec = ns % SECOND_NS;
    return 0;
}
