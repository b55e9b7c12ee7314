/*
 * fastload: this project's engine: N threads with a ring each, faults before
 * background, chunks of 2 MiB, zero runs neither read nor registered.
 * Source: include/qemu/fastload.h.
 * With --replay a rehearsal has recorded what the guest touches, and the runs
 * read that first (fastload_use_workset()).
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "bench.h"
#include "qemu/fastload.h"

typedef struct LoaderFastload {
    LoaderRun *run;
    int fd;
    Fastload *fl;
    int is_started;          /* atomic: the guest may run */
} LoaderFastload;

static void fastload_placed(void *hva, uint64_t len_bytes,
                            FastloadClass class, bool has_data, void *opaque)
{
    static const ArrivalClass classes[FASTLOAD_CLASS_MAX] = {
        [FASTLOAD_CLASS_URGENT] = ARRIVAL_URGENT,
        [FASTLOAD_CLASS_HINT] = ARRIVAL_HINT,
        [FASTLOAD_CLASS_BACKGROUND] = ARRIVAL_BACKGROUND,
    };
    LoaderFastload *l = opaque;
    bool is_before = class == FASTLOAD_CLASS_BACKGROUND &&
                     !__atomic_load_n(&l->is_started, __ATOMIC_RELAXED);

    loader_note(l->run, (uint8_t *)hva - l->run->hva, len_bytes,
                is_before ? ARRIVAL_BEFORE : classes[class], has_data);
}

/* The engine's bitmap of one block: its own words, from bit 0 on. */
static uint64_t *fastload_block_bits(const Snapshot *snapshot,
                                     const SnapshotBlock *block)
{
    uint64_t first = block->guest_off >> BENCH_PAGE_SHIFT;
    uint64_t count = block->len_bytes >> BENCH_PAGE_SHIFT;

    uint64_t *bits = g_new(uint64_t, (count + 63) / 64);

    /* Blocks begin on 2 MiB, which is 512 bits, which is 8 words. */
    memcpy(bits, &snapshot->data_bits[first / 64],
           (count + 63) / 64 * sizeof(*bits));
    return bits;
}

static bool fastload_add_blocks(LoaderFastload *l, GError **error)
{
    const Snapshot *snapshot = l->run->snapshot;
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];
        g_autofree uint64_t *bits = fastload_block_bits(snapshot, block);
        FastloadRegion region = {
            .hva = l->run->hva + block->guest_off,
            .len_bytes = block->len_bytes,
            .file_off = block->file_off,
            .page_bytes = BENCH_PAGE_BYTES,
            .data_bits = bits,
            .granule_bytes = BENCH_PAGE_BYTES,
            .wants_huge = true,
            .label = block->name,
        };

        if (!fastload_add_region(l->fl, &region, error)) {
            return false;
        }
    }
    return true;
}

static bool fastload_use_set(LoaderFastload *l, GError **error)
{
    const Rehearsal *rehearsal = l->run->variant->rehearsal;
    FastloadWorksetConfig config = {
        .path = l->run->record_path ? l->run->record_path
              : rehearsal ? rehearsal->path : NULL,
    };

    /* With the background off, faults are measured: no working set then. */
    return !config.path || l->run->is_background_off ||
           fastload_use_workset(l->fl, &config, error);
}

static void loader_fastload_stop(LoaderRun *run)
{
    LoaderFastload *l = run->state;

    if (l) {
        fastload_free(l->fl);
        if (l->fd >= 0) {
            close(l->fd);
        }
        g_free(l);
        run->state = NULL;
    }
}

static bool loader_fastload_start(LoaderRun *run, GError **error)
{
    static const FastloadIoKind kinds[] = {
        [BENCH_IO_AUTO] = FASTLOAD_IO_AUTO,
        [BENCH_IO_URING] = FASTLOAD_IO_IO_URING,
        [BENCH_IO_PREADV] = FASTLOAD_IO_PREADV,
    };
    LoaderFastload *l = g_new0(LoaderFastload, 1);
    FastloadConfig config = {
        .worker_count = run->variant->thread_count,
        .io_kind = kinds[run->variant->io],
        .placed_func = fastload_placed,
        .placed_opaque = l,
        .background_bytes_per_s = run->is_background_off
            ? FASTLOAD_BACKGROUND_OFF : 0,
    };
    FastloadStats stats;

    run->state = l;
    l->run = run;
    l->fd = loader_open(run, error);
    if (l->fd < 0) {
        return false;
    }
    l->fl = fastload_new(l->fd, &config, error);
    if (!l->fl || !fastload_add_blocks(l, error) ||
        !fastload_use_set(l, error) || !fastload_start(l->fl, error)) {
        return false;
    }
    __atomic_store_n(&l->is_started, 1, __ATOMIC_RELAXED);
    fastload_get_stats(l->fl, &stats);
    run->io_name = stats.io_name;
    run->io_fallback = stats.io_fallback;
    return true;
}

static bool loader_fastload_wait(LoaderRun *run, GError **error)
{
    LoaderFastload *l = run->state;

    return fastload_wait(l->fl, error);
}

static void loader_fastload_settle(LoaderRun *run)
{
    LoaderFastload *l = run->state;

    fastload_settle(l->fl);
}

static Set *loader_fastload_read_set(const Snapshot *snapshot,
                                     const char *path, GError **error)
{
    return set_read(path, error);
}

const BenchLoader loader_fastload = {
    .name = "fastload",
    .summary = "this project's engine",
    .knobs = LOADER_HAS_THREADS | LOADER_HAS_DIRECT | LOADER_HAS_IO |
             LOADER_HAS_REPLAY | LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = true,
    .start = loader_fastload_start,
    .wait = loader_fastload_wait,
    .settle = loader_fastload_settle,
    .read_set = loader_fastload_read_set,
    .stop = loader_fastload_stop,
};
