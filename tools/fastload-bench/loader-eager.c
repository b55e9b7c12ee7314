/*
 * eager: one thread reads each run of data pages straight into guest memory,
 * 1 MiB at most a time, before the guest runs; zero pages cost nothing.
 * Source: QEMU 10.2 migration/ram.c read_ramblock_mapped_ram().
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: buffered reads, no advice to the kernel about the file, and
 * memory is first touched by the kernel's copy out of the page cache.
 */
#include "bench.h"

#define EAGER_READ_BYTES (1u << 20)

static bool eager_read(LoaderRun *run, int fd, uint64_t guest_off,
                       uint64_t len_bytes, uint64_t file_off, GError **error)
{
    uint64_t done_bytes = 0;

    while (done_bytes < len_bytes) {
        uint64_t n = MIN(len_bytes - done_bytes, EAGER_READ_BYTES);
        int ret = loader_read(fd, run->hva + guest_off + done_bytes, n,
                              file_off + done_bytes);

        if (ret < 0) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "eager: reading %" PRIu64 " bytes at %#" PRIx64
                        " of %s failed: %s", n, file_off + done_bytes,
                        run->snapshot->label, g_strerror(-ret));
            return false;
        }
        loader_note(run, guest_off + done_bytes, n, ARRIVAL_BEFORE, true);
        done_bytes += n;
    }
    return true;
}

static bool eager_load_block(LoaderRun *run, const SnapshotBlock *block,
                             int fd, GError **error)
{
    uint64_t page = block->guest_off >> BENCH_PAGE_SHIFT;
    uint64_t end = page + (block->len_bytes >> BENCH_PAGE_SHIFT);

    while (page < end) {
        uint64_t count, file_off;

        if (snapshot_run(run->snapshot, block, page, &count, &file_off) &&
            !eager_read(run, fd, page << BENCH_PAGE_SHIFT,
                        count << BENCH_PAGE_SHIFT, file_off, error)) {
            return false;
        }
        page += count;
    }
    return true;
}

static bool loader_eager_start(LoaderRun *run, GError **error)
{
    const Snapshot *snapshot = run->snapshot;
    int fd = loader_open(run, error);
    bool is_ok = fd >= 0;
    uint32_t b;

    for (b = 0; is_ok && b < snapshot->block_count; b++) {
        is_ok = eager_load_block(run, &snapshot->blocks[b], fd, error);
    }
    if (fd >= 0) {
        close(fd);
    }
    return is_ok;
}

static void loader_eager_stop(LoaderRun *run)
{
}

const BenchLoader loader_eager = {
    .name = "eager",
    .summary = "QEMU's mapped-ram: one thread reads all, then the guest runs",
    .is_lazy = false,
    .has_end = true,
    .start = loader_eager_start,
    .stop = loader_eager_stop,
};
