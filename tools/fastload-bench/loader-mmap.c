/*
 * mmap: the file is mapped privately over guest memory, and the kernel does
 * the rest: reads on fault with its own readahead, copies on write; no end.
 * Source: Firecracker docs/snapshotting, "Handling snapshot memory loading";
 * Cloud Hypervisor memory_restore_mode=copyonwrite, pull request 8581.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * As in the sources: no advice to the kernel about the mapping, no huge pages.
 * Their file is an image of memory.  In a mapped-ram file, a page that is zero
 * by the bitmap may have old bytes: such runs are mapped anonymously again, and
 * a part of a block behind the end of the file stays anonymous.  Where that
 * would take too many mappings, shorter runs are overwritten with zeros in the
 * private mapping instead.
 */
#include "bench.h"

/* How many mappings this may use; the rest of the process needs some, too. */
#define MMAP_COUNT_DEFAULT_MAX (65530 / 2)

/* A part of the file that is no hole: [begin, end). */
typedef struct MmapExtent {
    uint64_t begin;
    uint64_t end;
} MmapExtent;

/* A run of zero pages in whose place the file has bytes. */
typedef struct MmapStale {
    uint64_t guest_off;
    uint64_t len_bytes;
} MmapStale;

typedef struct MmapLoad {
    LoaderRun *run;
    int fd;
    MmapExtent extent;
    GArray *stales;          /* of MmapStale */
} MmapLoad;

/*
 * Does [file_off, +len_bytes) have anything but holes?  Called in ascending
 * order inside a block, so that each extent is looked up once.
 */
static bool mmap_has_bytes(MmapLoad *l, uint64_t file_off, uint64_t len_bytes)
{
    /* The real design need not ask: do not ask simulated storage, then. */
    int fd = l->run->snapshot->mount
        ? storage_mount_file(l->run->snapshot->mount) : l->fd;

    while (l->extent.end <= file_off) {
        off_t begin = lseek(fd, file_off, SEEK_DATA);
        off_t end = begin < 0 ? -1 : lseek(fd, begin, SEEK_HOLE);

        if (begin < 0 && errno == ENXIO) {
            /* Only holes up to the end of the file. */
            l->extent.begin = l->extent.end = UINT64_MAX;
        } else if (begin < 0 || end <= begin) {
            /* The file system does not tell: all of it may have bytes. */
            l->extent.begin = 0;
            l->extent.end = UINT64_MAX;
        } else {
            l->extent.begin = begin;
            l->extent.end = end;
        }
    }
    return l->extent.begin < file_off + len_bytes;
}

static bool mmap_file(MmapLoad *l, uint64_t guest_off, uint64_t len_bytes,
                      uint64_t file_off, GError **error)
{
    void *hva = l->run->hva + guest_off;

    if (len_bytes &&
        mmap(hva, len_bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, l->fd, file_off) !=
        hva) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: cannot map %" PRIu64 " bytes at %#" PRIx64
                    " of %s: %s; the sysctl vm.max_map_count may be low",
                    l->run->variant->loader->name, len_bytes, file_off,
                    l->run->snapshot->label, g_strerror(errno));
        return false;
    }
    return true;
}

static void mmap_find_stale(MmapLoad *l, const SnapshotBlock *block,
                            uint64_t mapped_bytes)
{
    uint64_t page = block->guest_off >> BENCH_PAGE_SHIFT;
    uint64_t end = page + (mapped_bytes >> BENCH_PAGE_SHIFT);

    l->extent.begin = l->extent.end = 0;
    while (page < end) {
        uint64_t count, file_off;
        bool has_data = snapshot_run(l->run->snapshot, block, page, &count,
                                     &file_off);
        MmapStale stale = {
            .guest_off = page << BENCH_PAGE_SHIFT,
            .len_bytes = MIN(count, end - page) << BENCH_PAGE_SHIFT,
        };

        if (!has_data && mmap_has_bytes(l, file_off, stale.len_bytes)) {
            g_array_append_val(l->stales, stale);
        }
        page += count;
    }
}

/* Maps anonymous memory again, with huge pages where they fit. */
static bool mmap_zero(MmapLoad *l, const MmapStale *stale, GError **error)
{
    void *hva = l->run->hva + stale->guest_off;

    if (mmap(hva, stale->len_bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1,
             0) != hva) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "%s: cannot map %" PRIu64 " bytes of zeros: %s; the "
                    "sysctl vm.max_map_count may be low",
                    l->run->variant->loader->name, stale->len_bytes,
                    g_strerror(errno));
        return false;
    }
    if (stale->len_bytes >= BENCH_HUGE_BYTES) {
        (void)madvise(hva, stale->len_bytes, MADV_HUGEPAGE);
    }
    return true;
}

/* How much of a block lies in the file, up to the end of its last page. */
static uint64_t mmap_mapped_bytes(const Snapshot *snapshot,
                                  const SnapshotBlock *block)
{
    uint64_t file_end = (snapshot->file_bytes + BENCH_PAGE_BYTES - 1) &
                        ~(uint64_t)(BENCH_PAGE_BYTES - 1);

    return MIN(block->len_bytes, file_end - MIN(file_end, block->file_off));
}

/* The length from which on a stale run gets a mapping of its own. */
static uint64_t mmap_choose_bytes(const GArray *stales)
{
    g_autofree char *text = NULL;
    uint64_t map_count_max = MMAP_COUNT_DEFAULT_MAX, counts[64] = { 0 };
    uint64_t left_count = stales->len;
    uint32_t i, log2 = 0;

    if (g_file_get_contents("/proc/sys/vm/max_map_count", &text, NULL,
                            NULL)) {
        map_count_max = g_ascii_strtoull(text, NULL, 10) / 2;
    }
    for (i = 0; i < stales->len; i++) {
        counts[g_bit_storage(g_array_index(stales, MmapStale, i).len_bytes) -
               1]++;
    }
    /* Each one is a mapping, and so is the part that follows it. */
    while (2 * left_count > map_count_max && log2 < 63) {
        left_count -= counts[log2++];
    }
    return 1ull << log2;
}

static bool mmap_load(MmapLoad *l, GError **error)
{
    const Snapshot *snapshot = l->run->snapshot;
    uint64_t min_bytes;
    uint32_t i;

    for (i = 0; i < snapshot->block_count; i++) {
        const SnapshotBlock *block = &snapshot->blocks[i];
        uint64_t mapped_bytes = mmap_mapped_bytes(snapshot, block);

        if (block->is_left_out) {
            continue; /* anonymous memory is zero already */
        }
        if (!mmap_file(l, block->guest_off, mapped_bytes, block->file_off,
                       error)) {
            return false;
        }
        mmap_find_stale(l, block, mapped_bytes);
    }
    min_bytes = mmap_choose_bytes(l->stales);
    for (i = 0; i < l->stales->len; i++) {
        const MmapStale *stale = &g_array_index(l->stales, MmapStale, i);

        if (stale->len_bytes < min_bytes) {
            memset(l->run->hva + stale->guest_off, 0, stale->len_bytes);
            loader_note(l->run, stale->guest_off, stale->len_bytes,
                        ARRIVAL_BEFORE, false);
        } else if (!mmap_zero(l, stale, error)) {
            return false;
        }
    }
    return true;
}

/*
 * The mappings stay until guest memory is unmapped.  They need no descriptor,
 * so there is nothing to stop, for mmap-ahead either, which begins with them.
 */
static bool loader_mmap_start(LoaderRun *run, GError **error)
{
    MmapLoad l = { .run = run, .fd = loader_open(run, error) };
    bool is_ok;

    l.stales = g_array_new(false, false, sizeof(MmapStale));
    is_ok = l.fd >= 0 && mmap_load(&l, error);
    g_array_free(l.stales, true);
    if (l.fd >= 0) {
        close(l.fd);
    }
    return is_ok;
}

static void loader_mmap_stop(LoaderRun *run)
{
}

const BenchLoader loader_mmap = {
    .name = "mmap",
    .summary = "Firecracker: the file mapped privately, the kernel's faults",
    .is_lazy = true,
    .has_end = false,
    .start = loader_mmap_start,
    .stop = loader_mmap_stop,
};
