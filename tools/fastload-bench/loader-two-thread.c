/*
 * two-thread: a fault thread and an eager thread, each with one 4 KiB page at a
 * time: claim the page with a bit, a buffered read, an ioctl; zero pages, too.
 * Source: QEMU 11.2, capabilities mapped-ram with postcopy-ram, as merged;
 * migration/postcopy-ram.c for fault thread and ranges.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the source: all of memory is registered, and huge pages are not
 * switched off for it (none can be made where pages are missing); the eager
 * thread goes through block after block in ascending order, the fault thread
 * reads one message at a time; the claim is one atomic bit a page, set before
 * the read, and a fault on a page that the other has claimed waits for that
 * one's placing; the load is complete at the end of the eager loop, when no
 * page is left that nobody has claimed.
 *
 * Not as in the source: a page that cannot be read ends the load with an error,
 * whereas QEMU's fault thread exits and the load may still report completion.
 * All pages are 4 KiB; QEMU reads a 2 MiB page of hugetlbfs in 512 pieces.
 *
 * It uses POSIX mutexes, as QEMU does, and because the thread sanitizer knows
 * them.
 */
#include "bench.h"
#include <pthread.h>

typedef struct TwoThread {
    /* constant after start */
    LoaderRun *run;
    int fd;
    Trap trap;
    /* one thread each */
    void *fault_page;
    void *eager_page;
    /* the thread that starts, waits and stops */
    GThread *fault_thread;
    GThread *eager_thread;
    /* atomic */
    int is_quitting;         /* the eager thread ends */
    uint64_t *claims;        /* a bit for each page of the guest */
    /* lock: mutex */
    pthread_mutex_t mutex;
    pthread_cond_t changed;  /* is_loaded or failure */
    bool is_loaded;
    GError *failure;         /* the first */
} TwoThread;

static void two_thread_fail(TwoThread *l, const char *what, uint64_t at,
                            int ret)
{
    pthread_mutex_lock(&l->mutex);
    if (!l->failure) {
        l->failure = loader_failure(l->run, what, at, ret);
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

static bool two_thread_load_page(TwoThread *l, const SnapshotBlock *block,
                                 uint64_t page, void *buf,
                                 ArrivalClass class)
{
    uint64_t guest_off = page << BENCH_PAGE_SHIFT;
    uint64_t file_off = block->file_off + guest_off - block->guest_off;
    void *hva = l->run->hva + guest_off;
    bool has_data = snapshot_has_page(l->run->snapshot, page);
    int ret;

    if (!loader_claim(l->claims, page)) {
        return true;
    }
    if (has_data) {
        ret = loader_read(l->fd, buf, BENCH_PAGE_BYTES, file_off);
        if (ret < 0) {
            two_thread_fail(l, "reading the page at", file_off, ret);
            return false;
        }
        ret = trap_copy(l->trap.uffd, hva, buf, BENCH_PAGE_BYTES);
    } else {
        ret = trap_zero(l->trap.uffd, hva, BENCH_PAGE_BYTES);
    }
    if (ret < 0) {
        two_thread_fail(l, "placing the page for", file_off, ret);
        return false;
    }
    loader_note(l->run, guest_off, BENCH_PAGE_BYTES, class, has_data);
    return true;
}

static void *two_thread_eager_main(void *opaque)
{
    TwoThread *l = opaque;
    const Snapshot *snapshot = l->run->snapshot;
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];
        uint64_t page = block->guest_off >> BENCH_PAGE_SHIFT;
        uint64_t end = page + (block->len_bytes >> BENCH_PAGE_SHIFT);

        for (; page < end; page++) {
            if (__atomic_load_n(&l->is_quitting, __ATOMIC_RELAXED) ||
                !two_thread_load_page(l, block, page, l->eager_page,
                                      ARRIVAL_BACKGROUND)) {
                return NULL;
            }
        }
    }
    pthread_mutex_lock(&l->mutex);
    l->is_loaded = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    return NULL;
}

static void *two_thread_fault_main(void *opaque)
{
    TwoThread *l = opaque;
    const SnapshotBlock *block;
    uint64_t page;
    int event;

    while ((event = trap_wait(&l->trap, true, &page)) != TRAP_QUIT) {
        if (event < 0) {
            two_thread_fail(l, "reading a fault; message", 0, event);
            return NULL;
        }
        if (event == TRAP_NOTHING) {
            continue;
        }
        block = snapshot_block_of(l->run->snapshot, page);
        assert(block);
        if (!two_thread_load_page(l, block, page, l->fault_page,
                                  ARRIVAL_URGENT)) {
            return NULL;
        }
    }
    return NULL;
}

/*
 * Ends both threads, the fault thread after it has placed what it claimed.
 * From then on the kernel serves faults, with zeros.
 */
static void two_thread_end(TwoThread *l)
{
    __atomic_store_n(&l->is_quitting, 1, __ATOMIC_RELAXED);
    if (l->fault_thread) {
        trap_quit(&l->trap);
        g_thread_join(l->fault_thread);
        l->fault_thread = NULL;
    }
    if (l->eager_thread) {
        g_thread_join(l->eager_thread);
        l->eager_thread = NULL;
    }
    trap_unregister(&l->trap);
}

static void loader_two_thread_stop(LoaderRun *run)
{
    TwoThread *l = run->state;

    if (!l) {
        return;
    }
    two_thread_end(l);
    trap_close(&l->trap);
    if (l->fd >= 0) {
        close(l->fd);
    }
    free(l->fault_page);
    free(l->eager_page);
    g_free(l->claims);
    g_clear_error(&l->failure);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
    g_free(l);
    run->state = NULL;
}

static bool two_thread_begin(TwoThread *l, GError **error)
{
    LoaderRun *run = l->run;

    l->fd = loader_open(run, error);
    if (l->fd < 0 ||
        !(l->fault_page = loader_buffer(run, BENCH_PAGE_BYTES, error)) ||
        !(l->eager_page = loader_buffer(run, BENCH_PAGE_BYTES, error)) ||
        !trap_open(&l->trap, run, TRAP_MISSING, error)) {
        return false;
    }
    l->fault_thread = loader_thread(run, "fault", two_thread_fault_main, l,
                                    error);
    if (!l->fault_thread) {
        return false;
    }
    if (!run->is_background_off) {
        l->eager_thread = loader_thread(run, "eager", two_thread_eager_main,
                                        l, error);
    }
    return l->eager_thread || run->is_background_off;
}

static bool loader_two_thread_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    TwoThread *l = g_new0(TwoThread, 1);

    run->state = l;
    l->run = run;
    l->fd = l->trap.uffd = l->trap.quit_fd = -1;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->claims = g_new0(uint64_t, (page_count + 63) / 64);
    if (!two_thread_begin(l, error)) {
        loader_two_thread_stop(run);
        return false;
    }
    return true;
}

static bool loader_two_thread_wait(LoaderRun *run, GError **error)
{
    TwoThread *l = run->state;
    bool is_failed;

    pthread_mutex_lock(&l->mutex);
    while (!l->is_loaded && !l->failure) {
        pthread_cond_wait(&l->changed, &l->mutex);
    }
    is_failed = l->failure;
    pthread_mutex_unlock(&l->mutex);
    if (!is_failed) {
        /* The fault thread may still be placing a page that it claimed. */
        two_thread_end(l);
    }
    if (l->failure) {
        g_propagate_error(error, g_error_copy(l->failure));
        return false;
    }
    return true;
}

const BenchLoader loader_two_thread = {
    .name = "two-thread",
    .summary = "QEMU 11.2's fast snapshot load: faults and 4 KiB reads ahead",
    .knobs = LOADER_NEEDS_TRAP,
    .is_lazy = true,
    .has_end = true,
    .start = loader_two_thread_start,
    .wait = loader_two_thread_wait,
    .stop = loader_two_thread_stop,
};
