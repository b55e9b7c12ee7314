/*
 * fastload-bench: histograms of latencies.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Log2 buckets, each split evenly: values are known within 6 %, and adding one
 * takes a few instructions.  Nothing here can fail.
 */
#include "bench.h"
#include <time.h>

#define HIST_SUB_COUNT (1u << HIST_SUB_BITS)

uint64_t bench_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static uint32_t hist_bucket(uint64_t ns)
{
    uint32_t log2;

    if (ns < HIST_SUB_COUNT) {
        return ns;
    }
    log2 = 63 - __builtin_clzll(ns);
    return ((log2 - HIST_SUB_BITS + 1) << HIST_SUB_BITS) +
           ((ns >> (log2 - HIST_SUB_BITS)) & (HIST_SUB_COUNT - 1));
}

uint64_t hist_bucket_floor_ns(uint32_t bucket)
{
    uint32_t octave = bucket >> HIST_SUB_BITS;
    uint64_t sub = bucket & (HIST_SUB_COUNT - 1);

    return octave ? (HIST_SUB_COUNT + sub) << (octave - 1) : sub;
}

void hist_add(Hist *hist, uint64_t ns)
{
    hist->count++;
    hist->max_ns = MAX(hist->max_ns, ns);
    hist->sum_ns += ns;
    hist->buckets[hist_bucket(ns)]++;
}

void hist_merge(Hist *hist, const Hist *other)
{
    uint32_t i;

    hist->count += other->count;
    hist->max_ns = MAX(hist->max_ns, other->max_ns);
    hist->sum_ns += other->sum_ns;
    for (i = 0; i < HIST_COUNT; i++) {
        hist->buckets[i] += other->buckets[i];
    }
}

uint64_t hist_percentile_ns(const Hist *hist, uint32_t permille)
{
    uint64_t wanted = hist->count * permille / 1000;
    uint64_t seen = 0;
    uint32_t i;

    for (i = 0; i < HIST_COUNT && hist->count; i++) {
        seen += hist->buckets[i];
        if (seen > wanted) {
            /* The middle of the bucket, but not more than the maximum. */
            uint64_t floor_ns = hist_bucket_floor_ns(i);
            uint64_t next_ns = hist_bucket_floor_ns(i + 1);

            return MIN((floor_ns + next_ns) / 2, hist->max_ns);
        }
    }
    return hist->max_ns;
}
