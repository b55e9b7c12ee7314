/*
 * mmap-ahead: the file mapped privately over guest memory as mmap does it,
 * and one thread that populates what has data ahead of the guest: ascending,
 * 2 MiB a step, MADV_POPULATE_READ.
 * Source: no product; the fastest loader that fits on a page of code.
 * Its parts: Firecracker docs/snapshotting for the mapping (see
 * loader-mmap.c), madvise(2) for the populating.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The kernel serves the vCPUs' faults, before and while the thread runs, and
 * its readahead decides how large the reads are.  Where the file is in the
 * page cache, loading copies nothing.  The price of this design:
 *
 * - no huge pages, since each page of memory is one of the page cache;
 * - the page cache is the guest's memory for as long as the guest runs, and the
 *   kernel may drop a page that was not written to and read it again;
 * - the first write to each page faults once more, and copies the page;
 * - a page that cannot be read is a SIGBUS for the vCPU that touches it.  For
 *   the thread it is EFAULT or EHWPOISON, and ends the load with an error.
 *
 * Kernels before 5.14 lack MADV_POPULATE_READ (EINVAL): the thread reads a
 * byte of each page instead, and then its read error is a SIGBUS as well.
 */
#include "bench.h"

#define MMAP_AHEAD_STEP_BYTES BENCH_HUGE_BYTES
/* Signals are not expected in this thread. */
#define MMAP_AHEAD_INTERRUPTED_COUNT_MAX 1000

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

typedef struct MmapAhead {
    /* constant after start */
    LoaderRun *run;
    GThread *thread;
    /* the thread, then the thread that has joined it */
    bool is_touching;        /* the kernel has no MADV_POPULATE_READ */
    GError *failure;
    /* atomic */
    int is_quitting;
} MmapAhead;

static void mmap_ahead_touch(const uint8_t *hva, uint64_t len_bytes)
{
    uint64_t at;

    for (at = 0; at < len_bytes; at += BENCH_PAGE_BYTES) {
        (void)*(const volatile uint8_t *)(hva + at);
    }
}

/* Returns 0 or -errno. */
static int mmap_ahead_populate(MmapAhead *l, uint8_t *hva, uint64_t len_bytes)
{
    uint32_t tries;

    for (tries = 0; !l->is_touching &&
         tries < MMAP_AHEAD_INTERRUPTED_COUNT_MAX; tries++) {
        if (!madvise(hva, len_bytes, MADV_POPULATE_READ)) {
            return 0;
        }
        if (errno == EINVAL) {
            l->is_touching = true;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    if (!l->is_touching) {
        return -EINTR;
    }
    mmap_ahead_touch(hva, len_bytes);
    return 0;
}

/* A run of pages with data, in steps that end on multiples of 2 MiB. */
static bool mmap_ahead_load_run(MmapAhead *l, uint64_t guest_off,
                                uint64_t len_bytes, uint64_t file_off)
{
    while (len_bytes) {
        uint64_t n = MIN(len_bytes, MMAP_AHEAD_STEP_BYTES -
                                    guest_off % MMAP_AHEAD_STEP_BYTES);
        int ret;

        if (__atomic_load_n(&l->is_quitting, __ATOMIC_RELAXED)) {
            return false;
        }
        ret = mmap_ahead_populate(l, l->run->hva + guest_off, n);
        if (ret < 0) {
            l->failure = loader_failure(l->run, "populating memory from",
                                        file_off, ret);
            return false;
        }
        loader_note(l->run, guest_off, n, ARRIVAL_BACKGROUND, true);
        guest_off += n;
        file_off += n;
        len_bytes -= n;
    }
    return true;
}

static void *mmap_ahead_main(void *opaque)
{
    MmapAhead *l = opaque;
    const Snapshot *snapshot = l->run->snapshot;
    uint64_t count, file_off;
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];
        uint64_t page = block->guest_off >> BENCH_PAGE_SHIFT;
        uint64_t end = page + (block->len_bytes >> BENCH_PAGE_SHIFT);

        for (; page < end; page += count) {
            if (snapshot_run(snapshot, block, page, &count, &file_off) &&
                !mmap_ahead_load_run(l, page << BENCH_PAGE_SHIFT,
                                     count << BENCH_PAGE_SHIFT, file_off)) {
                return NULL;
            }
        }
    }
    return NULL;
}

static void mmap_ahead_join(MmapAhead *l)
{
    if (l->thread) {
        g_thread_join(l->thread);
        l->thread = NULL;
    }
}

static void loader_mmap_ahead_stop(LoaderRun *run)
{
    MmapAhead *l = run->state;

    if (l) {
        __atomic_store_n(&l->is_quitting, 1, __ATOMIC_RELAXED);
        mmap_ahead_join(l);
        g_clear_error(&l->failure);
        g_free(l);
        run->state = NULL;
    }
}

static bool loader_mmap_ahead_start(LoaderRun *run, GError **error)
{
    MmapAhead *l;

    if (!loader_mmap.start(run, error)) {
        return false;
    }
    l = g_new0(MmapAhead, 1);
    run->state = l;
    l->run = run;
    if (!run->is_background_off) {
        l->thread = loader_thread(run, "ahead", mmap_ahead_main, l, error);
        if (!l->thread) {
            loader_mmap_ahead_stop(run);
            return false;
        }
    }
    return true;
}

static bool loader_mmap_ahead_wait(LoaderRun *run, GError **error)
{
    MmapAhead *l = run->state;

    /* The thread ends by itself when all is loaded, or after a failure. */
    mmap_ahead_join(l);
    if (l->failure) {
        g_propagate_error(error, g_error_copy(l->failure));
        return false;
    }
    return true;
}

const BenchLoader loader_mmap_ahead = {
    .name = "mmap-ahead",
    .summary = "mmap and one thread that populates ahead, 2 MiB a step",
    .is_lazy = true,
    .has_end = true,
    .start = loader_mmap_ahead_start,
    .wait = loader_mmap_ahead_wait,
    .stop = loader_mmap_ahead_stop,
};
