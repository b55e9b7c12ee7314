/*
 * fastload-bench: what the contenders share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The table of all contenders, the books they keep about what has arrived,
 * and reading a file to the last byte.  No contender's way of loading is
 * here.  Opening fails with a sentence, reading with -errno.
 */
#include "bench.h"
#include <sys/uio.h>

/* Signals are not expected in threads that read. */
#define LOADER_INTERRUPTED_COUNT_MAX 1000
#define LOADER_ARRIVAL_UNIT_NS 16000u
#define LOADER_ARRIVAL_TIME_BITS 28

const BenchLoader *const bench_loaders[] = {
    &loader_null,
    &loader_eager,
    &loader_eager_multi,
    &loader_two_thread,
    &loader_alternate,
    &loader_mmap,
    &loader_fastload,
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
    uint64_t unit = (now_ns - MIN(run->begin_ns, now_ns)) /
                    LOADER_ARRIVAL_UNIT_NS;
    uint32_t arrival = (uint32_t)class << LOADER_ARRIVAL_TIME_BITS |
                       CLAMP(unit, 1, (1u << LOADER_ARRIVAL_TIME_BITS) - 1);

    assert(class < ARRIVAL_COUNT);
    if (is_data) {
        __atomic_fetch_add(&run->loaded_bytes[class], len_bytes,
                           __ATOMIC_RELAXED);
    }
    for (; page < end; page++) {
        /* Two threads may both find 0: either's entry is true enough. */
        if (!__atomic_load_n(&run->arrivals[page], __ATOMIC_RELAXED)) {
            __atomic_store_n(&run->arrivals[page], arrival, __ATOMIC_RELAXED);
        }
    }
}

int loader_open(const LoaderRun *run, GError **error)
{
    const Snapshot *snapshot = run->snapshot;
    const Variant *variant = run->variant;
    /* Who does not have this knob reads through the page cache. */
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
            /* O_DIRECT stopped inside a page: there the file ends. */
            return -ENODATA;
        } else if (errno != EINTR ||
                   ++interrupted_count > LOADER_INTERRUPTED_COUNT_MAX) {
            return -errno;
        }
    }
    return 0;
}
