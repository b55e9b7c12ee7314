/*
 * alternate: one thread takes turns between a fault and a step of one page
 * ahead, ascending; holes are copied as pages of zeros, so all gets resident.
 * Source: Cloud Hypervisor memory_restore_mode=ondemand, pull requests 7800
 * (userfaultfd restore) and 8150 (prefault); its issue 8756 asks for threads.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As there: all of memory is registered, a page is one buffered read and one
 * ioctl, and the thread ends by itself when every page is there.  There a
 * hole is read like any page; here a page that the file lacks is copied from
 * a buffer of zeros, since a mapped-ram file may have old bytes in its place.
 */
#include "bench.h"
#include <poll.h>
#include <sys/eventfd.h>

typedef struct Alternate {
    /* constant after start */
    LoaderRun *run;
    int fd;
    int uffd;
    int quit_fd;             /* an eventfd: the thread ends */
    void *zero_page;
    /* the thread's, then that of who joined it */
    void *page_buf;
    uint64_t *present;       /* a bit for each page of the guest */
    uint32_t next_block;     /* where the next step ahead is */
    uint64_t next_page;      /* counted from the block's first */
    GError *failure;
    /* who starts, waits and stops */
    GThread *thread;
    uint32_t registered_count;  /* blocks */
} Alternate;

static void alternate_fail(Alternate *l, const char *what, uint64_t at,
                           int ret)
{
    assert(!l->failure);
    l->failure = g_error_new(BENCH_ERROR, BENCH_ERROR_FAILED,
                             "alternate: %s %#" PRIx64 " of %s failed: %s",
                             what, at, l->run->snapshot->label,
                             g_strerror(-ret));
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
    ret = trap_copy(l->uffd, l->run->hva + guest_off, from, BENCH_PAGE_BYTES);
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

/* One fault; false when the load has failed. */
static bool alternate_serve(Alternate *l)
{
    const SnapshotBlock *block;
    uint64_t hva, page;
    int ret = trap_next(l->uffd, &hva);

    if (ret == -EAGAIN) {
        return true;
    }
    if (ret < 0) {
        alternate_fail(l, "reading a fault; message", 0, ret);
        return false;
    }
    page = (hva - (uintptr_t)l->run->hva) >> BENCH_PAGE_SHIFT;
    block = snapshot_block_of(l->run->snapshot, page);
    assert(block);
    if (alternate_is_present(l, page)) {
        /* Two asked for it; placing it has woken both.  This is for sure. */
        (void)trap_wake(l->uffd, l->run->hva + (page << BENCH_PAGE_SHIFT),
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
    struct pollfd fds[2] = {
        { .fd = l->uffd, .events = POLLIN },
        { .fd = l->quit_fd, .events = POLLIN },
    };
    const SnapshotBlock *block;
    uint64_t page;

    while (true) {
        /* With steps to do it only looks whether there is a fault. */
        if (poll(fds, 2, is_ahead ? 0 : -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            alternate_fail(l, "waiting for faults; descriptor", l->uffd,
                           -errno);
            return NULL;
        }
        if (fds[1].revents || (fds[0].revents && !alternate_serve(l))) {
            return NULL;
        }
        if (is_ahead &&
            (!alternate_find_next(l, &block, &page) ||
             !alternate_load_page(l, block, page, ARRIVAL_BACKGROUND))) {
            return NULL;
        }
    }
}

static bool alternate_register(Alternate *l, GError **error)
{
    const Snapshot *snapshot = l->run->snapshot;

    while (l->registered_count < snapshot->block_count) {
        const SnapshotBlock *block = &snapshot->blocks[l->registered_count];
        int ret = trap_register(l->uffd, l->run->hva + block->guest_off,
                                block->len_bytes);

        if (ret < 0) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "alternate: cannot register block %s with "
                        "userfaultfd: %s", block->name, g_strerror(-ret));
            return false;
        }
        l->registered_count++;
    }
    return true;
}

/* From here on the kernel serves faults, with zeros. */
static void alternate_unregister(Alternate *l)
{
    while (l->registered_count) {
        const SnapshotBlock *block =
            &l->run->snapshot->blocks[--l->registered_count];

        (void)trap_unregister(l->uffd, l->run->hva + block->guest_off,
                              block->len_bytes);
    }
}

static void loader_alternate_stop(LoaderRun *run)
{
    Alternate *l = run->state;
    const uint64_t one = 1;

    if (!l) {
        return;
    }
    if (l->thread) {
        ssize_t put = write(l->quit_fd, &one, sizeof(one));

        assert(put == sizeof(one));
        g_thread_join(l->thread);
    }
    alternate_unregister(l);
    if (l->uffd >= 0) {
        close(l->uffd);
    }
    if (l->quit_fd >= 0) {
        close(l->quit_fd);
    }
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

static bool alternate_open(Alternate *l, GError **error)
{
    l->fd = loader_open(l->run, error);
    if (l->fd < 0) {
        return false;
    }
    l->uffd = trap_open(error);
    if (l->uffd < 0) {
        return false;
    }
    l->quit_fd = eventfd(0, EFD_CLOEXEC);
    if (l->quit_fd < 0 ||
        posix_memalign(&l->page_buf, BENCH_PAGE_BYTES, BENCH_PAGE_BYTES) ||
        posix_memalign(&l->zero_page, BENCH_PAGE_BYTES, BENCH_PAGE_BYTES)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "alternate: no eventfd or no memory; raise the limit of "
                    "open files (ulimit -n) or free some memory");
        return false;
    }
    memset(l->zero_page, 0, BENCH_PAGE_BYTES);
    return true;
}

static bool loader_alternate_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    Alternate *l = g_new0(Alternate, 1);
    bool is_ok;

    run->state = l;
    l->run = run;
    l->fd = l->uffd = l->quit_fd = -1;
    l->present = g_new0(uint64_t, (page_count + 63) / 64);
    is_ok = alternate_open(l, error) && alternate_register(l, error);
    if (is_ok) {
        l->thread = g_thread_try_new("alternate", alternate_main, l, NULL);
        if (!l->thread) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "alternate: cannot start its thread; raise the limit "
                        "of processes (ulimit -u)");
            is_ok = false;
        }
    }
    if (!is_ok) {
        loader_alternate_stop(run);
    }
    return is_ok;
}

static bool loader_alternate_wait(LoaderRun *run, GError **error)
{
    Alternate *l = run->state;

    /* The thread ends by itself: all there, or failed. */
    g_thread_join(l->thread);
    l->thread = NULL;
    if (l->failure) {
        g_propagate_error(error, g_error_copy(l->failure));
        return false;
    }
    alternate_unregister(l);
    return true;
}

const BenchLoader loader_alternate = {
    .name = "alternate",
    .summary = "Cloud Hypervisor's ondemand: one thread, faults and steps",
    .is_lazy = true,
    .has_end = true,
    .start = loader_alternate_start,
    .wait = loader_alternate_wait,
    .stop = loader_alternate_stop,
};
