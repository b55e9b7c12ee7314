/*
 * fastload eager: memory that cannot be trapped, loaded before the guest runs.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As many threads as the load has workers take a chunk at a time in file
 * order.  Each reads into staging and copies from there, for three reasons:
 * holes that are read over must not reach memory; memory that should be zero is
 * written only if it is not, and not even looked at if it is empty; and
 * O_DIRECT must not read into a mapping of another file, and of its page cache.
 * The first failure ends it, and the contents of memory are undefined then.
 */
#include "qemu/osdep.h"
#include "qemu/fastload_int.h"

/* So often is the file checked while the answer is FASTLOAD_FILE_UNKNOWN. */
#define EAGER_CHECK_COUNT_MAX \
    (10 * FASTLOAD_PREFIX_WAIT_NS / FASTLOAD_BACKOFF_NS_MIN)

typedef struct EagerLoad {
    Fastload *fl;
    FastloadArea *area;
    /* atomic */
    uint64_t next_chunk;
    /* lock; taken with no other */
    GMutex lock;
    FastloadFailure failure; /* the first in the file; error_number 0: none */
} EagerLoad;

static bool eager_is_unwanted(const EagerLoad *load)
{
    return __atomic_load_n(&load->fl->is_unwanted, __ATOMIC_RELAXED);
}

static void eager_fail(EagerLoad *load, FastloadFailureKind kind,
                       int error_number, uint64_t file_off)
{
    g_mutex_lock(&load->lock);
    if (!load->failure.error_number || file_off < load->failure.file_off) {
        load->failure.kind = kind;
        load->failure.error_number = error_number;
        load->failure.file_off = file_off;
    }
    g_mutex_unlock(&load->lock);
    __atomic_store_n(&load->next_chunk, load->area->chunk_count,
                     __ATOMIC_RELAXED);
}

/* Returns 0 or a positive errno; *ret_done_bytes is set in either case. */
static int eager_read(const EagerLoad *load, int fd, uint8_t *dst,
                      uint64_t file_off, uint64_t len_bytes,
                      uint64_t *ret_done_bytes)
{
    uint32_t tries = 0, agains = 0;
    uint64_t at = 0;
    int error_number = 0;

    while (at < len_bytes && !error_number) {
        ssize_t got = pread(fd, dst + at, len_bytes - at, file_off + at);

        if (eager_is_unwanted(load)) {
            error_number = ECANCELED;
        } else if (got > 0) {
            at += got;
        } else if (got == 0) {
            error_number = ENODATA;
        } else if (errno == EINTR && ++agains < FASTLOAD_IO_AGAIN_MAX) {
            continue;
        } else if (++tries == FASTLOAD_READ_TRIES_MAX) {
            error_number = errno;
        }
    }
    __atomic_fetch_add(&load->fl->eager_read_bytes, at, __ATOMIC_RELAXED);
    *ret_done_bytes = at;
    return error_number;
}

static bool eager_read_extent(EagerLoad *load, FastloadSpan extent, int fd,
                              uint8_t *dst)
{
    Fastload *fl = load->fl;
    uint64_t file_off = load->area->file_off + extent.ram_off;
    uint64_t done_bytes;
    int error_number = eager_read(load, fd, dst, file_off, extent.len_bytes,
                                  &done_bytes);

    if (error_number && fd != fl->file.fd) {
        /* O_DIRECT may fail where a buffered read works. */
        error_number = eager_read(load, fl->file.fd, dst, file_off,
                                  extent.len_bytes, &done_bytes);
    }
    if (error_number) {
        eager_fail(load, FASTLOAD_FAILURE_READ, error_number,
                   file_off + done_bytes);
    }
    return !error_number;
}

static void eager_clear(uint8_t *page)
{
    /* Looks before it writes, since writing would populate memory. */
    if (page[0] || memcmp(page, page + 1, FASTLOAD_PAGE_BYTES_MIN - 1)) {
        memset(page, 0, FASTLOAD_PAGE_BYTES_MIN);
    }
}

static void eager_place(const FastloadArea *area, FastloadSpan span,
                        const uint8_t *buf)
{
    uint64_t at;

    for (at = 0; at < span.len_bytes; at += FASTLOAD_PAGE_BYTES_MIN) {
        uint64_t ram_off = span.ram_off + at;

        if (fastload_bit_test(area->data_bits,
                              ram_off >> area->granule_shift)) {
            memcpy(area->hva + ram_off, buf + at, FASTLOAD_PAGE_BYTES_MIN);
        } else if (!area->is_empty) {
            eager_clear(area->hva + ram_off);
        }
    }
}

static bool eager_load_chunk(EagerLoad *load, uint64_t chunk_idx,
                             uint8_t *buf)
{
    FastloadArea *area = load->area;
    FastloadSpan extents[FASTLOAD_EXTENT_COUNT_MAX];
    FastloadRead read = {
        .area = area,
        .span = fastload_plan_chunk_span(area, chunk_idx),
        .extents = extents,
    };
    unsigned char present[FASTLOAD_CHUNK_PAGE_COUNT_MAX];
    uint32_t i;

    /* memcpy() to an address that is not mapped would end the process. */
    if (mincore(area->hva + read.span.ram_off, read.span.len_bytes,
                present) < 0) {
        eager_fail(load, FASTLOAD_FAILURE_PLACE, EFAULT,
                   area->file_off + read.span.ram_off);
        return false;
    }
    read.extent_count = fastload_plan_extents(area, read.span,
                                              FASTLOAD_GAP_BYTES_MAX, extents);
    fastload_file_choose(load->fl, &read);
    for (i = 0; i < read.extent_count; i++) {
        if (!eager_read_extent(load, extents[i], read.is_direct
                               ? load->fl->file.direct_fd : load->fl->file.fd,
                               buf + (extents[i].ram_off -
                                      read.span.ram_off))) {
            return false;
        }
    }
    eager_place(area, read.span, buf);
    __atomic_fetch_add(&load->fl->eager_bytes,
                       fastload_plan_data_bytes(area, read.span),
                       __ATOMIC_RELAXED);
    return true;
}

static void *eager_main(void *opaque)
{
    EagerLoad *load = opaque;
    /* Twice as much, to align it: O_DIRECT is fast into huge pages. */
    const size_t map_bytes = 2 * FASTLOAD_CHUNK_BYTES;
    uint8_t *map = fastload_pool_map(map_bytes, NULL);
    uint8_t *buf = (uint8_t *)(((uintptr_t)map + FASTLOAD_CHUNK_BYTES - 1) /
                               FASTLOAD_CHUNK_BYTES * FASTLOAD_CHUNK_BYTES);
    uint64_t chunk_idx;

    if (!map) {
        eager_fail(load, FASTLOAD_FAILURE_READ, ENOMEM, load->area->file_off);
        return NULL;
    }
    madvise(map, map_bytes, MADV_HUGEPAGE);
    do {
        chunk_idx = __atomic_fetch_add(&load->next_chunk, 1,
                                       __ATOMIC_RELAXED);
    } while (chunk_idx < load->area->chunk_count &&
             !eager_is_unwanted(load) &&
             eager_load_chunk(load, chunk_idx, buf));
    munmap(map, map_bytes);
    return NULL;
}

/* Calls placed_func for each stretch of one kind, on the caller's thread. */
static void eager_report(const Fastload *fl, const FastloadArea *area)
{
    uint64_t first, last;

    for (first = 0; first < area->page_count; first = last) {
        bool has_data = fastload_plan_page_has_data(area, first);

        last = first + 1;
        while (last < area->page_count &&
               fastload_plan_page_has_data(area, last) == has_data) {
            last++;
        }
        fl->config.placed_func(area->hva + (first << area->page_shift),
                               (last - first) << area->page_shift,
                               FASTLOAD_CLASS_BACKGROUND, has_data,
                               fl->config.placed_opaque);
    }
}

/* Was the file changed?  While that is not known yet, asks again soon. */
static bool eager_is_file_changed(const EagerLoad *load)
{
    FastloadFileState state = FASTLOAD_FILE_UNKNOWN;
    uint32_t i;

    for (i = 0; i < EAGER_CHECK_COUNT_MAX && !eager_is_unwanted(load) &&
                state == FASTLOAD_FILE_UNKNOWN; i++) {
        if (i) {
            g_usleep(FASTLOAD_BACKOFF_NS_MIN / 1000);
        }
        state = fastload_file_check(load->fl, 0);
    }
    return state != FASTLOAD_FILE_SAME;
}

bool fastload_eager_load(Fastload *fl, FastloadArea *area,
                         FastloadFailure *ret_failure)
{
    EagerLoad load = { .fl = fl, .area = area };
    GThread *threads[FASTLOAD_WORKER_COUNT_MAX] = { NULL };
    uint32_t i;

    g_mutex_init(&load.lock);
    for (i = 1; i < MIN(fl->config.worker_count, area->chunk_count); i++) {
        /* If it cannot be created, the other threads do all the work. */
        threads[i] = fastload_session_thread("fastload-eager", eager_main,
                                             &load, NULL);
    }
    eager_main(&load);
    for (i = 1; i < FASTLOAD_WORKER_COUNT_MAX; i++) {
        if (threads[i]) {
            g_thread_join(threads[i]);
        }
    }
    if (!load.failure.error_number && eager_is_file_changed(&load)) {
        eager_fail(&load, FASTLOAD_FAILURE_CHANGED, ESTALE, 0);
    }
    g_mutex_clear(&load.lock);
    if (eager_is_unwanted(&load)) {
        return true; /* what is there does not matter any more */
    }
    if (load.failure.error_number) {
        *ret_failure = load.failure;
        return false;
    }
    if (fl->config.placed_func) {
        eager_report(fl, area);
    }
    return true;
}
