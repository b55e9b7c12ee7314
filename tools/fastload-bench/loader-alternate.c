/*
 * alternate: one thread alternates between serving a fault and loading one page
 * ahead, in ascending order; holes are copied as pages of zeros, so all memory
 * becomes resident.
 * Source: Cloud Hypervisor memory_restore_mode=ondemand, pull requests 7800
 * (userfaultfd restore) and 8150 (prefault); its issue 8756 asks for threads.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: all of memory is registered, a page is one buffered read
 * and one ioctl, and the thread ends by itself when every page is there.
 * Otherwise than in the source, which reads holes like any page, a page without
 * data is copied from a buffer of zeros, since a mapped-ram file may have old
 * bytes in its place.
 */
#include "bench.h"

typedef struct Alternate {
    /* constant after start */
    LoaderRun *run;
    int fd;
    Trap trap;
    void *zero_page;
    /* the thread, then the thread that has joined it */
    void *page_buf;
    uint64_t *present;       /* a bit for each page of the guest */
    uint32_t next_block;     /* where the next step ahead is */
    uint64_t next_page;      /* counted from the block's first */
    GError *failure;
    /* the thread that starts, waits and stops */
    GThread *thread;
} Alternate;

static void alternate_fail(Alternate *l, const char *what, uint64_t at,
                           int ret)
{
    assert(!l->failure);
    l->failure = loader_failure(l->run, what, at, ret);
}

static bool alternate_load_page(Alternate *l, const SnapshotBlock *block,
                                uint64_t page, ArrivalClass class)
{
    uint64_t guest_off = page << BENCH_PAGE_SHIFT;
    uint64_t file_off = block->file_off + guest_off - block->guest_off;
    bool has_data = snapshot_has_page(l->run->snapshot, page);
    const void *from = l->zero_page;
    int ret;

    if (has_data) {
        ret = loader_read(l->fd, l->page_buf, BENCH_PAGE_BYTES, file_off);
        if (ret < 0) {
            alternate_fail(l, "reading the page at", file_off, ret);
            return false;
        }
        from = l->page_buf;
    }
    ret = trap_copy(l->trap.uffd, l->run->hva + guest_off, from,
                    BENCH_PAGE_BYTES);
    if (ret < 0) {
        alternate_fail(l, "placing the page for", file_off, ret);
        return false;
    }
    l->present[page / 64] |= 1ull << (page % 64);
    loader_note(l->run, guest_off, BENCH_PAGE_BYTES, class, has_data);
    return true;
}

static bool alternate_is_present(const Alternate *l, uint64_t page)
{
    return l->present[page / 64] >> (page % 64) & 1;
}

/* A fault; false when the load has failed. */
static bool alternate_serve(Alternate *l, uint64_t page)
{
    const SnapshotBlock *block = snapshot_block_of(l->run->snapshot, page);

    assert(block);
    if (alternate_is_present(l, page)) {
        /* Two threads faulted on it; placing has woken both, but make sure. */
        (void)trap_wake(l->trap.uffd, l->run->hva + (page << BENCH_PAGE_SHIFT),
                        BENCH_PAGE_BYTES);
        return true;
    }
    return alternate_load_page(l, block, page, ARRIVAL_URGENT);
}

/* Where the next page ahead is; false when all are there. */
static bool alternate_find_next(Alternate *l, const SnapshotBlock **ret_block,
                                uint64_t *ret_page)
{
    const Snapshot *snapshot = l->run->snapshot;

    for (; l->next_block < snapshot->block_count; l->next_block++) {
        const SnapshotBlock *block = &snapshot->blocks[l->next_block];
        uint64_t first = block->guest_off >> BENCH_PAGE_SHIFT;
        uint64_t count = block->len_bytes >> BENCH_PAGE_SHIFT;

        for (; l->next_page < count; l->next_page++) {
            if (!alternate_is_present(l, first + l->next_page)) {
                *ret_block = block;
                *ret_page = first + l->next_page++;
                return true;
            }
        }
        l->next_page = 0;
    }
    return false;
}

static void *alternate_main(void *opaque)
{
    Alternate *l = opaque;
    bool is_ahead = !l->run->is_background_off;
    const SnapshotBlock *block;
    uint64_t page;
    int event;

    /* While pages are left to load, it does not wait for a fault. */
    while ((event = trap_wait(&l->trap, !is_ahead, &page)) != TRAP_QUIT) {
        if (event < 0) {
            alternate_fail(l, "reading a fault; message", 0, event);
            return NULL;
        }
        if (event == TRAP_FAULT && !alternate_serve(l, page)) {
            return NULL;
        }
        if (is_ahead &&
            (!alternate_find_next(l, &block, &page) ||
             !alternate_load_page(l, block, page, ARRIVAL_BACKGROUND))) {
            return NULL;
        }
    }
    return NULL;
}

static void loader_alternate_stop(LoaderRun *run)
{
    Alternate *l = run->state;

    if (!l) {
        return;
    }
    if (l->thread) {
        trap_quit(&l->trap);
        g_thread_join(l->thread);
    }
    trap_close(&l->trap);
    if (l->fd >= 0) {
        close(l->fd);
    }
    free(l->page_buf);
    free(l->zero_page);
    g_free(l->present);
    g_clear_error(&l->failure);
    g_free(l);
    run->state = NULL;
}

static bool alternate_begin(Alternate *l, GError **error)
{
    l->fd = loader_open(l->run, error);
    if (l->fd < 0 ||
        !(l->page_buf = loader_buffer(l->run, BENCH_PAGE_BYTES, error)) ||
        !(l->zero_page = loader_buffer(l->run, BENCH_PAGE_BYTES, error)) ||
        !trap_open(&l->trap, l->run, TRAP_MISSING, error)) {
        return false;
    }
    memset(l->zero_page, 0, BENCH_PAGE_BYTES);
    l->thread = loader_thread(l->run, "alternate", alternate_main, l, error);
    return l->thread;
}

static bool loader_alternate_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    Alternate *l = g_new0(Alternate, 1);

    run->state = l;
    l->run = run;
    l->fd = l->trap.uffd = l->trap.quit_fd = -1;
    l->present = g_new0(uint64_t, (page_count + 63) / 64);
    if (!alternate_begin(l, error)) {
        loader_alternate_stop(run);
        return false;
    }
    return true;
}

static bool loader_alternate_wait(LoaderRun *run, GError **error)
{
    Alternate *l = run->state;

    /* The thread ends by itself when all is loaded, or after a failure. */
    g_thread_join(l->thread);
    l->thread = NULL;
    if (l->failure) {
        g_propagate_error(error, g_error_copy(l->failure));
        return false;
    }
    trap_unregister(&l->trap);
    return true;
}

const BenchLoader loader_alternate = {
    .name = "alternate",
    .summary = "Cloud Hypervisor's ondemand: one thread, faults and steps",
    .knobs = LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = true,
    .start = loader_alternate_start,
    .wait = loader_alternate_wait,
    .stop = loader_alternate_stop,
};
