/*
 * fastload-bench: the storage below the snapshot.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Brings the page cache into a known state, and measures the device without any
 * loader, as a reference for all figures.  Only stretches with data count,
 * since a hole reads faster than any disk.  Where io_uring is refused, as in
 * many containers, threads read instead.  Measuring fails if the file cannot be
 * read with O_DIRECT.
 */
#include "bench.h"
#include <liburing.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* the same for all architectures but Alpha */
#endif

#define RAW_READ_BYTES (1u << 20)
#define RAW_DEPTH 4
#define RAW_DEPTH_MAX 64
#define WARM_READ_BYTES (4u << 20)
#define MINCORE_WINDOW_BYTES (1ull << 30)
#define DROP_TRIES 5
#define DROP_WAIT_US 20000

/* Does the kernel tell what is cached?  See cachestat(2). */
static bool storage_may_look(int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    struct stat st;

    return geteuid() == 0 || faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 ||
           (fstat(fd, &st) == 0 && st.st_uid == geteuid());
}

/* By mincore(), which reports another user's file as fully resident. */
static uint64_t storage_count_resident(const Snapshot *snapshot, int fd)
{
    uint64_t cached_pages = 0, at, i;
    g_autofree unsigned char *states =
        g_malloc(MINCORE_WINDOW_BYTES >> BENCH_PAGE_SHIFT);

    for (at = 0; at < snapshot->file_bytes; at += MINCORE_WINDOW_BYTES) {
        uint64_t len_bytes = MIN(snapshot->file_bytes - at,
                                 MINCORE_WINDOW_BYTES);
        void *map = mmap(NULL, len_bytes, PROT_READ, MAP_SHARED, fd, at);

        if (map == MAP_FAILED) {
            continue;
        }
        if (mincore(map, len_bytes, states) == 0) {
            for (i = 0; i < (len_bytes + BENCH_PAGE_BYTES - 1) >>
                 BENCH_PAGE_SHIFT; i++) {
                cached_pages += states[i] & 1;
            }
        }
        munmap(map, len_bytes);
    }
    return cached_pages << BENCH_PAGE_SHIFT;
}

/*
 * Pages of the file in the page cache, including pages that are still being
 * read for a process that has ended.  False: the kernel does not tell, or is
 * older than 6.5.
 */
static bool storage_cachestat(int fd, uint64_t *ret_pages)
{
    uint64_t range[2] = { 0, 0 }; /* to the end of the file */
    uint64_t counts[5];

    if (syscall(SYS_cachestat, fd, range, counts, 0)) {
        return false;
    }
    *ret_pages = counts[0];
    return true;
}

static uint64_t storage_count_cached(const Snapshot *snapshot, int fd)
{
    uint64_t pages;

    return storage_cachestat(fd, &pages) ? pages << BENCH_PAGE_SHIFT
           : storage_may_look(fd) ? storage_count_resident(snapshot, fd)
           : STORAGE_CACHED_UNKNOWN;
}

uint64_t storage_cached_bytes(const Snapshot *snapshot)
{
    return storage_count_cached(snapshot, snapshot->fd);
}

uint64_t storage_cached_after_open(const Snapshot *snapshot)
{
    int fd = open(snapshot->path, O_RDONLY | O_CLOEXEC);
    uint64_t cached_bytes = fd < 0 ? STORAGE_CACHED_UNKNOWN
                                   : storage_count_cached(snapshot, fd);

    if (fd >= 0) {
        close(fd);
    }
    return cached_bytes;
}

static bool storage_fill_cache(const Snapshot *snapshot, GError **error)
{
    g_autofree void *buf = g_malloc(WARM_READ_BYTES);
    uint64_t page, last, count, file_off, at;
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];

        page = block->guest_off >> BENCH_PAGE_SHIFT;
        last = page + (block->len_bytes >> BENCH_PAGE_SHIFT);
        for (; page < last; page += count) {
            uint64_t len_bytes;

            if (!snapshot_run(snapshot, block, page, &count, &file_off)) {
                continue;
            }
            len_bytes = count << BENCH_PAGE_SHIFT;
            for (at = 0; at < len_bytes; at += WARM_READ_BYTES) {
                int ret = loader_read(snapshot->fd, buf,
                                      MIN(len_bytes - at, WARM_READ_BYTES),
                                      file_off + at);

                if (ret) {
                    g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                                "cannot read %s at offset %" PRIu64 ": %s",
                                snapshot->label, file_off + at,
                                g_strerror(-ret));
                    return false;
                }
            }
        }
    }
    return true;
}

bool storage_device_read(const Snapshot *snapshot, uint64_t *ret_bytes)
{
    g_autofree char *path = NULL, *text = NULL;
    uint64_t sectors;
    struct stat st;
    dev_t dev;

    if (snapshot->mount) {
        *ret_bytes = storage_mount_read_bytes(snapshot->mount);
        return true;
    }
    if (fstat(snapshot->fd, &st) < 0) {
        return false;
    }
    dev = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev;
    path = g_strdup_printf("/sys/dev/block/%u:%u/stat", major(dev),
                           minor(dev));
    /* Reads done, reads merged, sectors read; a sector has 512 bytes here. */
    if (!g_file_get_contents(path, &text, NULL, NULL) ||
        sscanf(text, "%*u %*u %" SCNu64, &sectors) != 1) {
        return false;
    }
    *ret_bytes = sectors * 512;
    return true;
}

/* Is any page of the file cached, or being read into the cache? */
static bool storage_has_cache(const Snapshot *snapshot)
{
    uint64_t pages;

    if (storage_cachestat(snapshot->fd, &pages)) {
        return pages;
    }
    /* mincore() does not see pages that are still being read. */
    g_usleep(DROP_WAIT_US);
    return storage_cached_bytes(snapshot);
}

static bool storage_bring_cache(const Snapshot *snapshot, CacheState state,
                                GError **error)
{
    uint32_t i;

    if (state == CACHE_WARM) {
        return storage_fill_cache(snapshot, error);
    }
    /* Only clean pages that are not in use are dropped: try again. */
    for (i = 0; i < DROP_TRIES; i++) {
        int ret = posix_fadvise(snapshot->fd, 0, 0, POSIX_FADV_DONTNEED);

        if (ret) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "cannot drop %s from the page cache: %s",
                        snapshot->label, g_strerror(ret));
            return false;
        }
        if (!storage_has_cache(snapshot)) {
            break;
        }
        g_usleep(DROP_WAIT_US);
    }
    return true;
}

bool storage_set_cache(const Snapshot *snapshot, CacheState state,
                       GError **error)
{
    StorageMount *mount = snapshot->mount;
    bool is_right;

    /* Preparations do not wait for simulated storage. */
    if (mount && !storage_mount_set_fast(mount, true, error)) {
        return false;
    }
    is_right = storage_bring_cache(snapshot, state, error);
    return (!mount || storage_mount_set_fast(mount, false, error)) &&
           is_right;
}

/* A stretch of RAW_READ_BYTES of the file, and how much of it is data. */
typedef struct Stretch {
    uint64_t file_off;
    uint32_t data_bytes;
} Stretch;

/* Stretches that are mostly data, or the best ones there are. */
static GArray *storage_stretches(const Snapshot *snapshot)
{
    GArray *list = g_array_new(FALSE, FALSE, sizeof(Stretch));
    uint32_t least_bytes = RAW_READ_BYTES, b;

    while (!list->len && least_bytes >= BENCH_PAGE_BYTES) {
        for (b = 0; b < snapshot->block_count; b++) {
            const SnapshotBlock *block = &snapshot->blocks[b];
            uint64_t first = block->guest_off >> BENCH_PAGE_SHIFT;
            uint64_t at, page;

            for (at = 0; at + RAW_READ_BYTES <= block->len_bytes;
                 at += RAW_READ_BYTES) {
                Stretch stretch = { block->file_off + at, 0 };

                page = first + (at >> BENCH_PAGE_SHIFT);
                for (; page << BENCH_PAGE_SHIFT < block->guest_off + at +
                     RAW_READ_BYTES; page++) {
                    stretch.data_bytes += snapshot_has_page(snapshot, page)
                        ? BENCH_PAGE_BYTES : 0;
                }
                if (stretch.data_bytes >= least_bytes &&
                    stretch.file_off + RAW_READ_BYTES <=
                    snapshot->file_bytes) {
                    g_array_append_val(list, stretch);
                }
            }
        }
        least_bytes /= 2;
    }
    return list;
}

typedef struct RawRead {
    struct io_uring ring;
    int fd;
    uint8_t *bufs;
    const GArray *stretches;
    guint next;
    uint32_t depth;          /* reads in flight */
    uint32_t inflight_count;
    uint64_t ns;             /* for how long to read */
} RawRead;

static void raw_queue(RawRead *raw, uint64_t slot)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&raw->ring);
    const Stretch *stretch = &g_array_index(raw->stretches, Stretch,
                                            raw->next % raw->stretches->len);

    io_uring_prep_read(sqe, raw->fd, raw->bufs + slot * RAW_READ_BYTES,
                       RAW_READ_BYTES, stretch->file_off);
    /* The buffer, and how many of its bytes count. */
    sqe->user_data = slot << 32 | stretch->data_bytes;
    raw->next++;
    raw->inflight_count++;
}

/* Bytes a second, or -errno. */
static double raw_sequential(RawRead *raw)
{
    uint64_t begin_ns = bench_now_ns(), now_ns = begin_ns, done_bytes = 0;
    int ret = 0;
    uint32_t i;

    for (i = 0; i < raw->depth; i++) {
        raw_queue(raw, i);
    }
    while (raw->inflight_count) {
        struct io_uring_cqe *cqe;

        io_uring_submit(&raw->ring);
        ret = io_uring_wait_cqe(&raw->ring, &cqe);
        if (ret == -EINTR) {
            continue;
        }
        if (ret) {
            return ret;
        }
        raw->inflight_count--;
        now_ns = bench_now_ns();
        if (cqe->res != RAW_READ_BYTES) {
            return cqe->res < 0 ? cqe->res : -ENODATA;
        }
        done_bytes += cqe->user_data & UINT32_MAX;
        if (now_ns - begin_ns < raw->ns) {
            raw_queue(raw, cqe->user_data >> 32);
        }
        io_uring_cqe_seen(&raw->ring, cqe);
    }
    return done_bytes * 1e9 / (now_ns - begin_ns);
}

typedef struct RawThread {
    RawRead *raw;
    uint32_t slot;           /* which of the buffers */
    uint64_t done_bytes;
    uint64_t end_ns;
    int ret;
} RawThread;

static void *raw_thread_main(void *opaque)
{
    RawThread *t = opaque;
    RawRead *raw = t->raw;
    uint64_t begin_ns = bench_now_ns();

    do {
        guint idx = __atomic_fetch_add(&raw->next, 1, __ATOMIC_RELAXED) %
                    raw->stretches->len;
        const Stretch *stretch = &g_array_index(raw->stretches, Stretch, idx);

        t->ret = loader_read(raw->fd, raw->bufs + t->slot * RAW_READ_BYTES,
                             RAW_READ_BYTES, stretch->file_off);
        t->done_bytes += stretch->data_bytes;
        t->end_ns = bench_now_ns();
    } while (!t->ret && t->end_ns - begin_ns < raw->ns);
    return NULL;
}

/* As raw_sequential(), without io_uring: one thread for each slot. */
static double raw_sequential_threads(RawRead *raw)
{
    RawThread threads[RAW_DEPTH_MAX] = { 0 };
    GThread *handles[RAW_DEPTH_MAX];
    uint64_t begin_ns = bench_now_ns(), end_ns = begin_ns, done_bytes = 0;
    int ret = 0;
    uint32_t i;

    for (i = 0; i < raw->depth; i++) {
        threads[i] = (RawThread) { .raw = raw, .slot = i };
        handles[i] = g_thread_try_new("raw", raw_thread_main, &threads[i],
                                      NULL);
    }
    for (i = 0; i < raw->depth; i++) {
        if (!handles[i]) {
            ret = -EAGAIN;
            continue;
        }
        g_thread_join(handles[i]);
        ret = ret ? ret : threads[i].ret;
        done_bytes += threads[i].done_bytes;
        end_ns = MAX(end_ns, threads[i].end_ns);
    }
    return ret ? ret : done_bytes * 1e9 / (end_ns - begin_ns);
}

static int raw_random(RawRead *raw, uint64_t seed, Hist *hist)
{
    uint64_t begin_ns = bench_now_ns(), now_ns = begin_ns;

    while (now_ns - begin_ns < raw->ns) {
        const Stretch *stretch;
        uint64_t from_ns = now_ns;
        int ret;

        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        stretch = &g_array_index(raw->stretches, Stretch,
                                 (seed >> 33) % raw->stretches->len);
        ret = loader_read(raw->fd, raw->bufs, BENCH_PAGE_BYTES,
                          stretch->file_off + (seed >> 20) %
                          (RAW_READ_BYTES / BENCH_PAGE_BYTES) *
                          BENCH_PAGE_BYTES);
        if (ret) {
            return ret;
        }
        now_ns = bench_now_ns();
        hist_add(hist, now_ns - from_ns);
    }
    return 0;
}

/* 0 or -errno. */
static int storage_measure_raw(RawRead *raw, uint64_t seed,
                               StorageRates *rates)
{
    /* At another place each time, since a host may have one place cached. */
    raw->next = (seed + 1) * 0x9e3779b97f4a7c15ull % raw->stretches->len;
    if (io_uring_queue_init(raw->depth, &raw->ring, 0) == 0) {
        rates->sequential_bytes_per_s = raw_sequential(raw);
        io_uring_queue_exit(&raw->ring);
    } else {
        rates->sequential_bytes_per_s = raw_sequential_threads(raw);
    }
    if (rates->sequential_bytes_per_s < 0) {
        return rates->sequential_bytes_per_s;
    }
    return raw_random(raw, seed, &rates->random_4k);
}

bool storage_has_direct(const Snapshot *snapshot)
{
    int fd = open(snapshot->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    bool has_direct = fd >= 0 || errno != EINVAL;
    void *buf = NULL;

    /* Some file systems accept O_DIRECT in open() and refuse reads. */
    if (fd >= 0 && posix_memalign(&buf, BENCH_PAGE_BYTES,
                                  BENCH_PAGE_BYTES) == 0) {
        has_direct = pread(fd, buf, BENCH_PAGE_BYTES, 0) >= 0 ||
                     errno != EINVAL;
        free(buf);
    }
    if (fd >= 0) {
        close(fd);
    }
    return has_direct;
}

/* Far storage needs a larger queue depth. */
static uint32_t raw_depth(const Snapshot *snapshot)
{
    const StorageClass *class = snapshot->mount
        ? storage_mount_class(snapshot->mount) : NULL;
    double way_s = class ? (class->rtt_ns + class->jitter_ns) / 1e9 : 0;
    double way_bytes = way_s * (class ? class->rate_bytes_per_s : 0);

    return MIN(RAW_DEPTH + (uint64_t)(way_bytes / RAW_READ_BYTES),
               RAW_DEPTH_MAX);
}

bool storage_measure(const Snapshot *snapshot, uint64_t seed, uint64_t ns,
                     StorageRates *ret_rates, GError **error)
{
    g_autoptr(GArray) stretches = storage_stretches(snapshot);
    StorageRates rates = { 0 };
    RawRead raw = {
        .stretches = stretches, .depth = raw_depth(snapshot), .ns = ns,
    };
    int ret;

    if (!stretches->len) {
        *ret_rates = rates; /* the file is too small for a measurement */
        return true;
    }
    raw.fd = open(snapshot->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (raw.fd < 0) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot open %s with O_DIRECT: %s; put it on a file "
                    "system that has it", snapshot->label, g_strerror(errno));
        return false;
    }
    /* Huge pages, since a read into small pages is split up. */
    raw.bufs = memory_map(raw.depth * RAW_READ_BYTES, error);
    if (!raw.bufs) {
        close(raw.fd);
        return false;
    }
    memset(raw.bufs, 1, raw.depth * RAW_READ_BYTES);
    ret = storage_measure_raw(&raw, seed, &rates);
    close(raw.fd);
    munmap(raw.bufs, raw.depth * RAW_READ_BYTES);
    if (ret) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot measure the storage of %s: %s", snapshot->label,
                    g_strerror(-ret));
        return false;
    }
    *ret_rates = rates;
    return true;
}
