/*
 * two-thread: a fault thread and an eager thread, each one 4 KiB page at a
 * time: a claim under a mutex, a buffered read, an ioctl; zero pages as well.
 * Source: QEMU 11.2, capabilities mapped-ram with postcopy-ram (its RFC
 * series was measured); migration/postcopy-ram.c for fault thread and ranges.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As there: all of memory is registered, huge pages are off while it loads,
 * the eager thread goes through block after block in ascending order, the
 * fault thread reads one message at a time, and a fault on a page that the
 * other has claimed waits for that one's placing.
 *
 * POSIX mutexes, as QEMU's are, and because the thread sanitizer knows them.
 *
 * Not as there: a page that cannot be read ends the load with an error.
 */
#include "bench.h"
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

typedef struct TwoThread {
    /* constant after start */
    LoaderRun *run;
    int fd;
    int uffd;
    int quit_fd;             /* an eventfd: the fault thread ends */
    /* a thread's own */
    void *fault_page;
    void *eager_page;
    /* who starts, waits and stops */
    GThread *fault_thread;
    GThread *eager_thread;
    uint32_t registered_count;  /* blocks */
    /* atomic */
    int is_quitting;         /* the eager thread ends */
    /* lock: mutex */
    pthread_mutex_t mutex;
    pthread_cond_t changed;  /* is_loaded or failure */
    uint64_t *claimed;       /* a bit for each page of the guest */
    bool is_loaded;
    GError *failure;         /* the first */
} TwoThread;

static void two_thread_fail(TwoThread *l, const char *what, uint64_t at,
                            int ret)
{
    pthread_mutex_lock(&l->mutex);
    if (!l->failure) {
        l->failure = g_error_new(BENCH_ERROR, BENCH_ERROR_FAILED,
                                 "two-thread: %s %#" PRIx64 " of %s failed: "
                                 "%s", what, at, l->run->snapshot->label,
                                 g_strerror(-ret));
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

/* Whether the page is this thread's to load from now on. */
static bool two_thread_claim(TwoThread *l, uint64_t page)
{
    uint64_t bit = 1ull << (page % 64);
    bool is_mine;

    pthread_mutex_lock(&l->mutex);
    is_mine = !(l->claimed[page / 64] & bit);
    l->claimed[page / 64] |= bit;
    pthread_mutex_unlock(&l->mutex);
    return is_mine;
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

    if (!two_thread_claim(l, page)) {
        return true;
    }
    if (has_data) {
        ret = loader_read(l->fd, buf, BENCH_PAGE_BYTES, file_off);
        if (ret < 0) {
            two_thread_fail(l, "reading the page at", file_off, ret);
            return false;
        }
        ret = trap_copy(l->uffd, hva, buf, BENCH_PAGE_BYTES);
    } else {
        ret = trap_zero(l->uffd, hva, BENCH_PAGE_BYTES);
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

/* One message; false when the load has failed. */
static bool two_thread_serve(TwoThread *l)
{
    const SnapshotBlock *block;
    uint64_t hva, page;
    int ret = trap_next(l->uffd, &hva);

    if (ret == -EAGAIN) {
        return true;
    }
    if (ret < 0) {
        two_thread_fail(l, "reading a fault; message", 0, ret);
        return false;
    }
    page = (hva - (uintptr_t)l->run->hva) >> BENCH_PAGE_SHIFT;
    block = snapshot_block_of(l->run->snapshot, page);
    assert(block);
    return two_thread_load_page(l, block, page, l->fault_page,
                                ARRIVAL_URGENT);
}

static void *two_thread_fault_main(void *opaque)
{
    TwoThread *l = opaque;
    struct pollfd fds[2] = {
        { .fd = l->uffd, .events = POLLIN },
        { .fd = l->quit_fd, .events = POLLIN },
    };

    while (true) {
        if (poll(fds, 2, -1) < 0) {
            if (errno == EINTR) {
                continue;
            }
            two_thread_fail(l, "waiting for faults; descriptor", l->uffd,
                            -errno);
            return NULL;
        }
        if (fds[1].revents || (fds[0].revents && !two_thread_serve(l))) {
            return NULL;
        }
    }
}

static bool two_thread_register(TwoThread *l, GError **error)
{
    const Snapshot *snapshot = l->run->snapshot;

    while (l->registered_count < snapshot->block_count) {
        const SnapshotBlock *block = &snapshot->blocks[l->registered_count];
        void *hva = l->run->hva + block->guest_off;
        int ret;

        /* Kernels without huge pages refuse, and need no advice. */
        (void)madvise(hva, block->len_bytes, MADV_NOHUGEPAGE);
        ret = trap_register(l->uffd, hva, block->len_bytes);
        if (ret < 0) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "two-thread: cannot register block %s with "
                        "userfaultfd: %s", block->name, g_strerror(-ret));
            return false;
        }
        l->registered_count++;
    }
    return true;
}

/* Ends both threads; from here on the kernel serves faults, with zeros. */
static void two_thread_end(TwoThread *l)
{
    const uint64_t one = 1;

    __atomic_store_n(&l->is_quitting, 1, __ATOMIC_RELAXED);
    if (l->fault_thread) {
        ssize_t put = write(l->quit_fd, &one, sizeof(one));

        assert(put == sizeof(one));
        g_thread_join(l->fault_thread);
        l->fault_thread = NULL;
    }
    if (l->eager_thread) {
        g_thread_join(l->eager_thread);
        l->eager_thread = NULL;
    }
    while (l->registered_count) {
        const SnapshotBlock *block =
            &l->run->snapshot->blocks[--l->registered_count];
        void *hva = l->run->hva + block->guest_off;

        (void)madvise(hva, block->len_bytes, MADV_HUGEPAGE);
        (void)trap_unregister(l->uffd, hva, block->len_bytes);
    }
}

static void loader_two_thread_stop(LoaderRun *run)
{
    TwoThread *l = run->state;

    if (!l) {
        return;
    }
    two_thread_end(l);
    if (l->uffd >= 0) {
        close(l->uffd);
    }
    if (l->quit_fd >= 0) {
        close(l->quit_fd);
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    free(l->fault_page);
    free(l->eager_page);
    g_free(l->claimed);
    g_clear_error(&l->failure);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
    g_free(l);
    run->state = NULL;
}

static bool two_thread_open(TwoThread *l, GError **error)
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
        posix_memalign(&l->fault_page, BENCH_PAGE_BYTES, BENCH_PAGE_BYTES) ||
        posix_memalign(&l->eager_page, BENCH_PAGE_BYTES, BENCH_PAGE_BYTES)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "two-thread: no eventfd or no memory; raise the limit of "
                    "open files (ulimit -n) or free some memory");
        return false;
    }
    return true;
}

static bool loader_two_thread_start(LoaderRun *run, GError **error)
{
    uint64_t page_count = run->snapshot->guest_bytes >> BENCH_PAGE_SHIFT;
    TwoThread *l = g_new0(TwoThread, 1);
    bool is_ok;

    run->state = l;
    l->run = run;
    l->fd = l->uffd = l->quit_fd = -1;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->changed, NULL);
    l->claimed = g_new0(uint64_t, (page_count + 63) / 64);
    is_ok = two_thread_open(l, error) && two_thread_register(l, error);
    if (is_ok) {
        l->fault_thread = g_thread_try_new("fault", two_thread_fault_main, l,
                                           NULL);
        if (!run->is_background_off) {
            l->eager_thread = g_thread_try_new("eager", two_thread_eager_main,
                                               l, NULL);
        }
        is_ok = l->fault_thread &&
                (l->eager_thread || run->is_background_off);
        if (!is_ok) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "two-thread: cannot start its threads; raise the "
                        "limit of processes (ulimit -u)");
        }
    }
    if (!is_ok) {
        loader_two_thread_stop(run);
    }
    return is_ok;
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
    .is_lazy = true,
    .has_end = true,
    .start = loader_two_thread_start,
    .wait = loader_two_thread_wait,
    .stop = loader_two_thread_stop,
};
