/*
 * fastload window: how much is read ahead at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

uint32_t fastload_window_bytes(Fastload *fl, uint64_t now_ns)
{
    uint32_t max_bytes = __atomic_load_n(&fl->window.bytes_max,
                                         __ATOMIC_RELAXED);
    bool is_quiet = now_ns >= fastload_sched_quiet_ns(fl);
    uint32_t reader_count = 1;

    if (fastload_file_is_busy(fl)) {
        /* Without the one that waits for faults. */
        reader_count = MAX(fl->busy_count - !is_quiet, 1);
    }
    if (is_quiet) {
        max_bytes *= FASTLOAD_FLIGHT_QUIET_FACTOR;
    }
    return MAX(max_bytes / reader_count / FASTLOAD_REQ_BYTES_MIN, 1) *
           FASTLOAD_REQ_BYTES_MIN;
}

/*
 * As TCP Vegas does it: the least time that a read took is how far away the
 * storage is, what a read takes beyond that is how long it waited for others.
 * Workers may overwrite each other's result; the next read brings a new one.
 */
void fastload_window_sample(Fastload *fl, uint32_t len_bytes,
                                uint64_t took_ns)
{
    uint64_t least_ns = __atomic_load_n(&fl->window.least_ns,
                                        __ATOMIC_RELAXED);
    uint64_t max_bytes = __atomic_load_n(&fl->window.bytes_max,
                                         __ATOMIC_RELAXED);
    uint64_t step_bytes = (uint64_t)len_bytes * len_bytes / max_bytes;

    uint64_t wait_ns;

    if (len_bytes < FASTLOAD_REQ_BYTES_MIN ||
        took_ns < FASTLOAD_FLIGHT_LEAST_NS) {
        return; /* too short to compare, or from memory */
    }
    least_ns = least_ns ? MIN(least_ns, took_ns) : took_ns;
    /* One read more, or less, by the time as many came back as are out. */
    wait_ns = MAX(FASTLOAD_FLIGHT_WAIT_NS,
                  least_ns / FASTLOAD_FLIGHT_WAIT_SHARE);
    if (took_ns - least_ns < wait_ns) {
        max_bytes += step_bytes;
    } else {
        max_bytes -= step_bytes;
    }
    max_bytes = MIN(max_bytes, least_ns * FASTLOAD_FLIGHT_BYTES_PER_NS);
    max_bytes = CLAMP(max_bytes, FASTLOAD_FLIGHT_BYTES_MIN,
                      FASTLOAD_FLIGHT_BYTES_MAX);
    __atomic_store_n(&fl->window.least_ns, least_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&fl->window.bytes_max, max_bytes, __ATOMIC_RELAXED);
}
