/*
 * null: the memory was there before; what no loader can beat.
 * It is filled as eager does it, and then the clock starts anew.
 * Source: none; the guest model alone, for comparison.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "bench.h"

/*
 * What simulated storage answers from is in memory: nobody has to wait for its
 * round trips where the clock does not run.
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
 * Setting begin_ns at the end is the way to say that the memory was there
 * when the restore was asked for.  Whoever measures takes begin_ns from
 * there, and counts CPU time and bytes read from there as well.
 */
static bool loader_null_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    uint64_t page;

    if (!null_fill(run, error)) {
        return false;
    }
    for (page = 0; page < page_count; page++) {
        /* Arrivals count from begin_ns: the class stays, the time is over. */
        if (run->arrivals[page]) {
            run->arrivals[page] =
                arrival_pack(arrival_class(run->arrivals[page]), 0);
        }
    }
    /* The sampler reads it, then what was loaded: pairs with its acquire. */
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
