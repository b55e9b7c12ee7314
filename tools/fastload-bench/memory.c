/*
 * fastload-bench: guest memory, and proof that it holds the right bytes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The right contents of each page are read from the file once and kept as a
 * 64-bit hash, so that checking after a run takes one pass over memory and no
 * reads.  Fails when the file cannot be read or a page is wrong.
 */
#include "bench.h"

#define HASH_LANES 4
#define HASH_PRIME 0x9fb21c651e98df25ull
#define SUMS_READ_BYTES (4u << 20)
#define VERIFY_THREAD_COUNT 2
#define FINGERPRINT_DIGITS 32

struct PageSums {
    uint64_t *sums;          /* one for each page of the guest */
    size_t len_bytes;
    uint64_t zero_sum;
};

static inline uint64_t hash_turn(uint64_t x)
{
    return x << 29 | x >> 35;
}

uint64_t memory_hash_page(const void *page)
{
    const uint64_t *words = page;
    uint64_t lanes[HASH_LANES] = { 1, 2, 3, 4 };
    uint64_t sum = 0;
    uint32_t i, lane;

    for (i = 0; i < BENCH_PAGE_BYTES / sizeof(*words); i += HASH_LANES) {
        for (lane = 0; lane < HASH_LANES; lane++) {
            lanes[lane] = hash_turn((lanes[lane] ^ words[i + lane]) *
                                    HASH_PRIME);
        }
    }
    for (lane = 0; lane < HASH_LANES; lane++) {
        sum = hash_turn((sum ^ lanes[lane]) * HASH_PRIME);
        sum ^= sum >> 32;
    }
    return sum;
}

uint8_t *memory_map(uint64_t len_bytes, GError **error)
{
    size_t all_bytes = len_bytes + BENCH_HUGE_BYTES;
    uint8_t *all = mmap(NULL, all_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *hva;

    if (all == MAP_FAILED) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot map %" PRIu64 " MiB of guest memory: %s; choose "
                    "a smaller snapshot", len_bytes >> 20, g_strerror(errno));
        return NULL;
    }
    hva = (uint8_t *)(((uintptr_t)all + BENCH_HUGE_BYTES - 1) &
                      ~(uintptr_t)(BENCH_HUGE_BYTES - 1));
    if (hva > all) {
        munmap(all, hva - all);
    }
    munmap(hva + len_bytes, all + all_bytes - (hva + len_bytes));
    /* As QEMU does; has no effect if huge pages are switched off. */
    (void)madvise(hva, len_bytes, MADV_HUGEPAGE);
    return hva;
}

static bool sums_read_run(PageSums *s, const Snapshot *snapshot,
                          uint8_t *buf, uint64_t page, uint64_t count,
                          uint64_t file_off, GError **error)
{
    uint64_t len_bytes = count << BENCH_PAGE_SHIFT;
    uint64_t at, i;

    for (at = 0; at < len_bytes; at += SUMS_READ_BYTES) {
        uint64_t try_bytes = MIN(len_bytes - at, SUMS_READ_BYTES);
        int ret = loader_read(snapshot->fd, buf, try_bytes, file_off + at);

        if (ret) {
            g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                        "cannot read %s at offset %" PRIu64 ": %s",
                        snapshot->label, file_off + at,
                        ret == -ENODATA ? "the file ends there"
                                        : g_strerror(-ret));
            return false;
        }
        for (i = 0; i < try_bytes; i += BENCH_PAGE_BYTES) {
            s->sums[page + ((at + i) >> BENCH_PAGE_SHIFT)] =
                memory_hash_page(buf + i);
        }
    }
    return true;
}

PageSums *memory_sums_new(const Snapshot *snapshot, GError **error)
{
    PageSums *s = g_new0(PageSums, 1);
    g_autofree uint8_t *buf = g_malloc0(SUMS_READ_BYTES);
    uint64_t page, last, count, file_off;
    uint32_t b;

    s->zero_sum = memory_hash_page(buf);
    s->len_bytes = (snapshot->guest_bytes >> BENCH_PAGE_SHIFT) *
                   sizeof(*s->sums);
    /* Shared, so that the processes of the runs do not copy it. */
    s->sums = mmap(NULL, s->len_bytes, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (s->sums == MAP_FAILED) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot map %zu bytes for checksums: %s", s->len_bytes,
                    g_strerror(errno));
        g_free(s);
        return NULL;
    }
    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];

        page = block->guest_off >> BENCH_PAGE_SHIFT;
        last = page + (block->len_bytes >> BENCH_PAGE_SHIFT);
        for (; page < last; page += count) {
            if (snapshot_run(snapshot, block, page, &count, &file_off) &&
                !sums_read_run(s, snapshot, buf, page, count, file_off,
                               error)) {
                memory_sums_free(s);
                return NULL;
            }
        }
    }
    return s;
}

char *memory_fingerprint(const Snapshot *snapshot, const PageSums *sums)
{
    g_autoptr(GChecksum) all = g_checksum_new(G_CHECKSUM_SHA256);
    uint32_t b;

    for (b = 0; b < snapshot->block_count; b++) {
        const SnapshotBlock *block = &snapshot->blocks[b];

        g_checksum_update(all, (const guchar *)block->name,
                          strlen(block->name) + 1);
        g_checksum_update(all, (const guchar *)&block->len_bytes,
                          sizeof(block->len_bytes));
    }
    /* A page without data has sum 0, a page of zeros in the file has not. */
    g_checksum_update(all, (const guchar *)sums->sums, sums->len_bytes);
    return g_strndup(g_checksum_get_string(all), FINGERPRINT_DIGITS);
}

void memory_sums_free(PageSums *s)
{
    if (s) {
        munmap(s->sums, s->len_bytes);
        g_free(s);
    }
}

typedef struct Verify {
    const Snapshot *snapshot;
    const PageSums *sums;
    const uint8_t *hva;
    const WriteCount *writes;
    const uint64_t *only;
    uint32_t share_idx;      /* this thread's, of VERIFY_THREAD_COUNT */
    uint64_t bad_page;
    bool is_bad;
} Verify;

static bool verify_page(const Verify *v, uint64_t page)
{
    const uint8_t *found = v->hva + (page << BENCH_PAGE_SHIFT);
    uint64_t sum = snapshot_has_page(v->snapshot, page) ? v->sums->sums[page]
                                                        : v->sums->zero_sum;
    uint64_t copy[BENCH_PAGE_BYTES / sizeof(uint64_t)];

    if (!v->writes || !v->writes[page]) {
        return memory_hash_page(found) == sum;
    }
    memcpy(copy, found, sizeof(copy));
    copy[GUEST_WRITE_OFF / sizeof(*copy)] -=
        v->writes[page] * GUEST_WRITE_STEP;
    return memory_hash_page(copy) == sum;
}

/* Checks every VERIFY_THREAD_COUNTth huge page of each block. */
static void *verify_share(void *opaque)
{
    Verify *v = opaque;
    uint64_t step = BENCH_HUGE_BYTES >> BENCH_PAGE_SHIFT;
    uint32_t b;

    for (b = 0; b < v->snapshot->block_count; b++) {
        const SnapshotBlock *block = &v->snapshot->blocks[b];
        uint64_t first = block->guest_off >> BENCH_PAGE_SHIFT;
        uint64_t last = first + (block->len_bytes >> BENCH_PAGE_SHIFT);
        uint64_t page = first + v->share_idx * step;

        for (; page < last; page += VERIFY_THREAD_COUNT * step) {
            uint64_t p, end = MIN(last, page + step);

            for (p = page; p < end; p++) {
                if (v->only && !(v->only[p / 64] >> (p % 64) & 1)) {
                    continue;
                }
                if (!verify_page(v, p)) {
                    v->bad_page = p;
                    v->is_bad = true;
                    return NULL;
                }
            }
        }
    }
    return NULL;
}

bool memory_verify(const Snapshot *snapshot, const PageSums *sums,
                   const uint8_t *hva, const WriteCount *writes,
                   const uint64_t *only, GError **error)
{
    Verify shares[VERIFY_THREAD_COUNT];
    GThread *threads[VERIFY_THREAD_COUNT];
    const Verify *bad = NULL;
    uint32_t i;

    for (i = 0; i < VERIFY_THREAD_COUNT; i++) {
        shares[i] = (Verify) { snapshot, sums, hva, writes, only, i, 0,
                               false };
        threads[i] = g_thread_new("verify", verify_share, &shares[i]);
    }
    for (i = 0; i < VERIFY_THREAD_COUNT; i++) {
        g_thread_join(threads[i]);
        if (shares[i].is_bad && !bad) {
            bad = &shares[i];
        }
    }
    if (bad) {
        const SnapshotBlock *block = snapshot_block_of(snapshot,
                                                       bad->bad_page);
        uint64_t guest_off = bad->bad_page << BENCH_PAGE_SHIFT;

        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "guest memory is WRONG: the page at offset 0x%" PRIx64
                    " of %s does not hold what the snapshot has%s",
                    guest_off - block->guest_off, block->name,
                    snapshot_has_page(snapshot, bad->bad_page)
                    ? "" : ", which is zeros");
    }
    return !bad;
}
