/*
 * fastload stats: counters of one thread each, log2 histograms, summing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A counter has one writer, its worker; any thread may read it at any time.
 * Relaxed atomics suffice: a reader wants a recent value of each field, and no
 * order between fields.
 */
#include "qemu/osdep.h"
#include <time.h>
#include "qemu/fastload_int.h"

#define SUB_COUNT (1u << FASTLOAD_HIST_SUB_BITS)

uint64_t fastload_stats_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static uint64_t stats_get(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

void fastload_stats_add(uint64_t *counter, uint64_t n)
{
    /* One writer: no read-modify-write needed. */
    __atomic_store_n(counter, stats_get(counter) + n, __ATOMIC_RELAXED);
}

uint32_t fastload_stats_bucket(uint64_t ns)
{
    uint32_t octave, sub;

    if (ns < SUB_COUNT) {
        return ns;
    }
    octave = 63 - __builtin_clzll(ns);
    sub = ns >> (octave - FASTLOAD_HIST_SUB_BITS) & (SUB_COUNT - 1);
    return (octave << FASTLOAD_HIST_SUB_BITS) + sub;
}

uint64_t fastload_stats_bucket_floor_ns(uint32_t bucket)
{
    uint32_t octave = bucket >> FASTLOAD_HIST_SUB_BITS;
    uint64_t sub = bucket & (SUB_COUNT - 1);

    if (octave < FASTLOAD_HIST_SUB_BITS) {
        return bucket;
    }
    return (SUB_COUNT + sub) << (octave - FASTLOAD_HIST_SUB_BITS);
}

void fastload_stats_fault_done(FastloadCounters *c, uint64_t latency_ns)
{
    fastload_stats_add(&c->fault_count, 1);
    fastload_stats_add(&c->hist[fastload_stats_bucket(latency_ns)], 1);
    if (latency_ns > stats_get(&c->fault_max_ns)) {
        __atomic_store_n(&c->fault_max_ns, latency_ns, __ATOMIC_RELAXED);
    }
}

uint64_t fastload_stats_percentile_ns(const uint64_t *hist, uint32_t permille,
                                      uint64_t max_ns)
{
    uint64_t total = 0, seen = 0, rank;
    uint32_t i;

    for (i = 0; i < FASTLOAD_HIST_COUNT; i++) {
        total += hist[i];
    }
    if (!total) {
        return 0;
    }
    rank = (total * permille + 999) / 1000;
    for (i = 0; i < FASTLOAD_HIST_COUNT; i++) {
        uint64_t floor_ns = fastload_stats_bucket_floor_ns(i);

        seen += hist[i];
        if (seen >= rank && hist[i]) {
            uint64_t next_ns = i + 1 < FASTLOAD_HIST_COUNT
                ? fastload_stats_bucket_floor_ns(i + 1) : max_ns;
            uint64_t into = rank - (seen - hist[i]);
            double part = (double)into / hist[i];

            return MIN(floor_ns + (uint64_t)((next_ns - floor_ns) * part),
                       max_ns);
        }
    }
    return max_ns;
}

void fastload_stats_sum(const FastloadCounters *c, FastloadCounters *sum)
{
    uint32_t i;

    for (i = 0; i < FASTLOAD_CLASS_MAX; i++) {
        sum->loaded_bytes[i] += stats_get(&c->loaded_bytes[i]);
    }
    sum->read_bytes += stats_get(&c->read_bytes);
    sum->moved_bytes += stats_get(&c->moved_bytes);
    sum->collapsed_bytes += stats_get(&c->collapsed_bytes);
    sum->hint_count += stats_get(&c->hint_count);
    sum->fault_count += stats_get(&c->fault_count);
    sum->retry_count += stats_get(&c->retry_count);
    sum->io_error_count += stats_get(&c->io_error_count);
    sum->fault_max_ns = MAX(sum->fault_max_ns, stats_get(&c->fault_max_ns));
    for (i = 0; i < FASTLOAD_HIST_COUNT; i++) {
        sum->hist[i] += stats_get(&c->hist[i]);
    }
}
