/*
 * null: memory was filled before the restore was requested; no loader can be
 * faster.  It is filled as eager does it, and then the clock starts again.
 * Source: none; the guest model alone, for comparison.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "bench.h"

/*
 * Simulated storage has its data in memory: reads it without the round trips,
 * while the clock does not run.
 */
static bool null_fill(LoaderRun *run, GError **error)
{
    const Snapshot *snapshot = run->snapshot;
    bool is_filled;

    if (snapshot->mount && storage_mount_class(snapshot->mount)) {
        run->snapshot = snapshot->origin;
    }
    is_filled = loader_eager.start(run, error);
    run->snapshot = snapshot;
    return is_filled;
}

/*
 * Sets begin_ns at the end: memory was there when the restore was requested.
 * measure.c counts times, CPU time and bytes read from begin_ns on.
 */
static bool loader_null_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    uint64_t page;

    if (!null_fill(run, error)) {
        return false;
    }
    for (page = 0; page < page_count; page++) {
        /* Arrivals count from begin_ns: keeps the class, with time 0. */
        if (run->arrivals[page]) {
            run->arrivals[page] =
                arrival_pack(arrival_class(run->arrivals[page]), 0);
        }
    }
    /* Pairs with the sampler's acquire: it reads loaded_bytes after this. */
    __atomic_store_n(&run->begin_ns, bench_now_ns(), __ATOMIC_RELEASE);
    return true;
}

static void loader_null_stop(LoaderRun *run)
{
    loader_eager.stop(run);
}

const BenchLoader loader_null = {
    .name = "null",
    .summary = "memory that is already there, the bound for all others",
    .is_lazy = false,
    .has_end = true,
    .start = loader_null_start,
    .stop = loader_null_stop,
};
