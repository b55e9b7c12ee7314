/*
 * fastload-bench: the table of contenders, and functions that they share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Notes which pages have arrived, reads a file completely, and does what else
 * nearly all contenders need.  No contender's way of loading is here.  Reading
 * fails with -errno, everything else with a sentence.
 */
#include "bench.h"
#include <sys/uio.h>

/* Signals are not expected in threads that read. */
#define LOADER_INTERRUPTED_COUNT_MAX 1000

const BenchLoader *const bench_loaders[] = {
    &loader_null,
    &loader_eager,
    &loader_eager_multi,
    &loader_two_thread,
    &loader_alternate,
    &loader_mmap,
    &loader_mmap_ahead,
    &loader_fastload,
    &loader_copy_threads,
    &loader_continue,
    &loader_handler,
    &loader_reap,
    &loader_e2b,
    NULL,
};

const BenchLoader *bench_loader_by_name(const char *name)
{
    const BenchLoader *const *at;

    for (at = bench_loaders; *at; at++) {
        if (g_str_equal((*at)->name, name)) {
            return *at;
        }
    }
    return NULL;
}

void loader_note(LoaderRun *run, uint64_t guest_off, uint64_t len_bytes,
                 ArrivalClass class, bool is_data)
{
    uint64_t page = guest_off >> BENCH_PAGE_SHIFT;
    uint64_t end = (guest_off + len_bytes) >> BENCH_PAGE_SHIFT;
    uint64_t now_ns = bench_now_ns();
    uint32_t arrival = arrival_pack(class,
                                    now_ns - MIN(run->begin_ns, now_ns));
    uint64_t new_count = 0;

    assert(class < ARRIVAL_COUNT);
    for (; page < end; page++) {
        uint32_t none = 0;

        /* If two vCPUs fault on one page, the first one counts. */
        if (!__atomic_load_n(&run->arrivals[page], __ATOMIC_RELAXED) &&
            __atomic_compare_exchange_n(&run->arrivals[page], &none, arrival,
                                        false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
            new_count++;
        }
    }
    if (is_data) {
        __atomic_fetch_add(&run->loaded_bytes[class],
                           new_count << BENCH_PAGE_SHIFT, __ATOMIC_RELAXED);
    }
}

int loader_open(const LoaderRun *run, GError **error)
{
    const Snapshot *snapshot = run->snapshot;
    const Variant *variant = run->variant;
    /* A loader without this knob reads through the page cache. */
    bool is_direct = variant->is_direct &&
                     (variant->loader->knobs & LOADER_HAS_DIRECT);
    int fd = open(snapshot->path,
                  O_RDONLY | O_CLOEXEC | (is_direct ? O_DIRECT : 0));

    if (fd < 0 && errno == EINVAL && is_direct) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the file system of %s has no O_DIRECT; keep the snapshot "
                    "on another one or leave the direct contenders out",
                    snapshot->label);
    } else if (fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot open %s again: %s; it must stay where it is, "
                    "readable, while it is measured", snapshot->label,
                    g_strerror(errno));
    }
    return fd;
}

int loader_read(int fd, void *buf, uint64_t len_bytes, uint64_t file_off)
{
    uint64_t done_bytes = 0;
    uint32_t interrupted_count = 0;

    while (done_bytes < len_bytes) {
        struct iovec iov = {
            .iov_base = (uint8_t *)buf + done_bytes,
            .iov_len = len_bytes - done_bytes,
        };
        ssize_t got = preadv(fd, &iov, 1, file_off + done_bytes);

        if (got > 0) {
            done_bytes += got;
        } else if (got == 0) {
            return -ENODATA;
        } else if (errno == EINVAL && done_bytes % BENCH_PAGE_BYTES) {
            /* O_DIRECT stops inside a page only where the file ends. */
            return -ENODATA;
        } else if (errno != EINTR ||
                   ++interrupted_count > LOADER_INTERRUPTED_COUNT_MAX) {
            return -errno;
        }
    }
    return 0;
}

void *loader_buffer(const LoaderRun *run, uint64_t len_bytes, GError **error)
{
    void *buf = NULL;

    if (posix_memalign(&buf, BENCH_PAGE_BYTES, len_bytes)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: no memory for a buffer of %" PRIu64 " bytes; free "
                    "some", run->variant->loader->name, len_bytes);
        return NULL;
    }
    return buf;
}

GThread *loader_thread(const LoaderRun *run, const char *name,
                       GThreadFunc func, void *opaque, GError **error)
{
    GThread *thread = g_thread_try_new(name, func, opaque, NULL);

    if (!thread) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: cannot start a thread; raise the limit of processes "
                    "(ulimit -u)", run->variant->loader->name);
    }
    return thread;
}

GError *loader_failure(const LoaderRun *run, const char *what, uint64_t at,
                       int ret)
{
    return g_error_new(BENCH_ERROR, BENCH_ERROR_FAILED,
                       "%s: %s %#" PRIx64 " of %s failed: %s",
                       run->variant->loader->name, what, at,
                       run->snapshot->label, ret == -ENODATA
                       ? "the file ends there" : g_strerror(-ret));
}
